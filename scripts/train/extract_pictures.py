#!/usr/bin/env python3
"""Takes the pictures out of the emoji font and joins them with their CLDR names.

Writes work/pictures/<code points>.png (136 x 128, RGBA) and work/pictures/index.json with
{"key", "name", "keywords"} per picture. Emoji made of several code points (families, professions)
are found through the font's ligatures. Takes about ten seconds.
"""

import io
import json
import xml.etree.ElementTree as ET

from fontTools.ttLib import TTFont
from PIL import Image

from steadytrain import paths

VARIATION_SELECTOR = 0xFE0F
GSUB_LIGATURE, GSUB_EXTENSION = 4, 7


def read_ligatures(font):
    """Sequences of glyph names -> the glyph that draws them together."""
    ligatures = {}
    for lookup in font["GSUB"].table.LookupList.Lookup:
        for table in lookup.SubTable:
            if table.LookupType == GSUB_EXTENSION:
                table = table.ExtSubTable
            if table.LookupType != GSUB_LIGATURE:
                continue
            for first, rest in table.ligatures.items():
                for ligature in rest:
                    ligatures[(first, *ligature.Component)] = ligature.LigGlyph
    return ligatures


def read_names():
    """Emoji -> English name, and emoji -> keywords."""
    names, keywords = {}, {}
    for folder in ("annotations", "annotationsDerived"):
        path = paths.need(paths.CLDR / folder / "en.xml", "fetch_data.sh")
        for entry in ET.parse(path).getroot().iter("annotation"):
            if entry.get("type") == "tts":
                names[entry.get("cp")] = entry.text
            else:
                keywords[entry.get("cp")] = [word.strip() for word in entry.text.split("|")]
    return names, keywords


def main():
    font = TTFont(paths.need(paths.FONT, "fetch_data.sh"))
    glyphs = font["CBDT"].strikeData[0]
    cmap, ligatures = font.getBestCmap(), read_ligatures(font)
    names, keywords = read_names()
    paths.PICTURES.mkdir(parents=True, exist_ok=True)
    index = []
    for emoji, name in names.items():
        code_points = [ord(c) for c in emoji if ord(c) != VARIATION_SELECTOR]
        sequence = tuple(cmap.get(c) for c in code_points)
        glyph = sequence[0] if len(sequence) == 1 else ligatures.get(sequence)
        if glyph is None or glyph not in glyphs:
            continue
        key = "-".join(f"{c:x}" for c in code_points)
        picture = Image.open(io.BytesIO(glyphs[glyph].imageData)).convert("RGBA")
        picture.save(paths.PICTURES / f"{key}.png")
        index.append(dict(key=key, name=name, keywords=keywords.get(emoji, [])))
    (paths.PICTURES / "index.json").write_text(json.dumps(index, ensure_ascii=False, indent=0))
    print(f"{len(index)} pictures in {paths.PICTURES}")


if __name__ == "__main__":
    main()
