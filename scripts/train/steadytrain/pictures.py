"""Draws things and backgrounds: emoji, tinted emoji, plain shapes; colours and six landscapes."""

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

COLORS = {
    "red": (220, 40, 40), "orange": (250, 140, 20), "yellow": (250, 215, 40),
    "green": (50, 165, 70), "blue": (45, 105, 225), "purple": (140, 60, 190),
    "pink": (250, 150, 195), "brown": (130, 80, 45), "black": (25, 25, 25),
    "gray": (135, 135, 135), "white": (255, 255, 255),
}  # fmt: skip
BACKGROUND_COLORS = [c for c in COLORS if c != "white"]
TINTS = [c for c in COLORS if c not in ("brown", "black", "white")]
SHAPES = ["circle", "square", "triangle", "star", "heart", "diamond shape"]
SHAPE_SIDE = 384  # shapes are drawn large and scaled down
CACHE_LIMIT = 40000


@dataclass(frozen=True)
class Thing:
    """Part of a scene: concept number `what`, perhaps tinted, or shape `what` in a colour."""

    kind: str  # "emoji" or "shape"
    what: int | str
    color: str | None = None

    def key(self):
        """What names the thing when combinations are held out."""
        return (self.kind[0], self.what, self.color)


def tint(picture, color):
    """Keeps light and shade, replaces the hue: dark parts mix to black, light ones to white."""
    pixels = np.asarray(picture).astype(np.float32)
    luma = pixels[..., :3] @ np.array([0.299, 0.587, 0.114], np.float32) / 255
    luma = (0.12 + 0.88 * luma)[..., None]
    color, middle = np.array(color, np.float32), 0.62
    dark = color * (luma / middle)
    light = color + (255 - color) * ((luma - middle) / (1 - middle)) * 0.85
    rgb = np.where(luma < middle, dark, light)
    rgba = np.concatenate([rgb, pixels[..., 3:]], -1).clip(0, 255).astype(np.uint8)
    return Image.fromarray(rgba, "RGBA")


def _star(center, radius, margin):
    for i in range(10):
        r, angle = (radius if i % 2 == 0 else radius * 0.42), i * math.pi / 5
        yield center + r * math.sin(angle), center - r * math.cos(angle) + margin * 0.5


def _heart(center, radius, margin):
    for i in range(180):
        t = i * 2 * math.pi / 180
        y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
        yield (
            center + radius * 0.98 * 16 * math.sin(t) ** 3 / 16.5,
            center - radius * 0.98 * y / 16.5 - margin * 0.3,
        )


def draw_shape(shape, color):
    side = SHAPE_SIDE
    picture = Image.new("RGBA", (side, side), (0, 0, 0, 0))
    draw, fill, m = ImageDraw.Draw(picture), (*color, 255), side * 0.05
    center, radius = side / 2, side / 2 - m
    if shape == "circle":
        draw.ellipse([m, m, side - m, side - m], fill=fill)
    elif shape == "square":
        draw.rectangle([m * 1.5, m * 1.5, side - m * 1.5, side - m * 1.5], fill=fill)
    elif shape == "triangle":
        corners = [(center, m * 1.5), (side - m, side - m * 1.8), (m, side - m * 1.8)]
        draw.polygon(corners, fill=fill)
    elif shape == "diamond shape":
        corners = [(center, m), (side - m * 2.5, center), (center, side - m), (m * 2.5, center)]
        draw.polygon(corners, fill=fill)
    elif shape == "star":
        draw.polygon(list(_star(center, radius, m)), fill=fill)
    elif shape == "heart":
        draw.polygon(list(_heart(center, radius, m)), fill=fill)
    else:
        raise ValueError(f"unknown shape {shape!r}")
    return picture


class Artist:
    """Draws things at a size, remembering what it has drawn."""

    def __init__(self, concepts):
        self.concepts = concepts
        self._cache = {}

    def draw(self, thing, size):
        """The thing as RGBA, size x size, with a margin of 3 %."""
        if (thing, size) in self._cache:
            return self._cache[thing, size]
        if thing.kind == "shape":
            picture = draw_shape(thing.what, COLORS[thing.color])
        else:
            picture = self.concepts[thing.what].picture
            if thing.color:
                picture = tint(picture, COLORS[thing.color])
        margin = max(1, round(size * 0.03))
        inner = size - 2 * margin
        filter_ = Image.LANCZOS if inner < picture.width else Image.BICUBIC
        # Scaled with premultiplied alpha, so that edges take no colour from clear pixels.
        scaled = picture.convert("RGBa").resize((inner, inner), filter_).convert("RGBA")
        result = Image.new("RGBA", (size, size), (0, 0, 0, 0))
        result.paste(scaled, (margin, margin))
        if len(self._cache) < CACHE_LIMIT:
            self._cache[thing, size] = result
        return result


# Landscapes: sky colours from top to bottom, then bands (from, to, colour) as parts of the height.
LANDSCAPES = {
    "grass": (((135, 200, 250), (215, 240, 255)), [(0.625, 1, (95, 180, 75))]),
    "beach": (
        ((130, 205, 250), (200, 235, 255)),
        [(0.5, 0.7, (40, 140, 205)), (0.7, 1, (240, 215, 150))],
    ),
    "snow": (((170, 205, 235), (225, 238, 250)), [(0.625, 1, (250, 252, 255))]),
    "night": (((10, 12, 50), (40, 45, 110)), []),
    "sea": (((110, 200, 240), (10, 60, 140)), []),
    "sunset": (((250, 120, 70), (255, 220, 130)), [(0.75, 1, (90, 60, 90))]),
}


def draw_background(width, height, background, rng):
    """`background`: an RGB triple, a name in COLORS, or a name in LANDSCAPES."""
    if isinstance(background, tuple):
        return Image.new("RGB", (width, height), background)
    if background in COLORS:
        return Image.new("RGB", (width, height), COLORS[background])
    (top, bottom), bands = LANDSCAPES[background]
    y = np.linspace(0, 1, height)[:, None, None]
    sky = np.array(top) * (1 - y) + np.array(bottom) * y
    pixels = np.broadcast_to(sky, (height, width, 3)).copy()
    for start, end, color in bands:
        pixels[int(height * start) : int(height * end)] = color
    if background == "night":
        for _ in range(max(6, width * height // 1500)):
            x, y = rng.randrange(width - 1), rng.randrange(height - 1)
            pixels[y : y + 2, x : x + 2] = (255, 250, 200)
    return Image.fromarray(pixels.astype(np.uint8))
