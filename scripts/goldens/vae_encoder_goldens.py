#!/usr/bin/env python3
"""Writes down what diffusers' VAE encoder makes of a picture, with the tiny models of tests/goldens.

    pip install -r scripts/requirements-goldens.txt
    scripts/goldens/vae_encoder_goldens.py          # the committed ones, tests/vae/goldens

Tensors: picture [2, 3, 40, 56] fp32, and RUN.moments [2, 32, 5, 7], RUN being fp32 or bf16: the dtype
the model was loaded with. Two pictures, whose rows at some levels are odd in number.
"""

from pathlib import Path

import torch
from diffusers import AutoencoderKL
from safetensors.torch import save_file

TOP = Path(__file__).resolve().parent.parent.parent


def main() -> None:
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(11)
    coarse = torch.randn(2, 3, 10, 14, generator=generator)
    picture = torch.nn.functional.interpolate(coarse, scale_factor=4, mode="bilinear").clamp(-1, 1)
    for model in ("a", "b"):
        tensors = {"picture": picture.contiguous()}
        for run, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
            vae = AutoencoderKL.from_pretrained(
                TOP / "tests/goldens" / model / "model/vae", torch_dtype=dtype, local_files_only=True
            )
            with torch.no_grad():
                moments = vae.encode(picture.to(dtype)).latent_dist.parameters
            tensors[f"{run}.moments"] = moments.contiguous()
        file = TOP / "tests/vae/goldens" / f"encoder_{model}.safetensors"
        file.parent.mkdir(exist_ok=True)
        save_file(tensors, file)
        file.chmod(0o644)
        print(f"{file}: {file.stat().st_size / 1024:.0f} KiB, moments up to {moments.abs().max():.2f}")


if __name__ == "__main__":
    main()
