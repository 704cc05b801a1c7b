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

from steadytrain import (
    concepts, curriculum, graphs, latents, models, reading, scenes, source, training,
)  # fmt: skip

TEXT_LENGTHS = [20] * 55 + [32] * 15 + [64] * 30
VAE_INTERVAL = 50  # steps between looks for --next-vae


def noise_levels(normal, uniform, shift):
    """80 % logit-normal(0.4, 1), 15 % uniform, 5 % pure noise; then shifted. [n] in 0 .. 1, of
    random numbers [n] and [2.., n]"""
    t, kind = torch.sigmoid(normal + 0.4), uniform[0]
    t = torch.where(kind < 0.15, uniform[1], t)
    t = t.masked_fill(kind > 0.95, 1.0)
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
    parser.add_argument("--mix", choices=list(scenes.MIXES), default="scenes",
                        help="with --sizes")  # fmt: skip
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--constant", type=float, default=0.4, help="part before the rate decays")
    parser.add_argument("--floor", type=float, default=0.0, help="last learning rate / lr")
    parser.add_argument("--shift", type=float, default=3.0, help="of the noise levels")
    parser.add_argument("--without-clip", type=float, default=0, metavar="PART",
                        help="of the samples, for which CLIP reads an empty caption, so that what they "
                        "show has to come from T5")  # fmt: skip
    parser.add_argument("--reader", type=float, default=0, metavar="WEIGHT",
                        help="of the losses of a linear reader, which says of what leaves the double blocks "
                        "what is where (steadytrain/reading.py); not with a copy in bf16")  # fmt: skip
    parser.add_argument("--unsaid", type=float, default=0, metavar="PART",
                        help="of the samples, in which the modulations of the single blocks hold nothing of "
                        "the text: what they draw has to come from the tokens")  # fmt: skip
    parser.add_argument("--batch-tokens", type=int,
                        help="of picture and text in a step (CPU 900, GPU 32768, not recorded "
                        "65536)")  # fmt: skip
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
    parser.add_argument("--record", action=argparse.BooleanOptionalAction, default=True,
                        help="steps as CUDA graphs on a GPU (with --half-copy)")  # fmt: skip
    parser.add_argument("--plain-attention", action=argparse.BooleanOptionalAction,
                        help="without fused kernels for attention, whose gradients in bf16 are slow on a "
                        "CPU (default: on a CPU)")  # fmt: skip
    return parser.parse_args(arguments)


def load_vae(folder, device):
    return AutoencoderKL.from_pretrained(folder).float().to(device).eval().requires_grad_(False)


def set_defaults(args):
    """Those that depend on the device."""
    gpu = args.device.type == "cuda"
    if args.half_copy is None:
        args.half_copy = gpu
    if args.plain_attention is None:
        args.plain_attention = not gpu
    args.record = args.record and gpu and args.half_copy
    defaults = dict(
        batch_tokens=(32768 if args.record else 65536) if gpu else 900,
        ema=0.999 if gpu else 0.997,
        pool=200000 if gpu else 12000,
        warm_pool=16384 if gpu else 3200,
        workers=max(1, len(os.sched_getaffinity(0)) - 1) if gpu else 0,
    )
    for name, value in defaults.items():
        if getattr(args, name) is None:
            setattr(args, name, value)


