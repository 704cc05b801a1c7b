#!/usr/bin/env python3
"""Writes a small picture, a mask, and what diffusers makes of them: image to image, inpainting.

    scripts/make_image_goldens.py tests/goldens/image_to_image

It wants the packages of make_goldens.py. Models are those of goldens/a and goldens/b, in fp32 on
the CPU. manifest.json lists the pictures with all that they were made with;
tests/cli/image_cases.py makes them again.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from diffusers import FluxImg2ImgPipeline, FluxInpaintPipeline
from goldens.picture_manifest import write_manifest
from PIL import Image

GOLDENS = Path(__file__).resolve().parent.parent / "tests/goldens"
PROMPT, SEED, GUIDANCE, TOKENS = "a red apple", 11, 2.5, 24
# Width, height, strength, steps, with a mask; the last two are of another size than the picture.
CASES = [(48, 32, 0.6, 5, False), (48, 32, 0.3, 4, False), (48, 32, 0.6, 5, True),
         (48, 32, 1.0, 3, True), (32, 64, 0.6, 5, False), (32, 64, 0.3, 4, True)]


def make_inputs(folder):
    random = np.random.default_rng(3)
    coarse = Image.fromarray((random.random((5, 7, 3)) * 255).astype(np.uint8))
    coarse.resize((48, 32), Image.BICUBIC).save(folder / "picture.png")
    mask = np.zeros((32, 48, 3), np.uint8)
    mask[8:24, 10:35] = 255
    mask[8:24, 35:38] = 120  # dark enough to be kept
    Image.fromarray(mask).save(folder / "mask.png")


def draw(model, folder, width, height, strength, steps, with_mask):
    pipeline_class = FluxInpaintPipeline if with_mask else FluxImg2ImgPipeline
    pipeline = pipeline_class.from_pretrained(GOLDENS / model / "model",
                                              torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    mask = {"mask_image": Image.open(folder / "mask.png")} if with_mask else {}
    return pipeline(prompt=PROMPT, image=Image.open(folder / "picture.png"), strength=strength,
                    width=width, height=height, num_inference_steps=steps, guidance_scale=GUIDANCE,
                    max_sequence_length=TOKENS, generator=torch.Generator().manual_seed(SEED),
                    **mask).images[0], pipeline.transformer.config.guidance_embeds


def main():
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    make_inputs(folder)
    pictures = []
    for model in ("a", "b"):
        for number, (width, height, strength, steps, with_mask) in enumerate(CASES, start=1):
            picture, takes_guidance = draw(model, folder, width, height, strength, steps, with_mask)
            name = f"{model}-{number}.png"
            picture.save(folder / name)
            pictures.append({"file": name, "model": model, "width": width, "height": height,
                             "strength": strength, "steps": steps, "mask": with_mask,
                             "guidance": GUIDANCE if takes_guidance else None})
    write_manifest(folder, pictures, with_pillow=True, prompt=PROMPT, seed=SEED,
                   max_sequence_length=TOKENS)


if __name__ == "__main__":
    main()
