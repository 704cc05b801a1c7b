"""Which prompts to try, and a recogniser that says what a picture shows.

The recogniser compares the place where the thing should be, at 24 x 24 pixels, with every concept
drawn on the picture's own background; the nearest by squared RGB distance wins. It knows the
layout, so it measures the thing, its size and its place together.
"""

import random
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from . import scenes, words
from .pictures import (
    BACKGROUND_COLORS, COLORS, LANDSCAPES, SHAPES, TINTS, Thing, draw_background,
)  # fmt: skip

PROBE = 24


@dataclass
class Item:
    prompt: str
    things: list[Thing]
    layout: list[tuple[int, int, int]]
    background: str | None = None  # a colour
    landscape: str | None = None


def scaled(item, scale):
    """The item in a picture `scale` times as large."""
    return replace(item, layout=[tuple(round(n * scale) for n in cell) for cell in item.layout])


def _collect(n, make):
    """n items; fewer where hardly any try gives one, such as three things in a small picture."""
    items = []
    for _ in range(200 * n):
        if len(items) == n:
            break
        item = make()
        if item:
            items.append(item)
    return items


def make_items(maker, size, limit, seed=4242):
    """Group name -> items for pictures of `size`, a side or (width, height); `limit` (or None) a
    group. The groups share one generator: changing one changes the prompts of those after it."""
    width, height = (size, size) if isinstance(size, int) else size
    rng, n = random.Random(seed), limit or 60
    count = len(maker.concepts)
    emoji = lambda: Thing("emoji", rng.randrange(count))  # noqa: E731
    name = lambda thing: words.with_article(maker.noun(thing))  # noqa: E731
    single = maker.layouts.single(width, height)

    def on_background(held_out):
        thing, color = emoji(), rng.choice(BACKGROUND_COLORS)
        if scenes.is_held_out("bg", thing.what, color) == held_out:
            phrase = f"on {words.with_article(color)} background"
            return Item(f"{name(thing)} {phrase}", [thing], single, color)

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
        layout = maker.layouts.pair(width, height, stacked)
        return Item(f"{name(a)} {relation} {name(b)}", things, layout)

    def counted():
        thing, number = emoji(), rng.choice([2, 3, 4])
        layout = maker.layouts.count(width, height, number)
        if maker.concepts[thing.what].word in words.UNCOUNTABLE or layout is None:
            return None
        noun = words.plural(maker.noun(thing))
        return Item(f"{words.NUMBERS[number]} {noun}", [thing] * number, layout)

    def cornered():
        vertical, horizontal = rng.choice(["top", "bottom"]), rng.choice(["left", "right"])
        thing = emoji()
        layout = maker.layouts.position(width, height, vertical, horizontal)
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
        "background": _collect(n, lambda: on_background(False)),
        "background, held out": _collect(n, lambda: on_background(True)),
        "shape": [Item(name(t), [t], single) for t in shapes],
        "tint": _collect(n, lambda: tinted(False)),
        "tint, held out": _collect(n, lambda: tinted(True)),
        "two side by side": _collect(n, lambda: pair(False)),
        "two stacked": _collect(n, lambda: pair(True)),
        "count": _collect(n, counted),
        "corner": _collect(n, cornered),
    }


