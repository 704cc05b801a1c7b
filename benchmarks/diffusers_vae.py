"""The peer of vae_bench: diffusers' decoder at FLUX.1's size with random weights, one JSON line.

Use: diffusers_vae.py SIZE plain|tiled [THREADS [bf16|fp32]]
Memory is that of the first run, above what was resident when it began; the time is that of the
fastest of two.
"""
import json
import pathlib
import re
import sys
import time

import torch
from diffusers import AutoencoderKL


def status(key):
    text = pathlib.Path("/proc/self/status").read_text()
    return int(re.search(rf"^{key}:\s*(\d+)", text, re.MULTILINE).group(1)) * 1024


def main():
    size, mode = int(sys.argv[1]), sys.argv[2]
    torch.set_num_threads(int(sys.argv[3]) if len(sys.argv) > 3 else 2)
    dtype = torch.float32 if sys.argv[4:] == ["fp32"] else torch.bfloat16
    torch.manual_seed(1)
    vae = AutoencoderKL(
        in_channels=3, out_channels=3, block_out_channels=(128, 256, 512, 512), layers_per_block=2,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=16, norm_num_groups=32, sample_size=1024, use_quant_conv=False, use_post_quant_conv=False,
    ).to(dtype).eval()
    if mode == "tiled":
        vae.enable_tiling()
    latents = torch.randn(1, 16, size // 8, size // 8).to(dtype)
    seconds, peak = [], 0
    for run in range(2):
        pathlib.Path("/proc/self/clear_refs").write_text("5")
        before, start = status("VmRSS"), time.perf_counter()
        with torch.inference_mode():
            vae.decode(latents)
        seconds.append(time.perf_counter() - start)
        if run == 0:
            peak = status("VmHWM") - before
    print(json.dumps({"seconds": min(seconds), "peak_rss_delta": peak}))


if __name__ == "__main__":
    main()
