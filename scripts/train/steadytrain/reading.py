"""Linear readers of what is inside the network, trained with it: the loss of the picture alone does not
ask a text encoder to say two things so plainly that they can be told apart, nor the first blocks to
decide what they are going to draw.
"""

import torch

from . import models
from .pictures import COLORS
from .source import vary

SIDE = 128  # captions are made for square pictures
LENGTH = 32  # tokens of CLIP; longer captions are left out


class _Linear(torch.nn.Module):
    """It begins from nothing in a network that is trained already, and so learns faster than that."""

    FASTER = 8

    def __init__(self, width, classes):
        super().__init__()
        self.norm = torch.nn.LayerNorm(width, elementwise_affine=False)
        self.linear = torch.nn.Linear(width, classes)
        torch.nn.init.zeros_(self.linear.weight)

    def forward(self, x):
        return self.FASTER * self.linear(self.norm(x)).float()


class CellReader(_Linear):
    """Which thing, or none, is at every token of the picture: [B, tokens, D] -> [.., things + 1]."""

    def __init__(self, width, things):
        super().__init__(width, things + 1)

    @staticmethod
    def loss(logits, cells):
        """(loss, part of the tokens read right) with what is where, [B, tokens]."""
        logits, cells = logits.flatten(0, 1), cells.flatten()
        right = (logits.argmax(1) == cells).float().mean()
        return torch.nn.functional.cross_entropy(logits, cells), right.detach()


class TextReader(_Linear):
    """Which thing of which colour is in which ninth of the picture: of what the modulations of all
    blocks are linear functions of [n, D]."""

    def __init__(self, width, things, colors):
        super().__init__(width, 9 * (things + colors))
        self.classes = things, colors

    def loss(self, modulation, answers):
        """(loss, part of the things read right) with Captions' answers."""
        logits = self(modulation).unflatten(1, (9, -1))
        caption, ninth, thing, color = answers.T
        things, colors = logits[caption, ninth].split(self.classes, dim=1)
        f = torch.nn.functional
        loss = f.cross_entropy(things, thing) + 0.5 * f.cross_entropy(colors, color)
        right = (things.argmax(1) == thing) & (colors.argmax(1) == color)
        return loss, right.float().mean().detach()


def modulation(model, t, clip_ids):
    """[n, D]: what every block's modulation is a linear function of, at noise t [n]."""
    pooled = models.encode_clip(model.clip, clip_ids)
    return torch.nn.functional.silu(model.transformer.time_text_embed(1000 * t, pooled))


def _ninths(scene):
    """The things by the ninth (row by row) in which their middles are."""
    found = {}
    for thing, (x, y, size) in zip(scene.things, scene.layout):
        column = int(3 * (x + size / 2) / scene.width)
        row = int(3 * (y + size / 2) / scene.height)
        found[3 * row + column] = thing
    return found


class Captions:
    """Captions without pictures, and what a TextReader should say of them."""

    COLORS = {None: 0, "": 0} | {color: 1 + i for i, color in enumerate(COLORS)}
    COLOR_COUNT = 1 + len(COLORS)

    def __init__(self, maker, clip_tokenizer, rng):
        self.maker, self.tokenizer, self.rng = maker, clip_tokenizer, rng

    def make(self, n):
        """(CLIP's ids [n, 32], of each thing: its caption's number, ninth, thing and colour [m, 4])"""
        scenes = [self.maker.make(self.rng, SIDE, SIDE) for _ in range(n)]
        captions = [vary(scene.caption, self.rng) for scene in scenes]
        ids = self.tokenizer(captions, max_length=models.CLIP_LENGTH, **models.PADDED).input_ids
        short = (ids[:, :LENGTH] == self.tokenizer.eos_token_id).any(1)
        answers = [
            (i, ninth, self.maker.thing_numbers[thing.what], self.COLORS[thing.color])
            for i, scene in enumerate(scenes)
            for ninth, thing in _ninths(scene).items()
            if short[i]
        ]
        return torch.from_numpy(ids[:, :LENGTH]).long(), torch.tensor(answers)
