"""Pictures of the program as pixels and by their records. Part of cli_test.py."""

import json

from png_pixels import read_png
from program import CliTest, png_text


def largest_difference(a, b):
    return max(abs(x - y) for x, y in zip(a, b, strict=True))


class PictureTest(CliTest):
    def pixels(self, name="out.png"):
        return read_png(self.folder / name)[2]

    def record(self, name="out.png"):
        return json.loads(png_text((self.folder / name).read_bytes(), "steadyflux"))

    def assertSamePixels(self, one, other):
        self.assertEqual(read_png(self.folder / one), read_png(self.folder / other))

    def assertGolden(self, golden, name="out.png"):
        """What the project promises of pictures in fp32: 2 of 255 from those of diffusers."""
        width, height, expected = read_png(golden)
        found = read_png(self.folder / name)
        self.assertEqual(found[:2], (width, height))
        self.assertLessEqual(largest_difference(found[2], expected), 2)
