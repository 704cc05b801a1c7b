#!/usr/bin/env python3
"""Makes a tiny random FLUX pipeline and writes down what diffusers computes with it, stage by stage.

    python3 -m venv /tmp/goldens-venv && . /tmp/goldens-venv/bin/activate
    pip install -r scripts/requirements-goldens.txt
    scripts/make_goldens.py --preset a tests/goldens/a      # the committed ones
    scripts/make_goldens.py --preset b tests/goldens/b
    scripts/make_goldens.py --seed 7 /tmp/g7                # another shape, drawn with seed 7
    scripts/make_goldens.py --preset a --set num_layers=4 --set 'axes_dims_rope=[2,2,4]' /tmp/x

The folder gets model/ (the pipeline), goldens.safetensors and manifest.json (the request, the
versions and the numbers that are not tensors). Tensors are named RUN.STAGE, RUN being fp32, bf16
or fp16: the dtype the pipeline was loaded with, whatever the dtype of the files.

    RUN.clip_input_ids, RUN.t5_input_ids      [1, 77], [1, max_sequence_length]   int64
    RUN.prompt_embeds, RUN.pooled_prompt_embeds
    RUN.sigmas, RUN.timesteps                 fp32, as the scheduler holds them
    RUN.noise                                 [1, tokens, 64], packed
    RUN.temb                                  [1, inner_dim], step 0
    RUN.image_rotary_emb.cos, .sin            [text + image tokens, attention_head_dim]
    RUN.x_embedder, RUN.context_embedder, RUN.norm_out                           step 0
    RUN.transformer_blocks.I.{hidden_states,encoder_hidden_states}               step 0
    RUN.single_transformer_blocks.I.{hidden_states,encoder_hidden_states}        step 0
    RUN.noise_pred.STEP, RUN.latents.STEP     packed, after the step
    RUN.vae_input                             unpacked, scaled and shifted
    RUN.vae.conv_in, RUN.vae.mid_block, RUN.decoded
    RUN.pixels                                [height, width, 3] uint8
"""

import argparse
import json
import random
import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from tiny_pipeline import DTYPES, PRESETS, make_pipeline, random_shape

# The committed goldens' requests: small, not square, a prompt each tokenizer splits differently.
REQUESTS = {
    "a": dict(
        prompt="A red apple on the wooden table, isn't it?",
        width=48,
        height=32,
        steps=4,
        guidance=0.0,
        seed=42,
        max_sequence_length=48,  # with padding; b is cut
    ),
    "b": dict(
        prompt="Three blue birds  & a cat\nwith 7 wizards under the stormy sky: résumé №1",
        width=32,
        height=64,
        steps=3,
        guidance=3.5,
        seed=2**33 + 5,
        max_sequence_length=40,
    ),
}


