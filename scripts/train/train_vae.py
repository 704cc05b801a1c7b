#!/usr/bin/env python3
"""Trains the VAE on 64-pixel crops (and some whole 96-pixel pictures). Writes OUT/ in the diffusers
layout.

No KL term: FLUX has one scale and one shift for all channels, so a penalty pulls each channel to
mean 0 and deviation 1, and noise on the latents keeps the decoder smooth. Muon at batch 4. The
pictures are all of the font, so that the VAE does not limit what the transformer learns later;
--words picks some. --init goes on from a finished VAE with fresh optimizers.
"""

import math
import multiprocessing
import random
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL

from steadytrain import concepts, reconstruction, scenes, training
from steadytrain.models import new_vae, to_tensor

CROP = 64
LATENT_NOISE = 0.15
DRAWN = 400  # crops that a process draws at a time
SIZES = [(128, 128), (128, 128), (96, 96), (160, 128), (64, 64), (192, 192)]


def make_crops(maker, rng, n):
    """uint8 [n, 64, 64, 3]; four of five nearly empty crops are left out."""
    crops = []
    while len(crops) < n:
        width, height = rng.choice(SIZES)
        pixels = np.asarray(maker.sample(rng, width, height)[1])
        for _ in range(2):
            x = rng.randrange(0, width - CROP + 1, 4)
            y = rng.randrange(0, height - CROP + 1, 4)
            crop = pixels[y : y + CROP, x : x + CROP]
            if crop.std() >= 8 or rng.random() > 0.8:
                crops.append(crop)
    return np.stack(crops[:n])


def draw_pools(maker, seed, size, workers):
    """`size` crops and a quarter as many whole pictures of 96 x 96; by `workers` processes, which
    are forks: before CUDA is used."""

    def draw(number):
        rng = random.Random(f"{seed} {number}")
        wholes = [np.asarray(maker.sample(rng, 96, 96)[1]) for _ in range(DRAWN // 4)]
        return make_crops(maker, rng, DRAWN), np.stack(wholes)

    numbers = range(-(-size // DRAWN))
    if workers:
        global _draw
        _draw = draw
        with multiprocessing.get_context("fork").Pool(workers) as pool:
            drawn = pool.map(_draw_number, numbers, chunksize=1)
    else:
        drawn = [draw(number) for number in numbers]
    return [torch.from_numpy(np.concatenate(parts)) for parts in zip(*drawn)]


def _draw_number(number):
    return _draw(number)


def pick(pool, n):
    """[n, 3, H, W] in -1 .. 1 of uint8 pictures [N, H, W, 3] on the device."""
    chosen = torch.randint(len(pool), (n,), device=pool.device)
    pictures = to_tensor(pool[chosen])
    return torch.where(torch.rand(n, 1, 1, 1, device=pool.device) < 0.5, pictures, pictures.flip(-1))


def latent_penalty(mean, log_variance):
    channel_mean, channel_std = mean.mean((0, 2, 3)), (mean.var((0, 2, 3)) + 1e-6).sqrt()
    unit = (channel_mean**2).mean() + ((channel_std - 1) ** 2).mean()
    # The variance output is not used; it is held at the noise level for those who sample.
    level = ((log_variance - 2 * math.log(LATENT_NOISE)) ** 2).mean()
    return 0.01 * unit + 1e-3 * level


def main(arguments=None):
    parser = training.arguments(__doc__, minutes=80)
    parser.add_argument("--lr", type=float, default=1e-3, help="AdamW: biases, norms, first, last")
    parser.add_argument("--muon-lr", type=float, default=0.01, help="Muon: all other weights")
    parser.add_argument("--pool", type=int, default=8000, help="crops kept in memory")
    parser.add_argument("--workers", type=int, default=0, help="processes that draw the crops")
    parser.add_argument("--batch", type=int, default=4, help="crops a step")
    parser.add_argument("--init", type=Path, help="folder of a VAE to start from")
    args = parser.parse_args(arguments)
    rng = training.prepare(args)
    device = args.device
    things = concepts.load(args.words) if args.words else concepts.every_picture()
    maker = scenes.SceneMaker(things)
    pools = draw_pools(maker, args.seed + 8, args.pool, args.workers)
    crops, wholes = (pool.to(device) for pool in pools)
    validation = reconstruction.validation_pictures(scenes.SceneMaker(concepts.load())).to(device)

    vae = AutoencoderKL.from_pretrained(args.init).float() if args.init else new_vae()
    # A GPU has faster convolutions for this order.
    layout = torch.channels_last if device.type == "cuda" else torch.contiguous_format
    vae.to(device, memory_format=layout)
    by_muon = {
        name
        for name, p in vae.named_parameters()
        if p.dim() >= 2 and "conv_in" not in name and "decoder.conv_out" not in name
    }
    named = list(vae.named_parameters())
    muon = training.Muon([p for n, p in named if n in by_muon], args.muon_lr)
    adam = torch.optim.AdamW(
        [p for n, p in named if n not in by_muon], lr=args.lr, betas=(0.9, 0.98), weight_decay=1e-4
    )
    ema = training.Ema(vae.parameters(), decay=0.99, warmup=0.05)
    run = training.Run(args, rng, vae, adam, ema, muon)

    def quality_note():
        return f"PSNR {reconstruction.psnr(vae, validation[:16])[0]:.2f}"

    while run.going_on():
        pool, batch = (crops, args.batch) if rng.random() < 0.75 else (wholes, args.batch // 2)
        x = pick(pool, batch)
        with training.autocast(device):
            mean, log_variance = vae.encoder(x).chunk(2, 1)
            mean = mean.float()
            level = 1.3 * LATENT_NOISE * torch.rand(len(x), 1, 1, 1, device=device)
            y = vae.decoder(mean + level * torch.randn_like(mean))
        loss = reconstruction.picture_loss(y.float(), x)
        loss = loss + latent_penalty(mean, log_variance.float())
        vae.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        scale = run.schedule(constant_part=0.3)
        run.set_rate(args.lr * scale)
        adam.step()
        muon.step(scale)
        if run.step % 4 == 0:
            ema.update(run.step)
        run.advance(batch, loss, quality_note)

    run.save()
    ema.swap()
    quality, latents = reconstruction.psnr(vae.eval(), validation)
    vae.register_to_config(
        scaling_factor=1 / latents.std().item(), shift_factor=latents.mean().item()
    )
    training.save_whole(vae.cpu(), args.out)
    print(f"PSNR {quality:.2f} dB on {len(validation)} held-out scenes; VAE in {args.out}")


if __name__ == "__main__":
    main()
