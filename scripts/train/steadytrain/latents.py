"""A pool of latents and token ids on the training's device, by size, refreshed while training."""

import numpy as np
import torch

from . import models, reconstruction, training


class Upload:
    """Copies arrays to a GPU through page-locked memory, so that the copy waits for no kernel."""

    def __init__(self, device, buffers=4):
        self.device, self.next = device, 0
        self.buffers, self.copied = [None] * buffers, [None] * buffers

    def __call__(self, array):
        if self.device.type == "cpu":
            return torch.from_numpy(array)
        source, i = torch.from_numpy(np.ascontiguousarray(array)).reshape(-1), self.next
        self.next = (i + 1) % len(self.buffers)
        if self.copied[i] is not None:
            self.copied[i].synchronize()
        if self.buffers[i] is None or len(self.buffers[i]) < len(source):
            self.buffers[i] = torch.empty(len(source), dtype=source.dtype, pin_memory=True)
        staged = self.buffers[i][: len(source)]
        staged.copy_(source)
        result = staged.to(self.device, non_blocking=True)
        self.copied[i] = torch.cuda.Event()
        self.copied[i].record()
        return result.view(array.shape)


class _Items:
    def __init__(self, limit, tokens, text, clip, device):
        self.tokens = torch.zeros(limit, tokens, 64, dtype=torch.half, device=device)
        self.t5_ids = torch.zeros(limit, text, dtype=torch.int16, device=device)
        self.clip_ids = torch.zeros(limit, clip, dtype=torch.int16, device=device)
        self.lengths = np.zeros(limit, np.int64)
        self.n = self.next = 0  # when it is full, the oldest give way


class LatentPool:
    def __init__(self, vae, device, limit, seed):
        """`limit`: items of each size, fewer of large pictures."""
        self.vae, self.device, self.limit = vae, device, limit
        self.rng = np.random.default_rng(seed)
        self.upload, self.upload_index = Upload(device), Upload(device)
        self.items = {}

    def change_vae(self, vae):
        """From now on other latents; those that there were are forgotten."""
        self.vae, self.items = vae, {}

    def count(self, size):
        return self.items[size].n if size in self.items else 0

    @torch.no_grad()
    def add(self, batch):
        pixels = self.upload(batch.pictures)
        with training.autocast(self.device):
            latents = reconstruction.latent_mean(self.vae, models.to_tensor(pixels)).float()
        config = self.vae.config
        packed = models.pack((latents - config.shift_factor) * config.scaling_factor).half()
        n, tokens = packed.shape[:2]
        if batch.size not in self.items:
            limit = max(n, self.limit * 64 // max(64, tokens))
            widths = batch.t5_ids.shape[1], batch.clip_ids.shape[1]
            self.items[batch.size] = _Items(limit, tokens, *widths, self.device)
        items = self.items[batch.size]
        limit = len(items.lengths)
        places = np.arange(items.next, items.next + n) % limit
        items.next = int(places[-1]) + 1
        items.n = min(limit, items.n + n)
        index = torch.from_numpy(places).to(self.device)
        items.tokens[index] = packed
        items.t5_ids[index] = torch.from_numpy(batch.t5_ids).to(self.device)
        items.clip_ids[index] = torch.from_numpy(batch.clip_ids).to(self.device)
        items.lengths[places] = batch.lengths

    def sample(self, size, n, text_length):
        """n items (some may be drawn twice) whose captions fit: tokens, T5's ids, CLIP's ids."""
        items = self.items[size]
        fitting = np.flatnonzero(items.lengths[: items.n] <= text_length)
        places = fitting[self.rng.integers(len(fitting), size=n)]
        index = self.upload_index(places)
        return (
            items.tokens[index].float(),
            items.t5_ids[index, :text_length].long(),
            items.clip_ids[index, :text_length].long(),
        )
