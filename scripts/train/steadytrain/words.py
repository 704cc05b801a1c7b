"""English in small: articles, plurals, numbers and the phrases that captions are made of."""

import re

NUMBERS = ["zero", "one", "two", "three", "four", "five", "six"]
OPENINGS = [
    f"{what} of "
    for what in (
        "a photo", "a picture", "an illustration", "a drawing", "an emoji", "an image",
        "a painting", "a cartoon", "picture", "drawing", "an icon",
    )
] + ["draw ", "show me ", "there is ", "i want ", "paint "]  # fmt: skip
ADJECTIVES = ["cute", "beautiful", "nice", "funny", "lovely", "simple", "colorful"]
SIZES = {
    "": [""],
    "small": ["small ", "tiny ", "little "],
    "big": ["big ", "large ", "huge ", "giant "],
}
PLACES = {
    "grass": [
        "on the grass", "in a green field", "in the park", "on grass", "in a meadow", "on a lawn",
    ],
    "beach": ["on the beach", "at the beach", "on the sand", "by the sea"],
    "snow": ["in the snow", "in winter", "on snow"],
    "night": ["at night", "in the night sky", "in space", "under the stars"],
    "sea": ["under water", "in the sea", "in the ocean", "underwater"],
    "sunset": ["at sunset", "at dusk"],
}  # fmt: skip
# Appended to a few captions, so that words without a picture do no harm.
ENDINGS = [
    ", highly detailed", ", 4k", " holding a sign that says hello world", ", digital art",
    " running", " sleeping", " with a smile", ", high quality", " from the side",
    ", masterpiece", " eating lunch", ", studio lighting", " in the style of van gogh",
    " looking at the camera",
]  # fmt: skip
# {0} is the left or upper thing.
SIDE_BY_SIDE = ["{0} and {1}"] * 5 + [
    "{0} next to {1}", "{0} beside {1}", "{0} with {1}", "{0} to the left of {1}",
    "{0} left of {1}", "{0} on the left of {1}", "{1} to the right of {0}", "{1} right of {0}",
    "{1} on the right of {0}", "{0} on the left and {1} on the right",
    "{1} on the right and {0} on the left", "{0} on the left, {1} on the right",
    "{0} with {1} on its right", "{1} with {0} on its left", "{0} with {1} to its right",
    "{1} with {0} to its left",
]  # fmt: skip
STACKED = [
    "{0} above {1}", "{0} over {1}", "{0} on top of {1}", "{1} below {0}", "{1} under {0}",
    "{1} beneath {0}", "{1} underneath {0}", "{0} at the top and {1} at the bottom",
    "{1} with {0} above it", "{0} with {1} below it",
]  # fmt: skip
THREE = ["{0}, {1} and {2}"] * 2 + ["{0}, {1}, {2}", "{0} and {1} and {2}", "{0}, {1}, and {2}"]
COLOR_BACKGROUNDS = ["on {0} background"] * 4 + [
    "with {0} background", "against {0} background", "in front of {0} background",
]  # fmt: skip
UNCOUNTABLE = {
    "corn", "popcorn", "spaghetti", "sushi", "garlic", "bread", "fire", "coffee", "broccoli",
    "santa", "beer", "poop", "milk", "bacon", "soup", "ramen", "salad", "meat", "pasta",
    "chocolate", "soap", "yarn", "thread", "dna", "rain", "toilet paper", "pudding", "soda",
    "coral", "cattle", "lightning", "sunshine", "firewood", "sand", "luggage", "red wine",
    "santa claus", "father christmas", "money", "tennis", "meditation", "maize", "medicine",
}  # fmt: skip
_SINGULAR_IN_S = {
    "bus", "octopus", "cactus", "hippopotamus", "abacus", "tyrannosaurus", "rhinoceros",
}  # fmt: skip
COLOR_WORDS = {
    "red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "gray", "white",
}  # fmt: skip
_IRREGULAR = {
    "mouse": "mice", "wolf": "wolves", "fish": "fish", "deer": "deer", "dice": "dice",
    "man": "men", "woman": "women", "old man": "old men", "old woman": "old women",
    "tooth": "teeth", "scissors": "scissors", "glasses": "glasses", "shrimp": "shrimp",
    "squid": "squid", "fox": "foxes", "sheep": "sheep",
    "bison": "bison", "knife": "knives", "kitchen knife": "kitchen knives", "foot": "feet",
    "die": "dice", "scarf": "scarves",
    "policeman": "policemen", "fireman": "firemen", "spaceman": "spacemen",
    "bearded man": "bearded men", "snowman": "snowmen", "tomato": "tomatoes",
    "potato": "potatoes", "mango": "mangoes",
    "volcano": "volcanoes", "mosquito": "mosquitoes", "superhero": "superheroes",
    "tornado": "tornadoes",
}  # fmt: skip


def _split(noun):
    """"cup of coffee" -> ("cup", " of coffee")"""
    found = re.search(r" (of|in|on a) ", noun)
    return (noun[: found.start()], noun[found.start() :]) if found else (noun, "")


def _is_plural(word):
    return word.endswith("s") and not word.endswith("ss") and word not in _SINGULAR_IN_S


def plural(noun):
    color, _, rest = noun.partition(" ")
    if color in COLOR_WORDS and rest:
        return f"{color} {plural(rest)}"
    noun, rest = _split(noun)
    if noun in _IRREGULAR:
        return _IRREGULAR[noun] + rest
    if _is_plural(noun.split()[-1]):
        return noun + rest
    if re.search("(s|x|ch|sh)$", noun):
        return noun + "es" + rest
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies" + rest
    if noun.endswith("fe"):
        return noun[:-2] + "ves" + rest
    return noun + "s" + rest


def with_article(noun):
    head = _split(noun)[0]
    color, _, rest = noun.partition(" ")
    bare = rest if color in COLOR_WORDS else noun
    if _is_plural(head.split()[-1]) or bare in UNCOUNTABLE:
        return noun
    takes_an = noun[0] in "aeiou" and not noun.startswith(("un", "uf", "eu"))
    return ("an " if takes_an or noun.startswith("hour") else "a ") + noun


def corner_phrase(vertical, horizontal, rng=None):
    """("top", "left") -> "in the top left corner"; "center" is the third value of both. With a
    generator sometimes in other words."""
    if vertical == horizontal == "center":
        return "in the center" if rng is None else rng.choice(["in the center", "in the middle"])
    if vertical == "center":
        return f"on the {horizontal}" + ("" if rng is None else rng.choice(["", "", " side"]))
    upper = {"top": "upper", "bottom": "lower"}[vertical]
    if horizontal == "center":
        plain = [f"at the {vertical}"]
        more = [f"in the {upper} part", f"on the {vertical}"]
    else:
        plain = [f"in the {vertical} {horizontal} corner"]
        more = [f"in the {vertical} {horizontal}", f"in the {upper} {horizontal} corner",
                f"at the {vertical} {horizontal}", f"in the {upper} {horizontal}"]  # fmt: skip
    return plain[0] if rng is None or rng.random() < 0.5 else rng.choice(more)
