#!/usr/bin/env python3
"""Progressive pictures beside direct ones: seconds, peak of memory, and how they look.

    benchmarks/progressive.py --program build/release/steadyflux -m MODEL --size 256 [--base-size N]

Both are made in turn, --rounds times over all prompts, each in a process of its own; what is printed
is the median over pictures of their ratio. Scores of both: scripts/evaluate_model.py with --options.
"""

import argparse
import json
import statistics
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PROMPTS = ["a red apple", "a cat", "a blue fish", "a tree", "a rocket", "a house on the grass"]


def make(args, prompt, output, options):
    command = [args.program, prompt, "-m", args.model, "--size", args.size, "-s", args.seed,
               "--no-cache", "--json", "-o", output, *options]
    done = subprocess.run([str(part) for part in command], capture_output=True, check=True)
    told = json.loads(done.stdout)
    return told["seconds"], max(phase["peak_rss"] for phase in told["phases"])


def sheet(pictures, file):
    from PIL import Image

    opened = [[Image.open(path).convert("RGB") for path in row] for row in pictures]
    side = 128
    result = Image.new("RGB", (side * len(opened[0]), side * len(opened)))
    for y, row in enumerate(opened):
        for x, picture in enumerate(row):
            result.paste(picture.resize((side, side)), (x * side, y * side))
    result.save(file)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", type=Path, default=ROOT / "build/release/steadyflux")
    parser.add_argument("-m", "--model", default=ROOT / "models/emoji")
    parser.add_argument("--size", default="256")
    parser.add_argument("--base-size")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--sheet", type=Path, help="direct above progressive, small (wants Pillow)")
    args = parser.parse_args()
    stages = ["--base-size", args.base_size] if args.base_size else ["--progressive"]

    times, peaks = [], []
    with tempfile.TemporaryDirectory() as folder:
        files = [[Path(folder) / f"{kind}{i}.png" for i in range(len(PROMPTS))] for kind in "dp"]
        for _ in range(args.rounds):
            for prompt, direct, progressive in zip(PROMPTS, *files):
                one = make(args, prompt, direct, [])
                other = make(args, prompt, progressive, stages)
                times.append(other[0] / one[0])
                peaks.append(other[1] / one[1])
        if args.sheet:
            sheet(files, args.sheet)
    print(f"progressive to direct at {args.size} px, {len(times)} pairs: "
          f"time {statistics.median(times):.2f}, peak RSS {statistics.median(peaks):.2f}")


if __name__ == "__main__":
    main()
