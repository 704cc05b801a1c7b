#!/usr/bin/env python3
"""Trains a VAE's decoder on, with the encoder, and so the latents, left as they are: a transformer
trained on the latents stays valid. Writes OUT/ in the diffusers layout.
"""

import random
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL

from steadytrain import concepts, paths, reconstruction, scenes, training
from steadytrain.models import to_tensor

CELL, CELLS = 8, 8  # crops of 8 x 8 latent cells, 64 x 64 pixels
SIZES = [96, 128, 128, 160]
LATENT_NOISE = 0.12


class Pool:
    """Latents of crops (cut from the latents of whole pictures) and their pixels."""

    def __init__(self, vae, maker, rng, limit):
        self.vae, self.maker, self.rng, self.limit = vae, maker, rng, limit
        self.device = next(vae.parameters()).device
        self.latents, self.crops = [], []

    @torch.no_grad()
    def add(self, n):
        rng, size = self.rng, self.rng.choice(SIZES)
        pixels = np.stack([np.asarray(self.maker.sample(rng, size, size)[1]) for _ in range(n)])
        with training.autocast(self.device):
            pictures = to_tensor(pixels).to(self.device)
            latents = reconstruction.latent_mean(self.vae, pictures).float()
        for picture, latent in list(zip(pixels, latents)) * 2:
            for _ in range(6):  # look for a crop that is not empty
                y, x = (rng.randrange(size // CELL - CELLS + 1) for _ in range(2))
                crop = picture[y * CELL : (y + CELLS) * CELL, x * CELL : (x + CELLS) * CELL]
                if crop.std() > 12:
                    break
            item = (latent[:, y : y + CELLS, x : x + CELLS].clone(), crop.copy())
            if len(self.latents) < self.limit:
                self.latents.append(item[0])
                self.crops.append(item[1])
            else:
                place = rng.randrange(self.limit)
                self.latents[place], self.crops[place] = item

    def batch(self, n):
        picked = [self.rng.randrange(len(self.latents)) for _ in range(n)]
        crops = np.stack([self.crops[i] for i in picked])
        latents = torch.stack([self.latents[i] for i in picked])
        return latents, to_tensor(crops).to(self.device)


def main(arguments=None):
    parser = training.arguments(__doc__, minutes=36)
    parser.add_argument("--vae", type=Path, required=True, help="folder of the VAE to start from")
    parser.add_argument("--batch", type=int, default=10, help="crops a step")
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--pool", type=int, default=12000, help="crops kept in memory")
    args = parser.parse_args(arguments)
    rng = training.prepare(args)
    device = args.device
    maker = scenes.SceneMaker(concepts.load(args.words))
    vae = AutoencoderKL.from_pretrained(args.vae).float().to(device)
    vae.encoder.requires_grad_(False)
    validation = reconstruction.validation_pictures(maker).to(device)
    print(f"PSNR before: {reconstruction.psnr(vae, validation)[0]:.2f} dB", flush=True)

    pool = Pool(vae, maker, random.Random(args.seed + 77), args.pool)
    while len(pool.latents) < min(2000, args.pool):
        pool.add(8)
    weights = list(vae.decoder.parameters())
    optimizer = torch.optim.AdamW(weights, lr=args.lr, betas=(0.9, 0.99), weight_decay=1e-4)
    ema = training.Ema(weights, decay=0.995, warmup=0.2)
    run = training.Run(args, rng, vae, optimizer, ema)

    def quality_note():
        return f"PSNR {reconstruction.psnr(vae, validation[:16])[0]:.2f}"

    while run.going_on():
        if run.step % 8 == 0:
            pool.add(4)
        latents, target = pool.batch(args.batch)
        level = LATENT_NOISE * torch.rand(len(latents), 1, 1, 1, device=device)
        noise = level * torch.randn_like(latents)
        with training.autocast(device):
            output = vae.decoder(latents + noise).float()
        loss = reconstruction.picture_loss(output, target)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        run.set_rate(args.lr * run.schedule(constant_part=0, floor=0.03, warmup=30))
        optimizer.step()
        ema.update(run.step + 1)
        run.advance(args.batch, loss, quality_note)

    run.save()
    ema.swap()
    print(f"PSNR after: {reconstruction.psnr(vae.eval(), validation)[0]:.2f} dB; VAE in {args.out}")
    vae.cpu().save_pretrained(args.out)


if __name__ == "__main__":
    main()
