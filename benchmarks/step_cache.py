#!/usr/bin/env python3
"""Step caching beside whole steps: time, how the pictures differ, and what they show.

    benchmarks/step_cache.py --program build/release/steadyflux --limit 12
    benchmarks/step_cache.py -m RANDOM_MODEL --prompts 2 --thresholds 1 --size 512

Every prompt is drawn without and with each threshold in turn, each in a process of its own. Printed
are, for each threshold, the share of reused passes, the medians over pictures of the ratios of time
(of denoising, and of all phases) to the picture without, PSNR against it, and with --limit the share
of things that are recognised (scripts/evaluate_model.py says what that takes; --limit prompts of each
of its groups). --prompts takes a few fixed prompts instead, and scores nothing.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROMPTS = ["a red apple", "a cat", "a blue fish", "a tree", "a rocket", "a house on the grass",
           "two stars", "a penguin above a pizza"]


def draw(args, prompt, seed, output, threshold):
    command = [args.program, prompt, "-m", args.model, "-W", args.size, "-H", args.size, "--steps",
               args.steps, "-s", seed, "--max-sequence-length", args.length, "--json", "-q",
               "--cache-threshold", threshold, "-o", output, *args.options]
    done = subprocess.run([str(part) for part in command], capture_output=True, check=True)
    told = json.loads(done.stdout)
    denoise = sum(p["seconds"] for p in told["phases"] if p["name"] == "denoise")
    return denoise, told["seconds"], told["images"][0].get("passes")


def psnr(picture, other):
    import numpy as np

    difference = picture.astype(np.float64) - other.astype(np.float64)
    mean = float((difference**2).mean())
    return math.inf if mean == 0 else 10 * math.log10(255**2 / mean)


class Prompts:
    """What is drawn, and a judge of it if there is one."""

    def __init__(self, args):
        self.recogniser = None
        self.items = [(prompt, None) for prompt in PROMPTS[: args.prompts]]
        if args.limit is None:
            return
        sys.path.insert(0, str(ROOT / "scripts/train"))
        from steadytrain import concepts, evaluation, paths, scenes

        maker = scenes.SceneMaker(concepts.load(paths.WORDS))
        self.recogniser = evaluation.Recogniser(maker)
        groups = evaluation.make_items(maker, args.size, args.limit, args.seed)
        self.items = [(item.prompt, item) for items in groups.values() for item in items]

    def score(self, item, picture):
        return self.recogniser.score(item, picture)["thing"] if item is not None else None


def row(name, drawn, usual):
    """One line of the table. Both: {item number: (denoise, all, passes, pixels, score)}."""
    pairs = [(drawn[i], usual[i]) for i in drawn]
    reused = sum(d[2]["reused"] for d, _ in pairs if d[2])
    passes = sum(d[2]["reused"] + d[2]["computed"] for d, _ in pairs if d[2])
    cells = [name, f"{100 * reused / passes:.0f} %" if passes else "-"]
    for which in (0, 1):
        cells.append(f"{statistics.median(u[which] / d[which] for d, u in pairs):.2f}")
    values = [psnr(d[3], u[3]) for d, u in pairs]
    cells.append("-" if drawn is usual else f"{statistics.median(values):.1f}")
    scores = [d[4] for d, _ in pairs if d[4] is not None]
    cells.append(f"{100 * statistics.mean(scores):.1f}" if scores else "-")
    return "| " + " | ".join(cells) + " |"


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", type=Path, default=ROOT / "build/release/steadyflux")
    parser.add_argument("-m", "--model", default=ROOT / "models/emoji")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=28)
    parser.add_argument("--length", type=int, default=64, help="max_sequence_length")
    parser.add_argument("--seed", type=int, default=4242)
    parser.add_argument("--thresholds", nargs="+", default=["0.05", "0.1", "0.15", "0.2", "0.3"])
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--prompts", type=int, default=len(PROMPTS), help="so many fixed ones")
    what.add_argument("--limit", type=int, help="so many of each group, and score them")
    parser.add_argument("--options", nargs=argparse.REMAINDER, default=[],
                        help="what follows goes to the program")  # fmt: skip
    args = parser.parse_args()
    import numpy as np
    from PIL import Image

    prompts = Prompts(args)
    columns = {name: {} for name in ["0", *args.thresholds]}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "out.png"
        draw(args, *(prompts.items[0][0], args.seed, file, "0"))  # warms up the page cache
        for number, (prompt, item) in enumerate(prompts.items):
            for threshold, column in columns.items():
                times = draw(args, prompt, args.seed + number, file, threshold)
                pixels = np.asarray(Image.open(file).convert("RGB"))
                column[number] = (*times, pixels, prompts.score(item, pixels))
    print(f"{len(prompts.items)} pictures of {args.size} px, {args.steps} steps; times as often as "
          "fast, medians")
    print("| threshold | reused | denoising | all | PSNR, dB | things, % |")
    print("|---|---|---|---|---|---|")
    for name, column in columns.items():
        print(row(name, column, columns["0"]))


if __name__ == "__main__":
    main()
