"""English in small: articles, plurals, numbers and the phrases that captions are made of."""

import re

NUMBERS = ["zero", "one", "two", "three", "four", "five", "six"]
OPENINGS = [
    f"{what} of "
    for what in (
        "a photo", "a picture", "an illustration", "a drawing", "an emoji", "an image",
        "a painting", "a cartoon",
    )
]  # fmt: skip
ADJECTIVES = ["cute", "beautiful", "nice", "funny"]
SIZES = {"": [""], "small": ["small ", "tiny ", "little "], "big": ["big ", "large ", "huge "]}
PLACES = {
    "grass": ["on the grass", "in a green field", "in the park", "on grass"],
    "beach": ["on the beach", "at the beach"],
    "snow": ["in the snow", "in winter"],
    "night": ["at night", "in the night sky", "in space"],
    "sea": ["under water", "in the sea", "in the ocean"],
    "sunset": ["at sunset"],
}
# Appended to a few captions, so that words without a picture do no harm.
ENDINGS = [
    ", highly detailed", ", 4k", " holding a sign that says hello world", ", digital art",
    " running", " sleeping", " with a smile", ", high quality", " from the side",
    ", masterpiece", " eating lunch", ", studio lighting", " in the style of van gogh",
    " looking at the camera",
]  # fmt: skip
SIDE_BY_SIDE = ["and"] * 4 + [
    "next to", "beside", "to the left of", "left of", "to the right of", "with",
]  # fmt: skip
STACKED = ["above", "below", "under", "over", "on top of"]
UNCOUNTABLE = {
    "corn", "popcorn", "spaghetti", "sushi", "garlic", "bread", "fire", "coffee", "broccoli",
    "santa", "beer", "poop",
}  # fmt: skip
_SINGULAR_IN_S = {"bus", "octopus", "cactus", "compass", "hippopotamus"}
_IRREGULAR = {
    "mouse": "mice", "wolf": "wolves", "fish": "fish", "deer": "deer", "dice": "dice",
    "man": "men", "woman": "women", "old man": "old men", "old woman": "old women",
    "tooth": "teeth", "scissors": "scissors", "glasses": "glasses", "shrimp": "shrimp",
    "squid": "squid", "fox": "foxes",
}  # fmt: skip


def _is_plural(word):
    return word.endswith("s") and not word.endswith("ss") and word not in _SINGULAR_IN_S


def plural(noun):
    if noun in _IRREGULAR:
        return _IRREGULAR[noun]
    if _is_plural(noun):
        return noun
    if re.search("(s|x|ch|sh)$", noun):
        return noun + "es"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    if noun.endswith("fe"):
        return noun[:-2] + "ves"
    return noun + "s"


def with_article(noun):
    if _is_plural(noun.split()[-1]) or noun in UNCOUNTABLE:
        return noun
    takes_an = noun[0] in "aeiou" and not noun.startswith(("un", "uf"))
    return ("an " if takes_an else "a ") + noun


def corner_phrase(vertical, horizontal):
    """("top", "left") -> "in the top left corner"; "center" is the third value of both."""
    if vertical == horizontal == "center":
        return "in the center"
    if vertical == "center":
        return f"on the {horizontal}"
    if horizontal == "center":
        return f"at the {vertical}"
    return f"in the {vertical} {horizontal} corner"
