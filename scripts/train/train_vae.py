#!/usr/bin/env python3
"""Trains the VAE on 64-pixel crops (and some whole 96-pixel pictures). Writes OUT/ in the diffusers
layout.

No KL term: FLUX has one scale and one shift for all channels, so a penalty pulls each channel to
mean 0 and deviation 1, and noise on the latents keeps the decoder smooth. Muon at batch 4. The
pictures are all of the font, so that the VAE does not limit what the transformer learns later;
--words picks some. --init goes on from a finished VAE with fresh optimizers.
"""

import math
import random
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL

from steadytrain import concepts, reconstruction, scenes, training
from steadytrain.models import new_vae, to_tensor

CROP = 64
LATENT_NOISE = 0.15
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
    parser.add_argument("--batch", type=int, default=4, help="crops a step")
    parser.add_argument("--init", type=Path, help="folder of a VAE to start from")
    args = parser.parse_args(arguments)
    rng = training.prepare(args)
    device = args.device
    things = concepts.load(args.words) if args.words else concepts.every_picture()
    maker = scenes.SceneMaker(things)
    data_rng = random.Random(args.seed + 8)
    crops = make_crops(maker, data_rng, args.pool)
    wholes = np.stack(
        [np.asarray(maker.sample(data_rng, 96, 96)[1]) for _ in range(max(1, args.pool // 4))]
    )
    validation = reconstruction.validation_pictures(scenes.SceneMaker(concepts.load())).to(device)

    vae = AutoencoderKL.from_pretrained(args.init).float() if args.init else new_vae()
    vae.to(device)
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
        x = to_tensor(pool[[rng.randrange(len(pool)) for _ in range(batch)]]).to(device)
        if rng.random() < 0.5:
            x = x.flip(-1)
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
    vae.cpu().save_pretrained(args.out)
    print(f"PSNR {quality:.2f} dB on {len(validation)} held-out scenes; VAE in {args.out}")


if __name__ == "__main__":
    main()