class GradientStep:
    """Gradients of the model for pictures of one size and captions up to one length."""

    def __init__(self, training_model, pool, size, text_length, empty_clip_ids, options):
        self.model, self.pool = training_model, pool
        self.size, self.text_length, self.shift = size, text_length, options.shift
        self.columns, self.rows = size[0] // 16, size[1] // 16
        tokens, device = self.columns * self.rows, options.device
        self.n = max(4, options.batch_tokens // (tokens + text_length))
        self.index = torch.zeros(self.n, dtype=torch.long, device=device)
        self.noise = torch.zeros(self.n, tokens, 64, device=device)
        self.normal = torch.zeros(self.n, device=device)
        self.uniform = torch.zeros(4, self.n, device=device)
        self.without_clip, self.reader_weight = options.without_clip, options.reader
        self.unsaid = options.unsaid
        self.empty = torch.from_numpy(empty_clip_ids[:text_length]).long().to(device)
        self.loss = torch.zeros((), device=device)
        self.read = torch.zeros((), device=device)  # part of the tokens that the reader reads right
        self.compute = graphs.Recorded(self._compute, device, options.record, self._results)

    def __call__(self):
        """Leaves the gradients in the model; the loss, a tensor that the next call changes."""
        self.pool.choose(self.size, self.text_length, self.index)
        for numbers in (self.noise, self.normal):
            numbers.normal_()
        self.uniform.uniform_()
        self.compute()
        return self.loss

    def _results(self):
        return [self.loss, *(p.grad for p in self.model.parameters)]

    def _compute(self):
        picture, t5_ids, clip_ids, cells = self.pool.take(self.size, self.text_length, self.index)
        empty = self.uniform[2] < self.without_clip
        clip_ids = torch.where(empty[:, None], self.empty, clip_ids)
        t = noise_levels(self.normal, self.uniform, self.shift)
        mixed = torch.lerp(picture, self.noise, t[:, None, None])
        unsaid = self.uniform[3] < self.unsaid if self.unsaid else None
        velocity = self.model(mixed, t, t5_ids, clip_ids, self.rows, self.columns, unsaid)
        loss = ((velocity - (self.noise - picture)) ** 2).mean()
        self.loss.copy_(loss.detach())
        if self.reader_weight:
            reading_loss, self.read = reading.read(self.model.model.cell_logits, cells)
            loss = loss + self.reader_weight * reading_loss
        loss.backward()
        self.model.take_gradients()


def main(arguments=None):
    args = parse_arguments(arguments)
    rng = training.prepare(args)
    set_defaults(args)
    device = args.device
    models.rotate_quickly()
    torch.backends.cudnn.benchmark = False  # too many shapes of pictures to try every kernel
    if args.plain_attention:
        torch.backends.cuda.enable_flash_sdp(False)
        torch.backends.cuda.enable_mem_efficient_sdp(False)
    if args.sizes:
        mix = scenes.MIXES[args.mix]
        stages = [curriculum.Stage(1.0, *curriculum.parse_sizes(args.sizes), mix)]
    else:
        stages = curriculum.FULL
    maker = scenes.SceneMaker(concepts.load(args.words))
    tokenizers = models.load_tokenizers(args.tokenizers)
    tokenize = models.Tokenize(*tokenizers)
    empty_clip_ids = tokenize([""])[1][0]
    if args.workers:  # before CUDA is used
        pictures = source.WorkerSource(maker, tokenize, stages, args.seed, args.workers)

    model = models.TextToLatents(*args.blocks)
    if args.init and not args.resume:
        model.load_pipeline(args.init, *tokenizers)
    if args.reader:
        if args.half_copy:
            raise SystemExit("--reader: not with --half-copy")
        model.add_reader(len(maker.thing_numbers))
        captions = reading.Captions(maker, tokenize, random.Random(args.seed + 12))
    model.to(device)
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    optimizer = torch.optim.AdamW(
        [dict(params=matrices, weight_decay=0.01), dict(params=vectors, weight_decay=0)],
        lr=args.lr,
        betas=(0.9, 0.98),
        fused=True,
        capturable=args.record,
    )
    ema = training.Ema(model.parameters(), decay=args.ema, warmup=0.1)
    run = training.Run(args, rng, model, optimizer, ema)
    run.about = dict(blocks=list(args.blocks), vae=str(args.vae))
    # The pool is not part of the checkpoint: after a resume it starts anew, with other scenes.
    seed = args.seed + 11 + run.step
    if not args.workers:
        pixels = 8 * 64 * 64
        pictures = source.Source(maker, tokenize, stages, random.Random(seed), pixels)
    if args.record:
        for group in optimizer.param_groups:
            group["lr"] = torch.tensor(args.lr, device=device)
    pool = latents.LatentPool(load_vae(args.vae, device), device, args.pool, seed, args.record)
    computing = training.HalfCopy(model) if args.half_copy else training.WholeModel(model)
    gradient_steps = {}

    def change_weights():
        torch.nn.utils.clip_grad_norm_(computing.parameters, 1.0)
        optimizer.step()
        computing.take_weights()

    update = graphs.Recorded(change_weights, device, args.record)

    def gradient_step(size, text_length):
        key = size, text_length
        if key not in gradient_steps:
            gradient_steps[key] = GradientStep(computing, pool, *key, empty_clip_ids, args)
        return gradient_steps[key]

    def read_noise():
        """Adds the gradients of reading captions from pure noise."""
        with training.autocast(device):
            loss, right = reading.read_noise(model, captions, device)
        (args.reader * loss).backward()
        return right

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
    if device.type == "cpu":
        run.restart_clock()
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters, "
          f"{pool.count(first)} latents; from here on training", flush=True)  # fmt: skip

    next_vae = args.next_vae
    read = torch.zeros(2, device=device)  # parts that the reader reads right, of the last steps
    read_text = "read {:.1f} %, from noise {:.1f} %"
    owed = 0.0  # tokens of new pictures that are due
    while run.going_on():
        progress = run.progress()
        if run.step % VAE_INTERVAL == 0 and next_vae and (next_vae / "config.json").exists():
            print(f"{run.seconds():.0f} s, step {run.step}: now latents of {next_vae}", flush=True)
            pool.change_vae(load_vae(next_vae, device))
            gradient_steps.clear()
            args.vae, next_vae = next_vae, None
            run.about["vae"] = str(args.vae)
            fill_pool()
        size = pick_size(curriculum.stage_at(stages, progress))
        while owed > 0 and (batch := pictures.get(progress, wait=False)):
            pool.add(batch)
            owed -= batch.pictures.size / (3 * 16 * 16)
        step = gradient_step(size, rng.choice(TEXT_LENGTHS))
        loss = step()
        if args.reader:
            read.lerp_(torch.stack([step.read, read_noise()]), 0.02)
        tokens = step.n * size[0] * size[1] / 16**2
        owed = min(owed + tokens / args.reuse, 4.0 * args.batch_tokens)
        run.set_rate(args.lr * run.schedule(args.constant, args.floor, warmup=100))
        update()
        ema.update(run.step + 1)
        run.advance(step.n, loss, lambda: read_text.format(*(100 * read)) if args.reader else "")

    pictures.close()
    run.save()
    print(f"{run.seen} samples in {run.step} steps; weights in {args.out / 'ema.safetensors'}")


if __name__ == "__main__":
    main()
