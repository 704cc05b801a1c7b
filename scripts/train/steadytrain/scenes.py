"""Makes captions and the pictures that they describe.

A scene has one to six things. Their places are on a grid, so that a caption nearly determines its
picture. About a twelfth of all combinations (a thing and its tint, a
thing and its background, two things) is held out of training by hash, to measure whether the model
composes or only remembers.
"""

import zlib
from dataclasses import dataclass

import numpy as np

from . import words
from .pictures import (
    BACKGROUND_COLORS, COLORS, LANDSCAPES, SHAPES, TINTS, Artist, Thing, draw_background,
)  # fmt: skip

SIDE_STEP = 16
PLACE_STEP = 8
WHITE = (255, 255, 255)
PASTELS = [WHITE] * 10 + [
    (253, 236, 236), (255, 246, 224), (233, 247, 233), (228, 240, 253), (242, 233, 252),
    (238, 238, 238),
]  # fmt: skip


def is_held_out(*keys):
    return zlib.crc32("|".join(map(str, keys)).encode()) % 12 == 0


@dataclass
class Mix:
    """How often what is drawn. Shares are parts of 1; what `single` .. `count` leave is threes."""

    single: float = 0.42
    position: float = 0.10
    pair: float = 0.28
    count: float = 0.13
    shape: float = 0.08  # of the things
    tinted: float = 0.12  # of the things
    color_background: float = 0.20
    landscape: float = 0.12


SINGLES = Mix(single=0.65, position=0.07, pair=0.18, count=0.065, tinted=0.08)
PAIRS = Mix(single=0.12, position=0.05, pair=0.68, count=0.07)
FINISH = Mix(single=0.20, position=0.04, pair=0.60, count=0.11, shape=0.10, tinted=0.15)
MIXES = {"singles": SINGLES, "scenes": Mix(), "pairs": PAIRS, "finish": FINISH}


@dataclass
class Scene:
    caption: str
    width: int
    height: int
    things: list[Thing]
    layout: list[tuple[int, int, int]]  # x, y, size of each thing
    background: object  # see draw_background


