#!/usr/bin/env python3
"""Trains the transformer and both text encoders by rectified flow, on latents of a fixed VAE.
Writes OUT/ema.safetensors (the averaged weights, bf16) for export_pipeline.py, and OUT/state.json.

Sizes and scenes follow steadytrain/curriculum.py, or --sizes and --mix all the time. The strongest
lever found: noise levels shifted to the noisy end, t' = 3t / (1 + 2t), in training only. --init
goes on from an exported pipeline with a fresh optimizer, perhaps with more blocks and other
tokenizers; --resume from OUT/checkpoint.pt or, where that is missing, OUT/ema.safetensors.
"""

import argparse
import os
import random
from pathlib import Path

import torch
from diffusers import AutoencoderKL

from steadytrain import concepts, curriculum, latents, models, scenes, source, training

TEXT_LENGTHS = [20] * 55 + [32] * 15 + [64] * 30
VAE_INTERVAL = 50  # steps between looks for --next-vae


def noise_levels(n, shift, device):
    """80 % logit-normal(0.4, 1), 15 % uniform, 5 % pure noise; then shifted. [n] in 0 .. 1"""
    t = torch.sigmoid(torch.randn(n, device=device) + 0.4)
    kind = torch.rand(n, device=device)
    t = torch.where(kind < 0.15, torch.rand(n, device=device), t)
    t = torch.where(kind > 0.95, torch.ones_like(t), t)
    return shift * t / (1 + (shift - 1) * t)


def parse_arguments(arguments):
    parser = training.arguments(__doc__, minutes=105)
    parser.add_argument("--vae", type=Path, required=True, help="folder of the VAE, not changed")
    parser.add_argument("--next-vae", type=Path,
                        help="go on with this one's latents as soon as it is finished")  # fmt: skip
    parser.add_argument("--init", type=Path, help="pipeline whose weights to take")
    parser.add_argument("--tokenizers", type=Path, help="pipeline whose tokenizers to take")
    parser.add_argument("--blocks", type=int, nargs=2, default=(3, 6), metavar=("DOUBLE", "SINGLE"))
    parser.add_argument("--sizes", help='instead of the curriculum, such as "64:4,128x96:1"')
    parser.add_argument("--mix", choices=["singles", "scenes"], default="scenes",
                        help="with --sizes")  # fmt: skip
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--constant", type=float, default=0.4, help="part before the rate decays")
    parser.add_argument("--floor", type=float, default=0.0, help="last learning rate / lr")
    parser.add_argument("--shift", type=float, default=3.0, help="of the noise levels")
    parser.add_argument("--batch-tokens", type=int,
                        help="of picture and text in a step (CPU 900, GPU 32768)")  # fmt: skip
    parser.add_argument("--pool", type=int,
                        help="latents kept of each size (CPU 12000, GPU 200000)")  # fmt: skip
    parser.add_argument("--warm-pool", type=int,
                        help="latents of the first size before the start (CPU 3200, GPU 16384); an "
                        "eighth of it before another size joins")  # fmt: skip
    parser.add_argument("--ema", type=float, help="decay a step (CPU 0.997, GPU 0.999)")
    parser.add_argument("--reuse", type=float, default=8, help="how often a latent is used")
    parser.add_argument("--workers", type=int,
                        help="processes that draw (0: this one; CPU 0, GPU one a core less one)"
                        )  # fmt: skip
    parser.add_argument("--half-copy", action=argparse.BooleanOptionalAction,
                        help="compute with a copy in bf16 (default: on a GPU)")  # fmt: skip
    parser.add_argument("--plain-attention", action="store_true",
                        help="without fused kernels for attention on a GPU")  # fmt: skip
    parser.add_argument("--compile", action="store_true", help="compile the transformer's blocks")
    return parser.parse_args(arguments)


def load_vae(folder, device):
    return AutoencoderKL.from_pretrained(folder).float().to(device).eval().requires_grad_(False)


def set_defaults(args):
    """Those that depend on the device."""
    gpu = args.device.type == "cuda"
    defaults = dict(
        batch_tokens=32768 if gpu else 900,
        ema=0.999 if gpu else 0.997,
        pool=200000 if gpu else 12000,
        warm_pool=16384 if gpu else 3200,
        half_copy=gpu,
        workers=max(1, len(os.sched_getaffinity(0)) - 1) if gpu else 0,
    )
    for name, value in defaults.items():
        if getattr(args, name) is None:
            setattr(args, name, value)


def compile_blocks(model, first_step):
    """Compiles every kind of block once, for all shapes, and tries it; without, if that fails."""
    model.transformer.compile_repeated_blocks(dynamic=True)
    try:
        first_step()
    except Exception as error:  # whatever the compiler stumbles over, training can go on
        print(f"not compiled: {type(error).__name__}: {str(error).splitlines()[:1]}", flush=True)
        torch.compiler.reset()
        for module in model.transformer.modules():
            module._compiled_call_impl = None
    model.zero_grad()