def load_pipeline(folder: Path, dtype: torch.dtype):
    from diffusers import DiffusionPipeline

    pipeline = DiffusionPipeline.from_pretrained(folder, dtype=dtype, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def call_pipeline(pipeline, request: dict, **more):
    return pipeline(
        prompt=request["prompt"],
        width=request["width"],
        height=request["height"],
        num_inference_steps=request["steps"],
        guidance_scale=request["guidance"],
        max_sequence_length=request["max_sequence_length"],
        generator=torch.Generator("cpu").manual_seed(request["seed"]),
        **more,
    )


def record(pipeline, request: dict) -> tuple:
    """Runs the pipeline; returns the tensors of every stage and the numbers that are not tensors."""
    import numpy

    seen, scalars = {}, {}

    def keep(name, tensor):
        if name not in seen:  # the first time, i.e. step 0
            seen[name] = tensor.detach().clone().contiguous()

    def hook(module, name, pick=lambda out: out):
        return module.register_forward_hook(lambda _m, _i, out: keep(name, pick(out)))

    def hook_input_ids(module, name):
        def before(_module, args, kwargs):
            keep(name, args[0] if args else kwargs["input_ids"])

        return module.register_forward_pre_hook(before, with_kwargs=True)

    transformer, decoder = pipeline.transformer, pipeline.vae.decoder
    handles = [
        hook_input_ids(pipeline.text_encoder, "clip_input_ids"),
        hook_input_ids(pipeline.text_encoder_2, "t5_input_ids"),
        hook(pipeline.text_encoder, "pooled_prompt_embeds", lambda out: out.pooler_output),
        hook(pipeline.text_encoder_2, "prompt_embeds", lambda out: out[0]),
        hook(transformer.time_text_embed, "temb"),
        hook(transformer.pos_embed, "image_rotary_emb.cos", lambda out: out[0]),
        hook(transformer.pos_embed, "image_rotary_emb.sin", lambda out: out[1]),
        hook(transformer.x_embedder, "x_embedder"),
        hook(transformer.context_embedder, "context_embedder"),
        hook(transformer.norm_out, "norm_out"),
        hook(decoder, "decoded"),
        hook(decoder.conv_in, "vae.conv_in"),
        hook(decoder.mid_block, "vae.mid_block"),
        decoder.register_forward_pre_hook(lambda _m, args: keep("vae_input", args[0])),
    ]
    for name in ("transformer_blocks", "single_transformer_blocks"):
        for i, block in enumerate(getattr(transformer, name)):  # both return (text, image)
            handles.append(hook(block, f"{name}.{i}.encoder_hidden_states", lambda out: out[0]))
            handles.append(hook(block, f"{name}.{i}.hidden_states", lambda out: out[1]))

    step = [0]

    def after_transformer(_module, _inputs, out):
        keep(f"noise_pred.{step[0]}", out[0])
        step[0] += 1

    handles.append(transformer.register_forward_hook(after_transformer))
    prepare_latents = pipeline.prepare_latents

    def keep_noise(*args, **kwargs):
        latents, ids = prepare_latents(*args, **kwargs)
        keep("noise", latents)
        return latents, ids

    def after_step(_pipeline, i, _timestep, values):
        keep(f"latents.{i}", values["latents"])
        return {}

    set_timesteps = pipeline.scheduler.set_timesteps

    def keep_mu(*args, **kwargs):
        scalars["mu"] = None if kwargs.get("mu") is None else float(kwargs["mu"])
        return set_timesteps(*args, **kwargs)

    # retrieve_timesteps looks at the signature, so the wrapper must show the original's.
    keep_mu.__wrapped__ = set_timesteps
    pipeline.prepare_latents, pipeline.scheduler.set_timesteps = keep_noise, keep_mu
    try:
        image = call_pipeline(pipeline, request, callback_on_step_end=after_step).images[0]
    finally:
        del pipeline.prepare_latents, pipeline.scheduler.set_timesteps
        for handle in handles:
            handle.remove()
    keep("sigmas", pipeline.scheduler.sigmas)
    keep("timesteps", pipeline.scheduler.timesteps)
    keep("pixels", torch.from_numpy(numpy.array(image)))
    return seen, scalars


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="is replaced if it holds a manifest.json")
    parser.add_argument("--preset", choices=sorted(PRESETS), help="default: a random shape")
    parser.add_argument("--seed", type=int, default=0, help="of the weights and the random shape")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=JSON")
    parser.add_argument("--request", action="append", default=[], metavar="FIELD=JSON")
    parser.add_argument("--dtypes", default="fp32,bf16")
    args = parser.parse_args()

    def given(pairs):
        values = {}
        for pair in pairs:
            name, _, text = pair.partition("=")
            try:
                value = json.loads(text)
            except json.JSONDecodeError:
                value = text
            values[name] = tuple(value) if isinstance(value, list) else value
        return values

    shape = PRESETS[args.preset] if args.preset else random_shape(random.Random(args.seed))
    for name, value in given(args.set).items():
        if not hasattr(shape, name):
            parser.error(f"no such field of a shape: {name}")
        setattr(shape, name, value)
    request = dict(REQUESTS[args.preset or ("b" if shape.guidance_embeds else "a")])
    request.update(given(args.request))

    if args.folder.exists():
        if not (args.folder / "manifest.json").exists():
            sys.exit(f"{args.folder} exists and holds no manifest.json: not replaced")
        shutil.rmtree(args.folder)
    torch.set_num_threads(1)
    make_pipeline(args.folder / "model", shape, args.seed)

    import diffusers
    import transformers

    tensors, runs = {}, {}
    for dtype in args.dtypes.split(","):
        pipeline = load_pipeline(args.folder / "model", DTYPES[dtype])
        seen, scalars = record(pipeline, request)
        tensors.update({f"{dtype}.{name}": tensor for name, tensor in seen.items()})
        pixels = seen["pixels"].float()
        runs[dtype] = {**scalars, "pixels_mean": pixels.mean().item(), "pixels_std": pixels.std().item()}
        if pixels.std() < 20:
            sys.exit(f"{dtype}: a picture without contrast (std {pixels.std():.1f}); take another seed")
    save_file(tensors, args.folder / "goldens.safetensors")
    (args.folder / "goldens.safetensors").chmod(0o644)
    versions = {m.__name__: m.__version__ for m in (torch, diffusers, transformers)}
    manifest = {"versions": versions, "request": request, "runs": runs, "shape": vars(shape)}
    (args.folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
    size = sum(f.stat().st_size for f in args.folder.rglob("*") if f.is_file())
    print(f"{args.folder}: {len(tensors)} tensors, {size / 1024:.0f} KiB in all")
    for dtype, run in runs.items():
        print(f"  {dtype}: " + ", ".join(f"{k} {v}" for k, v in run.items()))


if __name__ == "__main__":
    main()