def _side(value):
    return max(32, int(value) // SIDE_STEP * SIDE_STEP)


class Layouts:
    """Where things are: lists of (x, y, side). Sides are multiples of 16 pixels, places of 8, a cell
    of the latents, which centres things of every side."""

    def _snap(self, value):
        return int(value) // PLACE_STEP * PLACE_STEP

    def single(self, width, height, size=""):
        shorter = min(width, height)
        side = {"": _side(0.76 * shorter), "small": _side(0.4 * shorter), "big": shorter}[size]
        return [(self._snap((width - side) / 2), self._snap((height - side) / 2), side)]

    def position(self, width, height, vertical, horizontal):
        side = _side(0.5 * min(width, height))
        x = {"left": 0, "right": width - side, "center": (width - side) / 2}[horizontal]
        y = {"top": 0, "bottom": height - side, "center": (height - side) / 2}[vertical]
        return [(self._snap(x), self._snap(y), side)]

    def pair(self, width, height, stacked):
        if stacked:
            side = _side(min(height / 2, width))
            x = self._snap((width - side) / 2)
            return [(x, self._snap(height * part - side / 2), side) for part in (0.25, 0.75)]
        side = _side(min(width / 2, height))
        y = self._snap((height - side) / 2)
        return [(self._snap(width * part - side / 2), y, side) for part in (0.25, 0.75)]

    def count(self, width, height, n):
        """Rows of equal things, as large as fits; None if n things do not fit at 32 pixels."""
        best = None
        for rows in range(1, n + 1):
            columns = -(-n // rows)
            side = _side(min(width / columns, height / rows))
            fits = side * columns <= width and side * rows <= height
            if (rows - 1) * columns < n and fits and (best is None or side > best[0]):
                best = (side, rows, columns)
        if best is None:
            return None
        side, rows, columns = best
        cells, left = [], n
        for row in range(rows):
            in_row = min(columns, left)
            left -= in_row
            x, y = (width - side * in_row) / 2, (height - side * rows) / 2 + row * side
            cells += [(self._snap(x + i * side), self._snap(y), side) for i in range(in_row)]
        return cells


class SceneMaker:
    """Draws scenes from a random.Random: the same generator state gives the same scenes."""

    def __init__(self, concepts, mix=None):
        self.concepts = concepts
        self.layouts = Layouts()
        self.mix = mix or Mix()
        self.artist = Artist(concepts)
        drawable = [*range(len(concepts)), *SHAPES]  # what Thing.what may be
        self.thing_numbers = {what: number for number, what in enumerate(drawable)}
        self._phrases = {word for concept in concepts for word in concept.synonyms}

    def noun(self, thing, rng=None):
        """What the thing is called; with a generator, two in five times by a synonym."""
        if thing.kind == "shape":
            noun = thing.what
        else:
            concept = self.concepts[thing.what]
            vary = rng is not None and rng.random() < 0.4
            noun = rng.choice(concept.synonyms) if vary else concept.word
        return f"{thing.color} {noun}" if thing.color else noun

    def means_another(self, thing):
        """A tinted apple is not "green apple", another thing, nor a tinted heart the shape."""
        if thing.kind == "shape" or not thing.color:
            return False
        nouns = self.concepts[thing.what].synonyms
        tinted = {f"{thing.color} {noun}" for noun in nouns}
        return nouns[0] in SHAPES or not tinted.isdisjoint(self._phrases)

    def pick(self, rng):
        while True:
            r = rng.random()
            if r < self.mix.shape:
                colors = [c for c in COLORS if c != "white"]
                thing = Thing("shape", rng.choice(SHAPES), rng.choice(colors))
            elif r < self.mix.shape + self.mix.tinted:
                thing = Thing("emoji", rng.randrange(len(self.concepts)), rng.choice(TINTS))
            else:
                return Thing("emoji", rng.randrange(len(self.concepts)))
            if not is_held_out(*thing.key()) and not self.means_another(thing):
                return thing

    def pick_background(self, rng):
        """A background and the words for it; pastels go unsaid."""
        r = rng.random()
        if r < self.mix.color_background:
            color = rng.choice(BACKGROUND_COLORS)
            phrase = rng.choice(words.COLOR_BACKGROUNDS)
            return color, " " + phrase.format(words.with_article(color))
        r -= self.mix.color_background
        if r < self.mix.landscape:
            place = rng.choice(list(LANDSCAPES))
            return place, " " + rng.choice(words.PLACES[place])
        if r < self.mix.landscape + 0.05:
            return WHITE, " on a white background"
        return rng.choice(PASTELS), ""

    def _named(self, noun, rng):
        """The noun with "a" or "an", now and then with "the" or without an article."""
        r = rng.random()
        return noun if r < 0.1 else f"the {noun}" if r < 0.16 else words.with_article(noun)

    # Each of these returns (caption, things, layout), or None to try again.

    def _single(self, rng, width, height):
        thing = self.pick(rng)
        r = rng.random()
        size = "" if r < 0.76 else "small" if r < 0.88 else "big"
        adjective = rng.choice(words.ADJECTIVES) + " " if rng.random() < 0.08 else ""
        noun = adjective + rng.choice(words.SIZES[size]) + self.noun(thing, rng)
        return self._named(noun, rng), [thing], self.layouts.single(width, height, size)

    def _position(self, rng, width, height):
        thing = self.pick(rng)
        vertical = rng.choice(["top", "bottom", "center"])
        horizontal = rng.choice(["left", "right", "center"])
        phrase = words.corner_phrase(vertical, horizontal, rng)
        caption = f"{self._named(self.noun(thing, rng), rng)} {phrase}"
        return caption, [thing], self.layouts.position(width, height, vertical, horizontal)

    def _pair(self, rng, width, height):
        things = [self.pick(rng), self.pick(rng)]
        if things[0] == things[1] or is_held_out(*(thing.key() for thing in things)):
            return None
        upright = min(2.0, height / width)  # the taller, the more often one above the other
        stacked = rng.random() < 0.5 * upright and width <= height * 1.4
        relation = rng.choice(words.STACKED if stacked else words.SIDE_BY_SIDE)
        names = [self._named(self.noun(thing, rng), rng) for thing in things]
        return relation.format(*names), things, self.layouts.pair(width, height, stacked)

    def _count(self, rng, width, height):
        n, thing = rng.choice([2, 2, 3, 3, 4, 4, 5, 6]), self.pick(rng)
        layout = self.layouts.count(width, height, n)
        noun = self.noun(thing, rng)
        bare = noun.removeprefix(f"{thing.color} ")
        if layout is None or (thing.kind == "emoji" and bare in words.UNCOUNTABLE):
            return None
        number = str(n) if rng.random() < 0.15 else words.NUMBERS[n]
        return f"{number} {words.plural(noun)}", [thing] * n, layout

    def _three(self, rng, width, height):
        things, layout = [self.pick(rng) for _ in range(3)], self.layouts.count(width, height, 3)
        if layout is None:
            return None
        names = [self._named(self.noun(thing, rng), rng) for thing in things]
        return rng.choice(words.THREE).format(*names), things, layout

    def make(self, rng, width, height):
        """One scene, without its picture."""
        mix, r = self.mix, rng.random()
        kinds = [self._single, self._position, self._pair, self._count]
        for make, share in zip(kinds, (mix.single, mix.position, mix.pair, mix.count)):
            if r < share:
                break
            r -= share
        else:
            make = self._three
        while True:
            made = make(rng, width, height)
            if made is None:
                if make in (self._count, self._three):  # may never fit into this size
                    make = self._single
                continue
            caption, things, layout = made
            background, phrase = self.pick_background(rng)
            if any(thing.color == background for thing in things):
                continue
            plain = len(things) == 1 and things[0].kind == "emoji" and not things[0].color
            if plain and is_held_out("bg", things[0].what, background):
                continue
            opening = rng.choice(words.OPENINGS) if rng.random() < 0.2 else ""
            return Scene(opening + caption + phrase, width, height, things, layout, background)

    def draw(self, scene, rng):
        picture = draw_background(scene.width, scene.height, scene.background, rng)
        for thing, (x, y, size) in zip(scene.things, scene.layout):
            drawn = self.artist.draw(thing, size)
            picture.paste(drawn, (x, y), drawn)
        return picture

    def cells(self, scene):
        """What is where: a thing's number for every token of 16 x 16 pixels, int16 [tokens]; one more
        than the last thing's for the background."""
        cells = np.full((scene.height // 16, scene.width // 16), len(self.thing_numbers), np.int16)
        for thing, (x, y, size) in zip(scene.things, scene.layout):
            rows, columns = (slice((z + 8) // 16, (z + size + 8) // 16) for z in (y, x))
            cells[rows, columns] = self.thing_numbers[thing.what]
        return cells.ravel()

    def sample(self, rng, width, height):
        """(caption, RGB picture, what is where)"""
        scene = self.make(rng, width, height)
        return scene.caption, self.draw(scene, rng), self.cells(scene)
