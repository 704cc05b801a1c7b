#!/usr/bin/env python3
"""Prints the PSNR of VAEs on the same held-out scenes of 128 x 128 pixels."""

import argparse

import torch
from diffusers import AutoencoderKL

from steadytrain import concepts, reconstruction, scenes


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("vaes", nargs="+", help="folders")
    parser.add_argument("--words", help="a list of things (default: all)")
    parser.add_argument("--scenes", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtype", default="bfloat16", help="what the weights are rounded to")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    maker = scenes.SceneMaker(concepts.load(args.words))
    pictures = reconstruction.validation_pictures(maker, args.scenes)
    for folder in args.vaes:
        vae = AutoencoderKL.from_pretrained(folder).to(getattr(torch, args.dtype)).float().eval()
        print(f"{reconstruction.psnr(vae, pictures)[0]:.2f} dB  {folder}", flush=True)


if __name__ == "__main__":
    main()
