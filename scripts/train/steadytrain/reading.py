"""A linear reader of what is inside the network, trained with it: which thing is at which token of the
picture, of what leaves the double blocks. The loss of the picture alone hardly asks them to understand a
caption of two things before anything of the picture can be seen; and reading from pure noise needs only
captions, no pictures, and a third of the network.
"""

import torch

from . import models
from .source import vary

CAPTIONS = 48  # in a step, to be read from pure noise
SIDES = [64, 96, 128, 128]  # of their pictures


class CellReader(torch.nn.Module):
    """[B, tokens, D] -> which thing, or none, [B, tokens, things + 1]."""

    FASTER = 8  # it begins from nothing in a trained network, and so learns faster than that

    def __init__(self, width, things):
        super().__init__()
        self.norm = torch.nn.LayerNorm(width, elementwise_affine=False)
        self.linear = torch.nn.Linear(width, things + 1)
        torch.nn.init.zeros_(self.linear.weight)

    def forward(self, x):
        return self.FASTER * self.linear(self.norm(x)).float()


def read(logits, cells):
    """(loss, part of the tokens read right) of logits [B, tokens, things + 1], cells [B, tokens]."""
    logits, cells = logits.flatten(0, 1), cells.flatten()
    right = (logits.argmax(1) == cells).float().mean()
    return torch.nn.functional.cross_entropy(logits, cells), right.detach()


class Captions:
    """Captions without pictures."""

    def __init__(self, maker, tokenize, rng):
        self.maker, self.tokenize, self.rng = maker, tokenize, rng

    def make(self, n):
        """(side, T5's ids [n, S], CLIP's ids [n, S], what is where [n, tokens])"""
        side = self.rng.choice(SIDES)
        scenes = [self.maker.make(self.rng, side, side) for _ in range(n)]
        t5_ids, clip_ids, lengths = self.tokenize([vary(s.caption, self.rng) for s in scenes])
        longest = lengths.max()
        cells = [torch.from_numpy(self.maker.cells(scene)).long() for scene in scenes]
        ids = (torch.from_numpy(ids[:, :longest]).long() for ids in (t5_ids, clip_ids))
        return side, *ids, torch.stack(cells)


def read_noise(model, captions, device):
    """(loss, part read right) of `models.TextToLatents` with captions and nothing of the picture."""
    side, t5_ids, clip_ids, cells = captions.make(CAPTIONS)
    noise = torch.randn(*cells.shape, 64, device=device)
    t5_ids, clip_ids, cells = t5_ids.to(device), clip_ids.to(device), cells.to(device)
    t, tokens = torch.ones(CAPTIONS, device=device), side // 16
    return read(model.read_cells(noise, t, t5_ids, clip_ids, tokens, tokens), cells)
