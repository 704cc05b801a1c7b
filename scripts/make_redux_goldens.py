#!/usr/bin/env python3
"""Writes a tiny FLUX.1-Redux, what transformers and diffusers compute with it, and pictures of
FluxPriorReduxPipeline with the pipelines that take what it gives.

    scripts/make_redux_goldens.py tests/goldens/redux

It wants the packages of make_goldens.py. FLUX.1 itself is the goldens' model b and its variants
(tests/cli/variant_models.py), in fp32 on the CPU; pictures that go in are those of
goldens/variants. manifest.json lists the pictures with the options that make them again;
tests/cli/redux_cases.py does so. goldens.safetensors has the stages of photo.png, RUN.STAGE, RUN
being fp32 or bf16:

    RUN.pixel_values       [1, 3, 20, 20]
    RUN.last_hidden_state  [1, 9, 12]
    RUN.image_embeds       [1, 9, 20]
"""

import sys
import tempfile
from pathlib import Path

import diffusers
import torch
from diffusers.pipelines.flux.modeling_flux import ReduxImageEncoder
from goldens.picture_manifest import write_manifest
from PIL import Image
from safetensors.torch import save_file
from transformers import SiglipImageProcessor, SiglipVisionConfig, SiglipVisionModel

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY / "tests/cli"))

from variant_models import CLASSES, make_variant  # noqa: E402

PICTURES = REPOSITORY / "tests/goldens/variants"
SEED, TOKENS = 5, 512  # the length is fixed in FluxPriorReduxPipeline
# Pixels beyond the last whole patch, more rows than heads, and no side like another.
SIGLIP = dict(hidden_size=12, num_attention_heads=3, num_hidden_layers=2, intermediate_size=28,
              image_size=20, patch_size=6)
TEXT_WIDTH, POOLED_WIDTH = 20, 12  # of model b

# Model, prompt (None: zeros), pictures with their scales, and further options.
CASES = [("dev", "a red apple", [("photo.png", 1.0)], {}),
         ("dev", None, [("tall.png", 1.0)], {}),
         ("dev", "a red apple", [("photo.png", 0.6), ("tall.png", 0.75)], {}),
         ("dev", "a red apple", [("photo.png", 1.0)],
          {"negative-prompt": "blue", "true-cfg-scale": 2.5}),
         ("kontext", "a red apple", [("tall.png", 1.0)],
          {"reference": "photo.png", "reference-size": "own"}),
         ("control", None, [("photo.png", 0.8)], {"control-image": "depth.png"})]
WIDTH, HEIGHT, STEPS, GUIDANCE = 48, 32, 3, 2.5


def randomise(module, generator):
    with torch.no_grad():
        for name, weight in module.named_parameters():
            values = torch.randn(weight.shape, generator=generator)
            if weight.dim() > 1:
                values *= weight[0].numel() ** -0.5
            elif "norm" in name and name.endswith("weight"):
                values = 1 + 0.2 * values
            else:
                values *= 0.1
            weight.copy_(values)


def make_model(root):
    """A folder of the diffusers layout, in bf16 for its size."""
    generator = torch.Generator().manual_seed(29)
    encoder = SiglipVisionModel(SiglipVisionConfig(**SIGLIP, vision_use_head=False))
    embedder = ReduxImageEncoder(redux_dim=SIGLIP["hidden_size"], txt_in_features=TEXT_WIDTH)
    for module in (encoder, embedder):
        randomise(module, generator)
    side = SIGLIP["image_size"]
    processor = SiglipImageProcessor(size={"height": side, "width": side})
    diffusers.FluxPriorReduxPipeline(
        image_encoder=encoder.to(torch.bfloat16), feature_extractor=processor,
        image_embedder=embedder.to(torch.bfloat16)).save_pretrained(root)
    for path in root.rglob("*.safetensors"):
        path.chmod(0o644)


def picture(name):
    return Image.open(PICTURES / name).convert("RGB")


def load_prior(root, dtype, **parts):
    prior = diffusers.FluxPriorReduxPipeline.from_pretrained(root, torch_dtype=dtype, **parts)
    return prior


def stages(root):
    tensors = {}
    for run, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        prior = load_prior(root, dtype)
        pixels = prior.feature_extractor.preprocess(
            images=picture("photo.png"), do_resize=True, return_tensors="pt",
            do_convert_rgb=True)["pixel_values"]
        hidden = prior.encode_image(picture("photo.png"), "cpu", 1)
        tensors[f"{run}.pixel_values"] = pixels.to(dtype)
        tensors[f"{run}.last_hidden_state"] = hidden
        tensors[f"{run}.image_embeds"] = prior.image_embedder(hidden).image_embeds
    return {name: tensor.detach().contiguous() for name, tensor in tensors.items()}


def draw(prior, pipeline, kind, prompt, images, options):
    given = {"prompt": prompt}
    if prompt is None:  # what the prior has without text encoders, in this model's widths
        given = {"prompt_embeds": torch.zeros(1, TOKENS, TEXT_WIDTH),
                 "pooled_prompt_embeds": torch.zeros(1, POOLED_WIDTH)}
    output = prior([picture(name) for name, _ in images],
                   prompt_embeds_scale=[scale for _, scale in images],
                   pooled_prompt_embeds_scale=[1.0] * len(images), **given)
    more = {}
    if "negative-prompt" in options:
        more = {"negative_prompt": options["negative-prompt"],
                "true_cfg_scale": options["true-cfg-scale"], "max_sequence_length": TOKENS}
    if kind == "kontext":
        more = {"image": picture(options["reference"]), "max_area": WIDTH * HEIGHT,
                "_auto_resize": False}
    if kind == "control":
        more = {"control_image": picture(options["control-image"])}
    return pipeline(**output, **more, width=WIDTH, height=HEIGHT, num_inference_steps=STEPS,
                    guidance_scale=GUIDANCE,
                    generator=torch.Generator().manual_seed(SEED)).images[0]


def main():
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    root = folder / "model"
    make_model(root)
    save_file(stages(root), folder / "goldens.safetensors")
    (folder / "goldens.safetensors").chmod(0o644)
    classes = {"dev": "FluxPipeline", **CLASSES}
    pictures = []
    with tempfile.TemporaryDirectory() as models:
        for number, (kind, prompt, images, options) in enumerate(CASES, start=1):
            model = REPOSITORY / "tests/goldens/b/model"
            if kind != "dev":
                model = Path(models) / kind
                make_variant(kind, model)
            pipeline = getattr(diffusers, classes[kind]).from_pretrained(
                model, torch_dtype=torch.float32)
            pipeline.set_progress_bar_config(disable=True)
            prior = load_prior(root, torch.float32, text_encoder=pipeline.text_encoder,
                               text_encoder_2=pipeline.text_encoder_2,
                               tokenizer=pipeline.tokenizer, tokenizer_2=pipeline.tokenizer_2)
            name = f"{kind}-{number}.png"
            draw(prior, pipeline, kind, prompt, images, options).save(folder / name)
            pictures.append({"file": name, "model": kind, "prompt": prompt, "images": images,
                             "options": options})
    write_manifest(folder, pictures, with_pillow=True, width=WIDTH, height=HEIGHT, steps=STEPS,
                   guidance=GUIDANCE, seed=SEED, max_sequence_length=TOKENS)


if __name__ == "__main__":
    main()
