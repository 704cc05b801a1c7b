"""Where things lie. What the scripts make goes below scripts/train/work (git ignores it), or below
$STEADYTRAIN_WORK."""

import os
from pathlib import Path

HOME = Path(__file__).resolve().parents[1]
WORK = Path(os.environ.get("STEADYTRAIN_WORK", HOME / "work"))
FONT = WORK / "data/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"
CLDR = WORK / "data/usr/share/unicode/cldr/common"
PICTURES = WORK / "pictures"  # one PNG a glyph and index.json
TOKENIZERS = WORK / "tokenizers"  # clip/ and t5/
CONCEPTS = HOME / "concepts.txt"
BUNDLED = HOME.parents[1] / "models/emoji"
WORDS = BUNDLED / "words.txt"  # the things it can draw


def need(path, script):
    """Stops with one line when an earlier step of the recipe has not been run."""
    if not path.exists():
        raise SystemExit(f"{path} is missing: run {script} first")
    return path
