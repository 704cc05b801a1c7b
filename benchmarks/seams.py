#!/usr/bin/env python3
"""Whether tiles left seams: steps between neighbouring pixels across tile borders and elsewhere.

    benchmarks/seams.py PICTURE...

Pictures made with --tile or upscale, whose record says the tile. Of every picture and direction it
prints the largest step across a border, the largest inside tiles, and the mean step across borders as
a ratio to the mean of the lines up to 8 pixels from them (1: no seam; a seam of any strength raises
it, whatever the picture shows). Steps are of 255, the largest of the three channels.
"""

import json
import sys

import numpy
from PIL import Image

TOKEN = 16  # pixels
NEAR = 8


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
    at = numpy.array([line - 1 for line in lines])
    is_border = numpy.zeros(len(steps), bool)
    is_border[at] = True
    near = numpy.zeros(len(steps), bool)
    for place in at:
        near[max(place - NEAR, 0) : place + NEAR + 1] = True
    near &= ~is_border
    return steps[is_border].max(), steps[~is_border].max(), steps[is_border].mean() / steps[near].mean()


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
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
            print(f"{name[-19:]:<20}{direction:<8}{tile:>6}{len(lines):>9}{across:>8}{inside:>8}{ratio:>12.3f}")


if __name__ == "__main__":
    main()
