#!/usr/bin/env python3
"""Trains, exports and measures a model within a time budget: transformer by the curriculum on the
latents of a finished VAE, pipeline in OUT/pipeline, scores.

    train_all.py --minutes 60 --total-minutes 1200 --out work/all
    train_all.py --minutes 9 --device cuda --out /tmp/all --parts results

Run again with the same OUT, it goes on where it stopped, until --total-minutes of the transformer
are full. Minutes are those of the clock on a GPU, and of the processor on a CPU. What follows
--options goes to train_transformer.py.
"""

import argparse
import io
import json
import shlex
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import torch

import export_pipeline
import train_transformer
import train_vae
from steadytrain import paths

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import evaluate_model  # noqa: E402

QUICK_LOOK = "--sizes 64 128 --limit 40 --groups single background shape count 'left and right'"


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, required=True, help="for everything, this time")
    parser.add_argument("--total-minutes", type=float,
                        help="of the transformer's training (default: what this time has)"
                        )  # fmt: skip
    parser.add_argument("--device", default="auto", help="cpu, cuda, or what there is (auto)")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--vae", type=Path, default=paths.BUNDLED / "vae")
    parser.add_argument("--vae-minutes", type=float, default=0,
                        help="go on training the VAE for so long: first on a CPU; on a GPU beside the "
                        "transformer, which then goes on with its latents")  # fmt: skip
    parser.add_argument("--vae-options", default="", help="more options of train_vae.py")
    parser.add_argument("--reserve", type=float, default=1.5,
                        help="minutes for export and scores")  # fmt: skip
    parser.add_argument("--evaluate", default=QUICK_LOOK,
                        help="options of evaluate_model.py; empty: no scores")  # fmt: skip
    parser.add_argument("--words", type=Path, help="a list of things (default: all)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--parts", type=Path,
                        help="put the pipeline into this folder as pieces of a tar file: "
                        "cat pipeline.tar.* | tar x")  # fmt: skip
    parser.add_argument("--part-mib", type=int, default=15, help="size of a piece")
    parser.add_argument("--options", nargs=argparse.REMAINDER, default=[])
    args = parser.parse_args()
    if args.device == "auto":
        args.device = "cuda" if torch.cuda.is_available() else "cpu"
    return args


def write_parts(pipeline, folder, size):
    """Overwrites pieces of an earlier time."""
    folder.mkdir(parents=True, exist_ok=True)
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as tar:
        tar.add(pipeline, arcname=pipeline.name)
    data = whole.getbuffer()
    for number, start in enumerate(range(0, len(data), size)):
        (folder / f"pipeline.tar.{number:02}").write_bytes(data[start : start + size])


def main():
    args = parse_arguments()
    clock = time.process_time if args.device == "cpu" else time.monotonic
    start = clock()
    left = lambda: args.minutes - (clock() - start) / 60 - args.reserve  # noqa: E731
    common = ["--device", args.device, "--seed", args.seed]
    words = ["--words", args.words] if args.words else []

    vae, transformer = args.vae, args.out / "transformer"
    beside = []
    if args.vae_minutes:
        next_vae = args.out / "vae"
        if not (next_vae / "config.json").exists():
            begun = (next_vae / "checkpoint.pt").exists()
            start_from = ["--resume"] if begun else ["--init", args.vae]
            train = [*common, *words, *start_from, "--minutes", args.vae_minutes, "--out", next_vae,
                     *shlex.split(args.vae_options)]  # fmt: skip
            if args.device == "cpu":
                call(train_vae.main, *train)
            else:
                start_script(train_vae, *train, beside="beside: ")
                beside = ["--next-vae", next_vae]
        if not beside:
            vae = next_vae

    def transformer_options():
        kept = [transformer / name for name in ("checkpoint.pt", "ema.safetensors")]
        resume = ["--resume"] if any(file.exists() for file in kept) else []
        sitting = max(0.1, left())
        return [
            *common, *words, *resume, "--vae", vae, *beside, "--out", transformer,
            "--minutes", args.total_minutes or sitting, "--stop-after", sitting,
            "--save-every", 2 if args.device == "cuda" else 10,
        ]  # fmt: skip

    if args.device == "cpu":
        call(train_transformer.main, *transformer_options(), *args.options)
    else:
        for options in plainer_and_plainer(args.options):
            if start_script(train_transformer, *transformer_options(), *options).wait() == 0:
                break
        else:
            raise SystemExit("the transformer's training failed however it was tried")

    pipeline = args.out / "pipeline"
    shutil.rmtree(pipeline, ignore_errors=True)
    weights = transformer / "ema.safetensors"
    vae = json.loads((transformer / "state.json").read_text())["vae"]
    call(export_pipeline.main, "--weights", weights, "--vae", vae, "--out", pipeline, *words)
    if args.parts:
        write_parts(pipeline, args.parts, args.part_mib << 20)
        shutil.copy(transformer / "state.json", args.parts)
    if args.evaluate:
        batch = 256 if args.device == "cuda" else 16
        folder = args.parts or args.out
        call(
            evaluate_model.main, "--diffusers", "--model", pipeline, "--device", args.device,
            "--batch", batch, "--json", folder / "scores.json", *shlex.split(args.evaluate),
        )  # fmt: skip
    print(f"{(clock() - start) / 60:.1f} minutes in all; {pipeline}")


def call(function, *arguments):
    print(f"== {function.__module__} {' '.join(map(str, arguments))}", flush=True)
    function([str(argument) for argument in arguments])


def start_script(module, *arguments, beside=""):
    """In a process of its own: what goes wrong on a GPU ends there."""
    print(f"== {beside}{module.__name__} {' '.join(map(str, arguments))}", flush=True)
    return subprocess.Popen([sys.executable, module.__file__, *map(str, arguments)])


def plainer_and_plainer(options):
    """As asked, then without what a driver or a library may fail at."""
    for plainer in ([], ["--no-record"], ["--plain-attention"], ["--no-half-copy"]):
        options = [*options, *plainer]
        yield options


if __name__ == "__main__":
    main()
