"""A linear reader of what the transformer's modulations are made from: which thing, of which colour, is
in which ninth of the picture. Its loss makes the text encoder say so plainly, which the flow's loss alone
does slowly: that one wants a network behind the modulations that untangles two things.
"""

import torch

from .models import CLIP_LENGTH, PADDED
from .pictures import COLORS
from .source import vary

SIDE = 128  # captions are made for square pictures


def _ninths(scene):
    """The things by the ninth (row by row) in which their middles are."""
    found = {}
    for thing, (x, y, size) in zip(scene.things, scene.layout):
        column = int(3 * (x + size / 2) / scene.width)
        row = int(3 * (y + size / 2) / scene.height)
        found[3 * row + column] = thing
    return found


class Captions:
    """Captions and what a reader should say of them."""

    def __init__(self, maker, clip_tokenizer, rng):
        self.maker, self.tokenizer, self.rng = maker, clip_tokenizer, rng
        self.colors = {None: 0, "": 0} | {color: 1 + i for i, color in enumerate(COLORS)}

    def make(self, n):
        """(CLIP's ids [n, 77], of each thing: its caption's number, ninth, thing and colour [m, 4])"""
        scenes = [self.maker.make(self.rng, SIDE, SIDE) for _ in range(n)]
        captions = [vary(scene.caption, self.rng) for scene in scenes]
        clip_ids = self.tokenizer(captions, max_length=CLIP_LENGTH, **PADDED).input_ids
        answers = [
            (i, ninth, self.maker.thing_numbers[thing.what], self.colors[thing.color])
            for i, scene in enumerate(scenes)
            for ninth, thing in _ninths(scene).items()
        ]
        return torch.from_numpy(clip_ids).long(), torch.tensor(answers)


class Reader(torch.nn.Module):
    def __init__(self, width, captions):
        super().__init__()
        self.counts = len(captions.maker.thing_numbers), 1 + len(COLORS)
        self.norm = torch.nn.LayerNorm(width, elementwise_affine=False)
        self.linear = torch.nn.Linear(width, 9 * sum(self.counts))

    def forward(self, modulation, answers):
        """(loss, part of the things that are read right) of what modulations are made from [n, D]."""
        logits = self.linear(self.norm(modulation)).float().unflatten(1, (9, -1))
        caption, ninth, thing, color = answers.T
        things, colors = logits[caption, ninth].split(self.counts, dim=1)
        f = torch.nn.functional
        loss = f.cross_entropy(things, thing) + 0.5 * f.cross_entropy(colors, color)
        right = (things.argmax(1) == thing) & (colors.argmax(1) == color)
        return loss, right.float().mean().detach()


def modulation(time_text_embed, t, pooled):
    """[n, D]: what every block's modulation is a linear function of, at noise t [n]."""
    return torch.nn.functional.silu(time_text_embed(1000 * t, pooled))
