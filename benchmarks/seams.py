#!/usr/bin/env python3
"""Whether tiles left seams: steps between neighbouring pixels across tile borders and elsewhere.

    benchmarks/seams.py PICTURE...

Pictures made with --tile or upscale, whose record says the tile. Of every picture and direction it
prints the largest step across a border, the largest inside tiles, and the mean step across borders as
a ratio to the mean across all other lines between tokens (every 16 pixels), where the model and the
VAE leave steps of their own; 1 on average: no seam. Steps are of 255, the largest of the channels.
"""

import json
import sys

import numpy
from PIL import Image

TOKEN = 16  # pixels


def borders(side, tile):
    """Where tiles begin or end inside a side, as src/config/tiles.cpp lays them."""
    side, tile = side // TOKEN, min(tile, side) // TOKEN
    if side <= tile:
        return []
    stride = max(tile - max(tile // 4, 1), 1)
    gaps = -(-(side - tile) // stride)
    starts = [i * (side - tile) // gaps for i in range(gaps + 1)]
    return sorted({TOKEN * place for start in starts for place in (start, start + tile)
                   if 0 < place < side})


def compare(steps, lines):
    """`steps` [lines between pixels, pixels along them]; line i lies between pixels i and i + 1."""
    number = numpy.arange(1, len(steps) + 1)
    is_border = numpy.isin(number, lines)
    is_token = (number % TOKEN == 0) & ~is_border
    mean_ratio = steps[is_border].mean() / steps[is_token].mean()
    return steps[is_border].max(), steps[~is_border].max(), mean_ratio


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    ratios = []
    print(f"{'picture':<28}{'tile':>6}{'borders':>9}{'across':>8}{'inside':>8}{'mean ratio':>12}")
    for name in sys.argv[1:]:
        with Image.open(name) as picture:
            tile = json.loads(picture.text["steadyflux"])["tile"]
            values = numpy.asarray(picture.convert("RGB")).astype(int)
        for axis, direction in [(1, "upright"), (0, "level")]:
            lines = borders(values.shape[axis], tile)
            if not lines:
                continue
            steps = abs(numpy.diff(values, axis=axis)).max(axis=2)
            across, inside, ratio = compare(steps.T if axis == 1 else steps, lines)
            ratios.append(ratio)
            print(f"{name[-19:]:<20}{direction:<8}{tile:>6}{len(lines):>9}{across:>8}{inside:>8}{ratio:>12.3f}")
    if ratios:
        print(f"mean of the mean ratios: {numpy.mean(ratios):.3f}")


if __name__ == "__main__":
    main()
