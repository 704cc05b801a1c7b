#!/usr/bin/env python3
"""Trains the transformer and both text encoders by rectified flow, on latents of a fixed VAE.
Writes OUT/ema.safetensors (the averaged weights, fp32) for export_pipeline.py.

The strongest lever found: noise levels shifted to the noisy end, t' = 3t / (1 + 2t), in training
only. --init goes on from an exported pipeline with a fresh optimizer; --resume from a checkpoint.
"""

import random
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from safetensors.torch import save_file

from steadytrain import concepts, models, paths, reconstruction, scenes, training, words

TOKENS_PER_BATCH = 900  # picture and text tokens
TEXT_LENGTHS = [20] * 88 + [32] * 10 + [64] * 2


def parse_sizes(text):
    """"64:9,96:1,128x96:2" -> [((64, 64), 9), ((96, 96), 1), ((128, 96), 2)]"""
    sizes = []
    for part in text.split(","):
        size, _, weight = part.partition(":")
        width, _, height = size.partition("x")
        sizes.append(((int(width), int(height or width)), float(weight or 1)))
    return sizes


class LatentPool:
    """Captions and packed latents by size, refreshed while training."""

    def __init__(self, vae, maker, rng, sizes, limit):
        self.vae, self.maker, self.rng, self.limit = vae, maker, rng, limit
        self.sizes, self.weights = zip(*sizes)
        self.items = {size: [] for size in self.sizes}

    def pick_size(self):
        return self.rng.choices(self.sizes, self.weights)[0]

    def _caption(self, caption):
        if self.rng.random() < 0.06:
            caption += self.rng.choice(words.ENDINGS)
        if self.rng.random() < 0.1:
            caption = caption.capitalize() + self.rng.choice([".", ""])
        return caption

    @torch.no_grad()
    def add(self, size, n=8):
        captions, pictures = zip(*(self.maker.sample(self.rng, *size) for _ in range(n)))
        pixels = models.to_tensor(np.stack([np.asarray(p) for p in pictures]))
        with training.autocast():
            latents = reconstruction.latent_mean(self.vae, pixels).float()
        config = self.vae.config
        packed = models.pack((latents - config.shift_factor) * config.scaling_factor).half()
        pool = self.items[size]
        for caption, tokens in zip(captions, packed):
            item = (self._caption(caption), tokens)
            if len(pool) < self.limit:
                pool.append(item)
            else:
                pool[self.rng.randrange(self.limit)] = item

    def batch(self, size, n):
        captions, tokens = zip(*self.rng.sample(self.items[size], n))
        return list(captions), torch.stack(tokens).float()


def noise_levels(n, shift):
    """80 % logit-normal(0.4, 1), 15 % uniform, 5 % pure noise; then shifted. [n] in 0 .. 1"""
    t, kind = torch.sigmoid(torch.randn(n) + 0.4), torch.rand(n)
    t = torch.where(kind < 0.15, torch.rand(n), t)
    t = torch.where(kind > 0.95, torch.ones(n), t)
    return shift * t / (1 + (shift - 1) * t)


def main():
    parser = training.arguments(__doc__, minutes=105)
    parser.add_argument("--vae", type=Path, required=True, help="folder of the VAE, not changed")
    parser.add_argument("--init", type=Path, help="pipeline whose weights and tokenizers to take")
    parser.add_argument("--sizes", default="64:9,96:1", help="picture sizes and how often each")
    parser.add_argument("--mix", choices=["singles", "scenes"], default="singles")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--constant", type=float, default=0.4, help="part before the rate decays")
    parser.add_argument("--floor", type=float, default=0.02, help="last learning rate / lr")
    parser.add_argument("--shift", type=float, default=3.0, help="of the noise levels")
    parser.add_argument("--pool", type=int, default=12000, help="latents kept of each size")
    parser.add_argument("--warm-pool", type=int, default=3200, help="latents made before the start")
    args = parser.parse_args()
    rng = training.prepare(args)
    mix = scenes.SINGLES if args.mix == "singles" else scenes.Mix()
    maker = scenes.SceneMaker(concepts.load(args.words or paths.WORDS), mix)
    vae = AutoencoderKL.from_pretrained(args.vae).float().eval().requires_grad_(False)
    model = models.TextToLatents(*models.load_tokenizers(args.init))
    if args.init:
        model.load_pipeline(args.init)

    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    optimizer = torch.optim.AdamW(
        [dict(params=matrices, weight_decay=0.01), dict(params=vectors, weight_decay=0)],
        lr=args.lr,
        betas=(0.9, 0.98),
    )
    ema = training.Ema(model.parameters(), decay=0.997, warmup=0.1)
    run = training.Run(args, rng, model, optimizer, ema)
    # The pool is not part of the checkpoint: after a resume it starts anew, with other scenes.
    sizes = parse_sizes(args.sizes)
    pool = LatentPool(vae, maker, random.Random(args.seed + 11 + run.step), sizes, args.pool)
    for size in pool.sizes:
        while len(pool.items[size]) < 64:
            pool.add(size)
    for _ in range(args.warm_pool // 8):
        pool.add(pool.pick_size())

    run.start = run.saved = run.logged = training.clock()  # the pool's time does not count
    while run.progress() < 1:
        if rng.random() < 0.35:
            pool.add(pool.pick_size())
        size = pool.pick_size()
        columns, rows = size[0] // 16, size[1] // 16
        n = max(6, min(64, TOKENS_PER_BATCH // (columns * rows + 20)))
        captions, picture = pool.batch(size, n)
        t, noise = noise_levels(n, args.shift), torch.randn_like(picture)
        mixed = torch.lerp(picture, noise, t[:, None, None])
        with training.autocast():
            velocity = model(mixed, t, captions, rows, columns, rng.choice(TEXT_LENGTHS))
        loss = ((velocity - (noise - picture)) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        run.set_rate(args.lr * run.schedule(args.constant, args.floor))
        optimizer.step()
        ema.update(run.step + 1)
        run.advance(n, loss.item())

    run.save()
    ema.swap()
    weights = {name: tensor.contiguous().clone() for name, tensor in model.state_dict().items()}
    save_file(weights, args.out / "ema.safetensors")
    print(f"{run.seen} samples in {run.step} steps; weights in {args.out / 'ema.safetensors'}")


if __name__ == "__main__":
    main()