def make_more_items(maker, size, limit, seed=4242):
    """As make_items: other words, landscapes, sizes, two things by position, three things, ..."""
    width, height = (size, size) if isinstance(size, int) else size
    n, count = limit or 60, len(maker.concepts)
    single = maker.layouts.single(width, height)
    name = lambda thing: words.with_article(maker.noun(thing))  # noqa: E731

    def emoji(rng):
        return Thing("emoji", rng.randrange(count))

    def other_words(rng):
        thing = emoji(rng)
        noun = rng.choice(maker.concepts[thing.what].synonyms)
        opening = rng.choice(["", *words.OPENINGS])
        if opening or noun != maker.concepts[thing.what].word:
            return Item(opening + words.with_article(noun), [thing], single)

    def on_landscape(rng):
        thing, place = emoji(rng), rng.choice(list(LANDSCAPES))
        if not scenes.is_held_out("bg", thing.what, place):
            prompt = f"{name(thing)} {words.PLACES[place][0]}"
            return Item(prompt, [thing], single, landscape=place)

    def shape_on_background(rng):
        color, back = rng.choice(list(COLORS)), rng.choice(BACKGROUND_COLORS)
        thing = Thing("shape", rng.choice(SHAPES), color)
        if color not in ("white", back):
            prompt = f"{name(thing)} on {words.with_article(back)} background"
            return Item(prompt, [thing], single, back)

    def sized(size):
        def make(rng):
            thing = emoji(rng)
            noun = rng.choice(words.SIZES[size]) + maker.noun(thing)
            layout = maker.layouts.single(width, height, size)
            return Item(words.with_article(noun), [thing], layout)

        return make

    def pair(relations, stacked, held_out):
        def make(rng):
            things = [emoji(rng), emoji(rng)]
            same = things[0] == things[1]
            if same or scenes.is_held_out(*(thing.key() for thing in things)) != held_out:
                return None
            prompt = rng.choice(relations).format(*map(name, things))
            return Item(prompt, things, maker.layouts.pair(width, height, stacked))

        return make

    def three(rng):
        things, layout = [emoji(rng) for _ in range(3)], maker.layouts.count(width, height, 3)
        if layout and len(set(things)) == 3:
            return Item(words.THREE[0].format(*map(name, things)), things, layout)

    def tinted_count(rng):
        thing = Thing("emoji", rng.randrange(count), rng.choice(TINTS))
        number = rng.choice([2, 3, 4])
        layout = maker.layouts.count(width, height, number)
        uncountable = maker.concepts[thing.what].word in words.UNCOUNTABLE
        if layout and not uncountable and not scenes.is_held_out(*thing.key()):
            prompt = f"{words.NUMBERS[number]} {words.plural(maker.noun(thing))}"
            return Item(prompt, [thing] * number, layout)

    beside = [r for r in words.SIDE_BY_SIDE if "left" in r or "right" in r]
    makers = {
        "single, other words": other_words,
        "landscape": on_landscape,
        "shape on a background": shape_on_background,
        "small": sized("small"),
        "big": sized("big"),
        "left and right": pair(beside, False, False),
        "left and right, held out": pair(beside, False, True),
        "above and below": pair(words.STACKED, True, False),
        "above and below, held out": pair(words.STACKED, True, True),
        "three things": three,
        "count, tinted": tinted_count,
    }
    generators = {group: random.Random(f"{seed} {group}") for group in makers}
    groups = {g: _collect(n, lambda: make(generators[g])) for g, make in makers.items()}
    return {group: items for group, items in groups.items() if items}


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

    def _nearest(self, pixels, cell, candidates, behind):
        """`behind` is what is around and behind the things: a colour, or a picture."""
        x, y, size = cell
        box = (x, y, x + size, y + size)

        def probe(picture):
            part = Image.fromarray(picture).crop(box).resize((PROBE, PROBE), Image.BOX)
            return np.asarray(part).astype(np.float32)

        crop = probe(pixels)
        reference = self._reference(candidates, size)
        behind = probe(behind) if behind.ndim == 3 else behind
        shown = reference[..., :3] + (1 - reference[..., 3:] / 255) * behind
        return candidates[int(((shown - crop) ** 2).mean((1, 2, 3)).argmin())]

    def score(self, item, pixels):
        """Scores from 0 to 1: "thing" (mean over its things), "all" of them, "color",
        "background", where they apply."""
        height, width = pixels.shape[:2]
        outside = np.ones((height, width), bool)
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
        if item.landscape:
            drawn = {
                place: np.asarray(draw_background(width, height, place, random.Random(0)))
                for place in LANDSCAPES
            }
            distance = {
                place: ((picture[outside].astype(np.float32) - pixels[outside]) ** 2).mean()
                for place, picture in drawn.items()
            }
            result["background"] = float(min(distance, key=distance.get) == item.landscape)
            background = drawn[item.landscape]
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
    width, height = (size, size) if isinstance(size, int) else size
    background = item.landscape or item.background or scenes.WHITE
    scene = scenes.Scene(item.prompt, width, height, item.things, item.layout, background)
    return np.asarray(maker.draw(scene, random.Random(seed)))
