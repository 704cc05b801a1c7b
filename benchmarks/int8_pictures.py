"""How far pictures of the bundled model with --compute int8 are from those without: PSNR over the
things it knows, some on a background, some in a colour, each with a seed of its own; and which
prompts are furthest from it.
Use: int8_pictures.py STEADYFLUX [OPTIONS OF BATCH...]"""
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from step_cache import psnr

WORDS = Path(__file__).resolve().parent.parent / "models/emoji/words.txt"
FORMS = ["a {}", "a {} on a blue background", "a purple {}", "three {}s"]


def pictures(program, prompts, folder, *options):
    subprocess.run([program, "batch", prompts, "-o", folder, "-q", *options], check=True)
    return [np.asarray(Image.open(file).convert("RGB"))
            for file in sorted(folder.glob("*.png"))]


def main():
    program, *options = sys.argv[1:]
    texts = [FORMS[i % len(FORMS)].format(word)
             for i, word in enumerate(WORDS.read_text().splitlines())]
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        prompts = folder / "prompts.jsonl"
        prompts.write_text("".join(json.dumps({"prompt": text, "seed": 1000 + i}) + "\n"
                                   for i, text in enumerate(texts)))
        plain = pictures(program, prompts, folder / "plain", *options)
        rounded = pictures(program, prompts, folder / "int8", "--compute", "int8", *options)
    found = sorted((round(psnr(a, b), 1), text)
                   for a, b, text in zip(plain, rounded, texts, strict=True))
    values = [value for value, _ in found]
    print(json.dumps({"pictures": len(found), "psnr_least": values[0],
                      "psnr_tenth": values[len(found) // 10],
                      "psnr_median": statistics.median(values), "least": dict(
                          (text, value) for value, text in found[:5])}))


if __name__ == "__main__":
    main()
