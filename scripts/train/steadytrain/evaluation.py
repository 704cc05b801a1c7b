"""Which prompts to try, and a recogniser that says what a picture shows.

The recogniser compares the place where the thing should be, at 24 x 24 pixels, with every concept
drawn on the picture's own background; the nearest by squared RGB distance wins. It knows the
layout, so it measures the thing and the place together.
"""

import random
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from . import scenes, words
from .pictures import BACKGROUND_COLORS, COLORS, SHAPES, TINTS, Thing

PROBE = 24


@dataclass
class Item:
    prompt: str
    things: list[Thing]
    layout: list[tuple[int, int, int]]
    background: str | None = None


def scaled(item, scale):
    """The item in a picture `scale` times as large."""
    return replace(item, layout=[tuple(round(n * scale) for n in cell) for cell in item.layout])


def make_items(maker, size, limit, seed=4242):
    """Group name -> items for square pictures; `limit` (or None) a group."""
    rng, n = random.Random(seed), limit or 60
    count = len(maker.concepts)
    emoji = lambda: Thing("emoji", rng.randrange(count))  # noqa: E731
    name = lambda thing: words.with_article(maker.noun(thing))  # noqa: E731
    single = scenes.layout_single(size, size)

    def collect(make):
        items = []
        while len(items) < n:
            item = make()
            if item:
                items.append(item)
        return items

    def on_background(held_out):
        thing, color = emoji(), rng.choice(BACKGROUND_COLORS)
        if scenes.is_held_out("bg", thing.what, color) == held_out:
            return Item(f"{name(thing)} on a {color} background", [thing], single, color)

    def tinted(held_out):
        thing = Thing("emoji", rng.randrange(count), rng.choice(TINTS))
        if scenes.is_held_out(*thing.key()) == held_out:
            return Item(name(thing), [thing], single)

    def pair(stacked):
        a, b = emoji(), emoji()
        if a == b:
            return None
        relation = "above" if stacked else rng.choice(["and", "to the right of"])
        things = [b, a] if "right" in relation else [a, b]
        layout = scenes.layout_pair(size, size, stacked)
        return Item(f"{name(a)} {relation} {name(b)}", things, layout)

    def counted():
        thing, number = emoji(), rng.choice([2, 3, 4])
        layout = scenes.layout_count(size, size, number)
        if maker.concepts[thing.what].word in words.UNCOUNTABLE or layout is None:
            return None
        noun = words.plural(maker.noun(thing))
        return Item(f"{words.NUMBERS[number]} {noun}", [thing] * number, layout)

    def cornered():
        vertical, horizontal = rng.choice(["top", "bottom"]), rng.choice(["left", "right"])
        thing = emoji()
        layout = scenes.layout_position(size, size, vertical, horizontal)
        return Item(
            f"{name(thing)} {words.corner_phrase(vertical, horizontal)}", [thing], layout
        )

    things = [Thing("emoji", i) for i in range(count)]
    if limit and limit < count:
        things = rng.sample(things, limit)
    shapes = [Thing("shape", s, c) for s in SHAPES for c in COLORS if c != "white"]
    if limit and limit < len(shapes):
        shapes = rng.sample(shapes, limit)
    return {
        "single": [Item(name(t), [t], single) for t in things],
        "background": collect(lambda: on_background(False)),
        "background, held out": collect(lambda: on_background(True)),
        "shape": [Item(name(t), [t], single) for t in shapes],
        "tint": collect(lambda: tinted(False)),
        "tint, held out": collect(lambda: tinted(True)),
        "two side by side": collect(lambda: pair(False)),
        "two stacked": collect(lambda: pair(True)),
        "count": collect(counted),
        "corner": collect(cornered),
    }


class Recogniser:
    def __init__(self, maker):
        self.maker = maker
        self._references = {}

    def _reference(self, candidates, size):
        """[n, 24, 24, 4], alpha premultiplied"""
        key = (tuple(candidates), size)
        if key not in self._references:
            drawn = [self.maker.artist.draw(t, size).convert("RGBa") for t in candidates]
            small = [d.resize((PROBE, PROBE), Image.BOX) for d in drawn]
            self._references[key] = np.stack([np.asarray(s).astype(np.float32) for s in small])
        return self._references[key]

    def _nearest(self, pixels, cell, candidates, background):
        x, y, size = cell
        crop = Image.fromarray(pixels[y : y + size, x : x + size])
        crop = np.asarray(crop.resize((PROBE, PROBE), Image.BOX)).astype(np.float32)
        reference = self._reference(candidates, size)
        shown = reference[..., :3] + (1 - reference[..., 3:] / 255) * background
        return candidates[int(((shown - crop) ** 2).mean((1, 2, 3)).argmin())]

    def score(self, item, pixels):
        """Scores from 0 to 1: "thing" (mean over its things), "all" of them, "color",
        "background", where they apply."""
        outside = np.ones(pixels.shape[:2], bool)
        for x, y, size in item.layout:
            outside[y : y + size, x : x + size] = False
        if outside.sum() < 300:  # the things fill the picture: look at its corners
            outside[:] = False
            for rows in (slice(0, 6), slice(-6, None)):
                outside[rows, :6] = outside[rows, -6:] = True
        background = np.median(pixels[outside], 0).astype(np.float32)
        result, right, color = {}, [], []
        if item.background:
            distance = {c: ((np.array(rgb) - background) ** 2).sum() for c, rgb in COLORS.items()}
            result["background"] = float(min(distance, key=distance.get) == item.background)
        for thing, cell in zip(item.things, item.layout):
            if thing.kind == "shape":
                candidates = [Thing("shape", s, c) for s in SHAPES for c in COLORS]
                found = self._nearest(pixels, cell, candidates, background)
                right.append(found.what == thing.what)
                color.append(found.color == thing.color)
                continue
            numbers = range(len(self.maker.concepts))
            candidates = [Thing("emoji", i, thing.color) for i in numbers]
            right.append(self._nearest(pixels, cell, candidates, background) == thing)
            if thing.color:
                tints = [Thing("emoji", thing.what, tint) for tint in (None, *TINTS)]
                color.append(self._nearest(pixels, cell, tints, background) == thing)
        result["thing"] = float(np.mean(right))
        if len(right) > 1:
            result["all"] = float(all(right))
        if color:
            result["color"] = float(np.mean(color))
        return result


def draw_original(maker, item, size, seed=0):
    """The picture that the item's prompt asks for, as the training data would draw it."""
    background = item.background or scenes.WHITE
    scene = scenes.Scene(item.prompt, size, size, item.things, item.layout, background)
    return np.asarray(maker.draw(scene, random.Random(seed)))