def main(arguments=None):
    args = parse_arguments(arguments)
    rng = training.prepare(args)
    set_defaults(args)
    device = args.device
    if args.plain_attention:
        torch.backends.cuda.enable_flash_sdp(False)
        torch.backends.cuda.enable_mem_efficient_sdp(False)
    if args.sizes:
        mix = scenes.SINGLES if args.mix == "singles" else scenes.Mix()
        stages = [curriculum.Stage(1.0, *curriculum.parse_sizes(args.sizes), mix)]
    else:
        stages = curriculum.FULL
    maker = scenes.SceneMaker(concepts.load(args.words))
    tokenizers = models.load_tokenizers(args.tokenizers)
    tokenize = models.Tokenize(*tokenizers)
    if args.workers:  # before CUDA is used
        pictures = source.WorkerSource(maker, tokenize, stages, args.seed, args.workers)

    model = models.TextToLatents(*args.blocks)
    if args.init and not args.resume:
        model.load_pipeline(args.init, *tokenizers)
    model.to(device)
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    optimizer = torch.optim.AdamW(
        [dict(params=matrices, weight_decay=0.01), dict(params=vectors, weight_decay=0)],
        lr=args.lr,
        betas=(0.9, 0.98),
        fused=device.type == "cuda",
    )
    ema = training.Ema(model.parameters(), decay=args.ema, warmup=0.1)
    run = training.Run(args, rng, model, optimizer, ema)
    # The pool is not part of the checkpoint: after a resume it starts anew, with other scenes.
    seed = args.seed + 11 + run.step
    if not args.workers:
        pixels = 8 * 64 * 64
        pictures = source.Source(maker, tokenize, stages, random.Random(seed), pixels)
    pool = latents.LatentPool(load_vae(args.vae, device), device, args.pool, seed)
    half = training.HalfCopy(model) if args.half_copy else None

    def loss_of(size, text_length):
        columns, rows = size[0] // 16, size[1] // 16
        n = max(4, args.batch_tokens // (columns * rows + text_length))
        picture, t5_ids, clip_ids = pool.sample(size, n, text_length)
        t, noise = noise_levels(n, args.shift, device), torch.randn_like(picture)
        mixed = torch.lerp(picture, noise, t[:, None, None])
        if half:
            velocity = half.model(mixed.bfloat16(), t, t5_ids, clip_ids, rows, columns)
        else:
            with training.autocast(device):
                velocity = model(mixed, t, t5_ids, clip_ids, rows, columns)
        return n, ((velocity - (noise - picture)) ** 2).mean()

    def fill_pool():
        while max([0, *map(pool.count, pool.items)]) < min(args.warm_pool, args.pool // 2):
            pool.add(pictures.get(run.progress()))
        return max(pool.items, key=pool.count)

    def pick_size(stage):
        enough = lambda size: pool.count(size) >= min(args.warm_pool, args.pool) / 8  # noqa: E731
        while (size := stage.pick_size(rng, enough)) is None:
            pool.add(pictures.get(run.progress()))
        return size

    first = fill_pool()
    if args.compile:
        computing = half.model if half else model
        compile_blocks(computing, lambda: loss_of(first, TEXT_LENGTHS[0])[1].backward())
    if device.type == "cpu":
        run.restart_clock()
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters, "
          f"{pool.count(first)} latents; from here on training", flush=True)  # fmt: skip

    next_vae = args.next_vae
    owed = 0.0  # tokens of new pictures that are due
    while run.going_on():
        progress = run.progress()
        if run.step % VAE_INTERVAL == 0 and next_vae and (next_vae / "config.json").exists():
            print(f"{run.seconds():.0f} s, step {run.step}: now latents of {next_vae}", flush=True)
            pool.change_vae(load_vae(next_vae, device))
            args.vae, next_vae = next_vae, None
            fill_pool()
        size = pick_size(curriculum.stage_at(stages, progress))
        while owed > 0 and (batch := pictures.get(progress, wait=False)):
            pool.add(batch)
            owed -= batch.pictures.size / (3 * 16 * 16)
        n, loss = loss_of(size, rng.choice(TEXT_LENGTHS))
        owed = min(owed + n * size[0] * size[1] / 16**2 / args.reuse, 4.0 * args.batch_tokens)
        if half:
            loss.backward()
            half.give_gradients()
        else:
            optimizer.zero_grad()
            loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        run.set_rate(args.lr * run.schedule(args.constant, args.floor, warmup=100))
        optimizer.step()
        if half:
            half.take_weights()
        ema.update(run.step + 1)
        run.advance(n, loss)

    pictures.close()
    run.save()
    run.save_small(blocks=list(args.blocks), vae=str(args.vae))
    print(f"{run.seen} samples in {run.step} steps; weights in {args.out / 'ema.safetensors'}")


if __name__ == "__main__":
    main()
