#!/usr/bin/env python3
"""Scores pictures made by the steadyflux program: does each show what its prompt says?

    scripts/evaluate_model.py --limit 20                      # build/release/steadyflux, quick look
    scripts/evaluate_model.py --json scores.json              # everything at 64, 96 and 128 px
    scripts/evaluate_model.py --diffusers --sizes 64          # the same prompts, drawn by diffusers
    scripts/evaluate_model.py --originals                     # the recogniser on the true pictures
    scripts/evaluate_model.py --sizes 192 256x144 --steps 4   # other sizes, fewer steps
    scripts/evaluate_model.py --sizes 256 --composed-at 64 --options --progressive

Needs the training data (scripts/train/fetch_data.sh, extract_pictures.py) to compare with, and the
packages of scripts/train/requirements.txt. Prompts and seeds are fixed by --seed. Which things the
model can draw, MODEL/words.txt says.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts/train"))

from steadytrain import concepts, evaluation, scenes  # noqa: E402

COLUMNS = ["thing", "all", "color", "background"]


def steadyflux_drawer(args):
    """One run of `steadyflux batch` for each group."""
    if not args.program.exists():
        raise SystemExit(f"{args.program} does not exist: build it, or name it with --program")

    def draw(items, size):
        with tempfile.TemporaryDirectory() as folder:
            folder = Path(folder)
            entries = [
                dict(prompt=item.prompt, seed=args.seed + number, output=f"{number}.png")
                for number, item in enumerate(items)
            ]
            prompts = folder / "prompts.jsonl"
            prompts.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
            command = [
                args.program, "batch", prompts, "-m", args.model, "-W", size[0], "-H", size[1],
                "--steps", args.steps, "--max-sequence-length", args.length,
                "-o", folder, "-q", *args.options,
            ]  # fmt: skip
            done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
            if done.returncode != 0:
                raise SystemExit(f"steadyflux batch: exit {done.returncode}: {done.stderr}")
            for entry in entries:
                yield np.asarray(Image.open(folder / entry["output"]).convert("RGB"))

    return draw


def diffusers_drawer(args):
    import torch
    from diffusers import FluxPipeline

    torch.set_num_threads(args.threads)
    pipeline = FluxPipeline.from_pretrained(
        args.model, torch_dtype=getattr(torch, args.dtype)
    )
    pipeline.set_progress_bar_config(disable=True)
    pipeline.to(args.device)

    def draw(items, size):
        for start in range(0, len(items), args.batch):
            batch = items[start : start + args.batch]
            # One generator a picture, on the CPU, so that the noise is that of single runs.
            generators = [
                torch.Generator().manual_seed(args.seed + start + i) for i in range(len(batch))
            ]
            yield from (
                np.asarray(picture)
                for picture in pipeline(
                    prompt=[item.prompt for item in batch],
                    width=size[0],
                    height=size[1],
                    num_inference_steps=args.steps,
                    guidance_scale=0.0,
                    max_sequence_length=args.length,
                    generator=generators,
                ).images
            )

    return draw


def contact_sheet(pictures, size, file):
    columns, (width, height) = 8, size
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * (width + 2), rows * (height + 2)), (90, 90, 90))
    for i, picture in enumerate(pictures):
        place = i % columns * (width + 2), i // columns * (height + 2)
        sheet.paste(Image.fromarray(picture), place)
    sheet.save(file)


def parse_size(text):
    width, _, height = text.partition("x")
    return int(width), int(height or width)


def parse_arguments(arguments):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=ROOT / "models/emoji")
    parser.add_argument("--program", type=Path, default=ROOT / "build/release/steadyflux")
    way = parser.add_mutually_exclusive_group()
    way.add_argument("--diffusers", action="store_true", help="draw with diffusers instead")
    way.add_argument("--originals", action="store_true", help="score the true pictures instead")
    parser.add_argument("--words", type=Path, help="the list of things (default: the model's)")
    parser.add_argument("--sizes", type=parse_size, nargs="+", help="such as 64 or 128x96",
                        default=[(64, 64), (96, 96), (128, 128)])  # fmt: skip
    parser.add_argument("--groups", nargs="+", help="only these groups (rows of the table)")
    parser.add_argument("--limit", type=int, help="prompts a group at most (default: all, 60)")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--length", type=int, default=64, help="max_sequence_length")
    parser.add_argument("--composed-at", type=int, metavar="PIXELS",
                        help="look for things where a picture of this size has them, scaled: for "
                        "pictures that were begun so small")  # fmt: skip
    parser.add_argument("--options", nargs=argparse.REMAINDER, default=[],
                        help="what follows goes to the program, such as --progressive")  # fmt: skip
    parser.add_argument("--seed", type=int, default=4242)
    parser.add_argument("--threads", type=int, default=1, help="of diffusers")
    parser.add_argument("--device", default="cpu", help="of diffusers")
    parser.add_argument("--dtype", default="bfloat16", help="of diffusers, such as float32")
    parser.add_argument("--batch", type=int, default=16, help="pictures at once, of diffusers")
    parser.add_argument("--json", type=Path, help="write the scores here")
    parser.add_argument("--pictures", type=Path, help="keep a sheet of each group in this folder")
    args = parser.parse_args(arguments)
    args.words = args.words or args.model / "words.txt"
    return args


def main(arguments=None):
    args = parse_arguments(arguments)
    maker = scenes.SceneMaker(concepts.load(args.words))
    recogniser = evaluation.Recogniser(maker)
    if args.originals:
        draw = lambda items, size: (  # noqa: E731
            evaluation.draw_original(maker, item, size) for item in items
        )
    else:
        draw = diffusers_drawer(args) if args.diffusers else steadyflux_drawer(args)
    drawn_by = "originals" if args.originals else "diffusers" if args.diffusers else "steadyflux"
    report = dict(drawn_by=drawn_by, steps=args.steps, length=args.length, seed=args.seed,
                  options=args.options)  # fmt: skip
    report["scores"] = []
    print(f"drawn by {drawn_by}, {args.steps} steps, {len(maker.concepts)} things; scores in %")
    heads = "".join(f"{c:>12}" for c in [*COLUMNS, "s/picture"])
    print(f"{'size':>7} {'group':<26}{'n':>4}{heads}")
    prompts = 0
    for size in args.sizes:
        composed = size
        if args.composed_at:
            composed = tuple(n * args.composed_at // max(size) for n in size)
        inputs = (maker, composed, args.limit, args.seed)
        groups = evaluation.make_items(*inputs) | evaluation.make_more_items(*inputs)
        scale = size[0] / composed[0]
        shown = f"{size[0]}x{size[1]}"
        for name, items in groups.items():
            if args.groups and name not in args.groups:
                continue
            items = [evaluation.scaled(item, scale) for item in items]
            start = time.time()
            pictures = list(draw(items, size))
            seconds = (time.time() - start) / len(items)
            scores = [recogniser.score(item, p) for item, p in zip(items, pictures)]
            means = {}
            for column in COLUMNS:
                values = [score[column] for score in scores if column in score]
                if values:
                    means[column] = round(100 * float(np.mean(values)), 1)
            cells = "".join(f"{means.get(c, ''):>12}" for c in COLUMNS)  # blank: does not apply
            print(f"{shown:>7} {name:<26}{len(items):>4}{cells}{seconds:>12.2f}", flush=True)
            prompts += len(items)
            row = dict(size=shown, group=name, n=len(items), **means)
            report["scores"].append(row | dict(seconds_per_picture=round(seconds, 3)))
            if args.pictures:
                args.pictures.mkdir(parents=True, exist_ok=True)
                group = name.replace(", ", "-").replace(" ", "-")
                sheet = args.pictures / f"{shown}-{group}.png"
                contact_sheet(pictures[:64], size, sheet)
    print(f"{prompts} pictures in all")
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
