#!/usr/bin/env python3
"""Writes small pictures, the weights that tell tiny variants of FLUX.1 from each other, and what
diffusers makes with them: Kontext, Fill, Depth and Canny.

    scripts/make_variant_goldens.py tests/goldens/variants

It wants the packages of make_goldens.py. Models are those of tests/cli/variant_models.py, in fp32
on the CPU. manifest.json lists the pictures with the options that make them again;
tests/cli/variant_cases.py does so.
"""

import sys
import tempfile
from pathlib import Path

import diffusers
import numpy as np
import torch
from goldens.picture_manifest import write_manifest
from PIL import Image
from safetensors.torch import save_file

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY / "tests/cli"))

from variant_models import CLASSES, make_variant  # noqa: E402

PROMPT, SEED, TOKENS = "a red apple", 11, 24
IN_CHANNELS = {"fill": 384, "control": 128}
# Model, width, height, steps, guidance, and what it is shown.
CASES = [("kontext", 48, 32, 4, 2.5, {"reference": "photo.png", "reference-size": "own"}),
         ("kontext", 32, 64, 3, 3.5, {"reference": "tall.png", "reference-size": "own"}),
         ("kontext", 48, 32, 2, 2.5, {"reference": "photo.png"}),
         ("kontext", 32, 32, 3, 2.5, {}),
         ("fill", 48, 32, 4, 30.0, {"image": "photo.png", "mask": "mask.png"}),
         ("fill", 32, 64, 3, 3.5, {"image": "tall.png", "mask": "mask.png"}),
         ("control", 48, 32, 4, 10.0, {"control-image": "depth.png"}),
         ("control", 64, 32, 3, 30.0, {"control-image": "edges.png"})]


def make_inputs(folder):
    random = np.random.default_rng(5)

    def blurred(width, height):
        coarse = Image.fromarray((random.random((5, 7, 3)) * 255).astype(np.uint8))
        return coarse.resize((width, height), Image.BICUBIC)

    blurred(53, 37).save(folder / "photo.png")
    blurred(32, 64).save(folder / "tall.png")
    mask = np.zeros((32, 48, 3), np.uint8)
    mask[7:24, 10:35] = 255
    mask[8:24, 35:38] = 120  # dark enough to be kept
    Image.fromarray(mask).save(folder / "mask.png")
    far = np.linspace(0, 255, 48)[None, :] * np.linspace(1, 0.3, 32)[:, None]
    Image.fromarray(np.repeat(far.astype(np.uint8)[..., None], 3, 2)).save(folder / "depth.png")
    edges = np.zeros((32, 64, 3), np.uint8)
    edges[6:26, [9, 40]] = 255
    edges[[6, 25], 9:40] = 255
    Image.fromarray(edges).save(folder / "edges.png")


def make_weights(folder):
    generator = torch.Generator().manual_seed(23)
    for kind, channels in IN_CHANNELS.items():
        weight = torch.randn((24, channels), generator=generator) / channels**0.5
        file = folder / f"{kind}-x_embedder.safetensors"
        save_file({"x_embedder.weight": weight.to(torch.bfloat16)}, file)
        file.chmod(0o644)


def draw(pipeline, kind, folder, width, height, steps, guidance, shown):
    pictures = {name: Image.open(folder / file).convert("RGB") for name, file in shown.items()
                if name != "reference-size"}
    if kind == "kontext":
        inputs = {"image": pictures.get("reference"), "max_area": width * height,
                  "_auto_resize": shown.get("reference-size") != "own"}
    elif kind == "fill":
        inputs = {"image": pictures["image"], "mask_image": pictures["mask"]}
    else:
        inputs = {"control_image": pictures["control-image"]}
    return pipeline(prompt=PROMPT, width=width, height=height, num_inference_steps=steps,
                    guidance_scale=guidance, max_sequence_length=TOKENS,
                    generator=torch.Generator().manual_seed(SEED), **inputs).images[0]


def main():
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    make_inputs(folder)
    make_weights(folder)
    pictures = []
    with tempfile.TemporaryDirectory() as models:
        for number, (kind, width, height, steps, guidance, shown) in enumerate(CASES, start=1):
            root = Path(models) / kind
            if not root.exists():
                make_variant(kind, root, folder)
            pipeline = getattr(diffusers, CLASSES[kind]).from_pretrained(
                root, torch_dtype=torch.float32)
            pipeline.set_progress_bar_config(disable=True)
            name = f"{kind}-{number}.png"
            draw(pipeline, kind, folder, width, height, steps, guidance, shown).save(folder / name)
            pictures.append({"file": name, "model": kind, "width": width, "height": height,
                             "steps": steps, "guidance": guidance, "shown": shown})
    write_manifest(folder, pictures, with_pillow=True, prompt=PROMPT, seed=SEED,
                   max_sequence_length=TOKENS)


if __name__ == "__main__":
    main()
