"""How the VAE's trainings measure themselves: the loss of a picture, PSNR on held-out scenes."""

import random

import numpy as np
import torch
import torch.nn.functional as F

from .models import to_tensor

VALIDATION_SEED = 999


def _differences(x):
    return x[..., 1:, :] - x[..., :-1, :], x[..., :, 1:] - x[..., :, :-1]


def picture_loss(output, target):
    """L1, squared, edges (differences of neighbours) and colour of 4 x 4 areas."""
    error = output - target
    edges = sum((a - b).abs().mean() for a, b in zip(_differences(output), _differences(target)))
    area = F.avg_pool2d(error, 4).abs().mean()
    return error.abs().mean() + 2 * (error**2).mean() + 0.5 * edges + 0.5 * area


def validation_pictures(maker, n=64):
    """[n, 3, 128, 128]: scenes that training, with its other seeds, practically never repeats."""
    rng = random.Random(VALIDATION_SEED)
    return to_tensor(np.stack([np.asarray(maker.sample(rng, 128, 128)[1]) for _ in range(n)]))


def latent_mean(vae, pictures):
    return vae.encoder(pictures).chunk(2, 1)[0]


@torch.no_grad()
def psnr(vae, pictures):
    """Mean over the pictures, in dB; and the latents, [n, 16, h, w]."""
    values, latents = [], []
    for part in pictures.split(8):
        latents.append(latent_mean(vae, part))
        output = vae.decoder(latents[-1]).clamp(-1, 1)
        values.append(10 * torch.log10(4 / ((output - part) ** 2).mean((1, 2, 3))))
    return torch.cat(values).mean().item(), torch.cat(latents)
