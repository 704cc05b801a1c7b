"""The peer of vae_bench: diffusers' decoder at FLUX.1's size with random weights, one JSON line.

Use: diffusers_vae.py SIZE plain|tiled [THREADS [bf16|fp32 [REPEATS]]]
Memory is that of the first run, above what was resident when it began; the time is that of the
fastest of it and REPEATS others (1); 0: then turns (turns.py).
"""
import json
import pathlib
import re
import sys
import time

import torch
from diffusers import AutoencoderKL

from turns import timed_runs


def status(key):
    text = pathlib.Path("/proc/self/status").read_text()
    return int(re.search(rf"^{key}:\s*(\d+)", text, re.MULTILINE).group(1)) * 1024


def main():
    size, mode = int(sys.argv[1]), sys.argv[2]
    torch.set_num_threads(int(sys.argv[3]) if len(sys.argv) > 3 else 2)
    dtype = torch.float32 if sys.argv[4:5] == ["fp32"] else torch.bfloat16
    repeats = int(sys.argv[5]) if len(sys.argv) > 5 else 1
    torch.manual_seed(1)
    vae = AutoencoderKL(
        in_channels=3, out_channels=3, block_out_channels=(128, 256, 512, 512), layers_per_block=2,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=16, norm_num_groups=32, sample_size=1024, use_quant_conv=False, use_post_quant_conv=False,
    ).to(dtype).eval()
    if mode == "tiled":
        vae.enable_tiling()
    latents = torch.randn(1, 16, size // 8, size // 8).to(dtype)

    def decode():
        with torch.inference_mode():
            vae.decode(latents)

    pathlib.Path("/proc/self/clear_refs").write_text("5")
    before, start = status("VmRSS"), time.perf_counter()
    decode()
    first = time.perf_counter() - start
    peak = status("VmHWM") - before
    print(json.dumps({"seconds": min([first, *timed_runs(repeats, decode)]),
                      "peak_rss_delta": peak}))


if __name__ == "__main__":
    main()
