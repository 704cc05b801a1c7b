#!/usr/bin/env python3
"""Writes what diffusers makes with a text of its own for T5 (prompt_2) and with true classifier-free
guidance (negative_prompt, true_cfg_scale): from noise, from a picture, and with a mask.

    scripts/make_guidance_goldens.py tests/goldens/true_cfg

It wants the packages of make_goldens.py. Models are those of goldens/a and goldens/b, in fp32 on
the CPU; picture and mask are those of goldens/image_to_image. manifest.json lists the pictures with
all that they were made with; tests/cli/guidance_cases.py makes them again.
"""

import sys
from pathlib import Path

import torch
from diffusers import FluxImg2ImgPipeline, FluxInpaintPipeline, FluxPipeline
from goldens.picture_manifest import write_manifest
from PIL import Image

GOLDENS = Path(__file__).resolve().parent.parent / "tests/goldens"
INPUTS = GOLDENS / "image_to_image"
SIZE, SEED, GUIDANCE, TOKENS = (48, 32), 11, 2.5, 24
PROMPT, OTHER = "a red apple", "three blue birds at night"
NEGATIVE, OTHER_NEGATIVE = "a street in the rain", "snow"
# Those of the pipelines' arguments that differ.
CASES = [
    {"prompt_2": OTHER},
    {"negative_prompt": NEGATIVE, "true_cfg_scale": 3.5},
    {"negative_prompt": "", "true_cfg_scale": 1.5},
    {"prompt_2": OTHER, "negative_prompt": NEGATIVE, "negative_prompt_2": OTHER_NEGATIVE,
     "true_cfg_scale": 2.0},
    {"negative_prompt": NEGATIVE, "true_cfg_scale": 3.5, "strength": 0.6},
    {"prompt_2": OTHER, "negative_prompt": NEGATIVE, "negative_prompt_2": OTHER_NEGATIVE,
     "true_cfg_scale": 2.0, "strength": 0.6, "mask": True},
]


def draw(model, case):
    arguments = dict(case)
    inputs = {}
    pipeline_class = FluxPipeline
    if "strength" in case:
        pipeline_class = FluxImg2ImgPipeline
        inputs["image"] = Image.open(INPUTS / "picture.png")
    if arguments.pop("mask", False):
        pipeline_class = FluxInpaintPipeline
        inputs["mask_image"] = Image.open(INPUTS / "mask.png")
    pipeline = pipeline_class.from_pretrained(GOLDENS / model / "model",
                                              torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    steps = 5 if inputs else 3
    picture = pipeline(prompt=PROMPT, width=SIZE[0], height=SIZE[1], num_inference_steps=steps,
                       guidance_scale=GUIDANCE, max_sequence_length=TOKENS,
                       generator=torch.Generator().manual_seed(SEED), **inputs,
                       **arguments).images[0]
    return picture, steps, pipeline.transformer.config.guidance_embeds


def main():
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    pictures = []
    for model in ("a", "b"):
        for number, case in enumerate(CASES, start=1):
            picture, steps, takes_guidance = draw(model, case)
            name = f"{model}-{number}.png"
            picture.save(folder / name)
            pictures.append({"file": name, "model": model, "steps": steps,
                             "guidance": GUIDANCE if takes_guidance else None, **case})
    write_manifest(folder, pictures, prompt=PROMPT, seed=SEED, width=SIZE[0], height=SIZE[1],
                   max_sequence_length=TOKENS)


if __name__ == "__main__":
    main()
