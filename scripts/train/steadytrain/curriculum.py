"""What the transformer learns when: sizes of pictures and mix of scenes, by the part done."""

from dataclasses import dataclass

from .scenes import SINGLES, Mix


@dataclass
class Stage:
    until: float  # the part of the training done when it ends
    sizes: list[tuple[int, int]]
    weights: list[float]  # how often each size, of steps (of equally many tokens)
    mix: Mix

    def pick_size(self, rng, ready=lambda size: True):
        """A size that is ready, or None."""
        weights = [w if ready(size) else 0 for size, w in zip(self.sizes, self.weights)]
        return rng.choices(self.sizes, weights)[0] if any(weights) else None


def parse_sizes(text):
    """"64:9,96:1,128x96:2" -> [(64, 64), (96, 96), (128, 96)], [9, 1, 2]"""
    sizes, weights = [], []
    for part in text.split(","):
        size, _, weight = part.partition(":")
        width, _, height = size.partition("x")
        sizes.append((int(width), int(height or width)))
        weights.append(float(weight or 1))
    return sizes, weights


FULL = [
    Stage(0.12, *parse_sizes("64:80,96:10,128:10"), SINGLES),
    Stage(0.6, *parse_sizes("64:30,96:25,128:35,128x96:5,96x128:5"), Mix()),
    Stage(
        1.0,
        *parse_sizes(
            "64:25,96:20,128:30,128x96:4,96x128:4,144:2,192:3,256:3,"
            "192x144:2,144x192:2,256x192:1,192x256:1,256x144:2,144x256:1"
        ),
        Mix(),
    ),
]


def stage_at(stages, progress):
    return next((stage for stage in stages if progress < stage.until), stages[-1])
