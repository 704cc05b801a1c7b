"""The things the model can draw: names, synonyms and their pictures.

concepts.txt lists all curated things, `CLDR name=word|synonym|...`; a file of words, one a line,
picks some by their first word (models/emoji/words.txt: its own). Their order in concepts.txt
numbers them, and the numbers decide which combinations are held out of training
(scenes.is_held_out): append to concepts.txt, do not reorder it while weights trained with it are in
use.
"""

import json
from dataclasses import dataclass

from PIL import Image

from . import paths


@dataclass
class Concept:
    name: str  # CLDR's
    word: str
    synonyms: list[str]  # the word itself comes first
    picture: Image.Image  # RGBA, square, cropped to what is drawn


def _square(picture):
    picture = picture.crop(picture.getbbox())
    side = max(picture.size)
    square = Image.new("RGBA", (side, side), (0, 0, 0, 0))
    square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return square


def index():
    return json.loads(paths.need(paths.PICTURES / "index.json", "extract_pictures.py").read_text())


def _picture(key):
    return _square(Image.open(paths.PICTURES / f"{key}.png").convert("RGBA"))


def every_picture():
    """One concept for each picture of the font, by its CLDR name; skin tones are left out. For the
    VAE, which should draw what later lists of things ask for."""
    return [
        Concept(entry["name"], entry["name"], [entry["name"]], _picture(entry["key"]))
        for entry in index()
        if "skin tone" not in entry["name"]
    ]


def load(words=None):
    """The concepts that `words` (a path, or None for all of concepts.txt) names, in file order."""
    keys = {entry["name"]: entry["key"] for entry in index()}
    wanted = {line.strip() for line in open(words) if line.strip()} if words else None
    found, meaning = [], {}
    for line in open(paths.CONCEPTS):
        name, _, synonyms = line.strip().partition("=")
        synonyms = [word.lower() for word in (synonyms or name).split("|")]
        for word in synonyms:
            if meaning.setdefault(word, name) != name:
                raise SystemExit(f"{paths.CONCEPTS}: {word!r} is {meaning[word]} and {name}")
        if wanted is not None and synonyms[0] not in wanted:
            continue
        found.append(Concept(name, synonyms[0], synonyms, _picture(keys[name])))
    if wanted is not None and len(found) != len(wanted):
        raise SystemExit(f"{words}: not in concepts.txt: {wanted - {c.word for c in found}}")
    return found
