#!/usr/bin/env python3
"""Puts trained weights, VAE, tokenizers and scheduler together as a diffusers FLUX pipeline in
bf16, as models/emoji has it."""

import argparse
import json
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline
from safetensors.torch import load_file

from steadytrain import concepts, models


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, required=True, help="ema.safetensors")
    parser.add_argument("--vae", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tokenizers", type=Path, help="take them from this pipeline folder")
    parser.add_argument("--size", type=int, default=64, help="default width and height")
    parser.add_argument("--words", type=Path, help="the list of things that was trained")
    args = parser.parse_args(arguments)
    if args.out.exists():
        raise SystemExit(f"{args.out} exists already: remove it or choose another folder")
    clip_tokenizer, t5_tokenizer = models.load_tokenizers(args.tokenizers)
    weights = {n: w for n, w in load_file(args.weights).items() if not n.startswith("reader.")}
    model = models.TextToLatents.of_shape(weights)
    model.load_state_dict(weights)
    pipeline = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0, use_dynamic_shifting=False),
        vae=AutoencoderKL.from_pretrained(args.vae),
        text_encoder=model.clip,
        tokenizer=clip_tokenizer,
        text_encoder_2=model.t5,
        tokenizer_2=t5_tokenizer,
        transformer=model.transformer,
    ).to(torch.bfloat16)
    pipeline.save_pretrained(args.out)
    # transformers 5 saves tokenizer.json only; the original formats go beside it.
    clip_folder, t5_folder = models.tokenizer_folders(args.tokenizers)
    for file in ("vocab.json", "merges.txt"):
        shutil.copy(clip_folder / file, args.out / "tokenizer" / file)
    shutil.copy(t5_folder / "spiece.model", args.out / "tokenizer_2/spiece.model")
    for file in args.out.glob("*/config.json"):
        config = json.loads(file.read_text())
        if config.pop("_name_or_path", None):  # a path of the machine that trained
            file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    defaults = dict(
        width=args.size,
        height=args.size,
        num_inference_steps=8,
        guidance_scale=0.0,
        max_sequence_length=models.T5_LENGTH,
    )
    (args.out / "steadyflux.json").write_text(json.dumps(defaults, indent=2) + "\n")
    # Which things it can draw, for evaluate_model.py.
    things = "\n".join(concept.word for concept in concepts.load(args.words))
    (args.out / "words.txt").write_text(things + "\n")
    print(f"pipeline in {args.out}")


if __name__ == "__main__":
    main()
