"""A pool of latents and token ids on the training's device, by size, refreshed while training."""

import numpy as np
import torch

from . import graphs, models, reconstruction, training


class Upload:
    """Copies arrays to a GPU through page-locked memory, so that the copy waits for no kernel."""

    def __init__(self, device, buffers=4):
        self.device, self.next = device, 0
        self.buffers, self.copied = [None] * buffers, [None] * buffers

    def __call__(self, array, to):
        """Copies the array into the tensor `to`."""
        if self.device.type == "cpu":
            to.copy_(torch.from_numpy(array))
            return
        source, i = torch.from_numpy(np.ascontiguousarray(array)).reshape(-1), self.next
        self.next = (i + 1) % len(self.buffers)
        if self.copied[i] is not None:
            self.copied[i].synchronize()
        if self.buffers[i] is None or len(self.buffers[i]) < len(source):
            self.buffers[i] = torch.empty(len(source), dtype=source.dtype, pin_memory=True)
        staged = self.buffers[i][: len(source)]
        staged.copy_(source)
        to.copy_(staged.view(array.shape), non_blocking=True)
        self.copied[i] = torch.cuda.Event()
        self.copied[i].record()


class _Items:
    def __init__(self, limit, tokens, text, clip, device):
        self.tokens = torch.zeros(limit, tokens, 64, dtype=torch.half, device=device)
        self.t5_ids = torch.zeros(limit, text, dtype=torch.int16, device=device)
        self.clip_ids = torch.zeros(limit, clip, dtype=torch.int16, device=device)
        self.cells = torch.zeros(limit, tokens, dtype=torch.int16, device=device)
        self.lengths = np.zeros(limit, np.int64)
        self.n = self.next = 0  # when it is full, the oldest give way


class _Encoder:
    """Pictures of one batch's shape -> packed latents."""

    def __init__(self, vae, shape, device, record):
        self.vae = vae
        self.pictures = torch.zeros(shape, dtype=torch.uint8, device=device)
        tokens = shape[1] // 16 * (shape[2] // 16)
        self.packed = torch.zeros(shape[0], tokens, 64, dtype=torch.half, device=device)
        self.encode = graphs.Recorded(self._encode, device, record, lambda: [self.packed])

    @torch.no_grad()
    def _encode(self):
        with training.autocast(self.pictures.device):
            pixels = models.to_tensor(self.pictures)
            latents = reconstruction.latent_mean(self.vae, pixels).float()
        config = self.vae.config
        self.packed.copy_(models.pack((latents - config.shift_factor) * config.scaling_factor))


class LatentPool:
    def __init__(self, vae, device, limit, seed, record=False):
        """`limit`: items of each size, fewer of large pictures."""
        self.vae, self.device, self.limit, self.record = vae, device, limit, record
        self.rng = np.random.default_rng(seed)
        self.upload, self.upload_index = Upload(device), Upload(device)
        self.items, self.encoders = {}, {}

    def change_vae(self, vae):
        """From now on other latents; those that there were are forgotten."""
        self.vae, self.items, self.encoders = vae, {}, {}

    def count(self, size):
        return self.items[size].n if size in self.items else 0

    def add(self, batch):
        shape = batch.pictures.shape
        if shape not in self.encoders:
            self.encoders[shape] = _Encoder(self.vae, shape, self.device, self.record)
        encoder = self.encoders[shape]
        self.upload(batch.pictures, encoder.pictures)
        encoder.encode()
        n, tokens = encoder.packed.shape[:2]
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
        items.tokens[index] = encoder.packed
        items.t5_ids[index] = torch.from_numpy(batch.t5_ids).to(self.device)
        items.clip_ids[index] = torch.from_numpy(batch.clip_ids).to(self.device)
        items.cells[index] = torch.from_numpy(batch.cells).to(self.device)
        items.lengths[places] = batch.lengths

    def choose(self, size, text_length, index):
        """Fills `index` with places of items (some perhaps twice) whose captions fit."""
        items = self.items[size]
        fitting = np.flatnonzero(items.lengths[: items.n] <= text_length)
        places = fitting[self.rng.integers(len(fitting), size=len(index))]
        self.upload_index(places, index)

    def take(self, size, text_length, index):
        """Tokens, T5's ids, CLIP's ids of the items there, and what is where."""
        items = self.items[size]
        return (
            items.tokens[index].float(),
            items.t5_ids[index, :text_length].long(),
            items.clip_ids[index, :text_length].long(),
            items.cells[index].long(),
        )
