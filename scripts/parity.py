#!/usr/bin/env python3
"""Whole pictures: steadyflux against diffusers on random tiny pipelines, on the CPU.

    python3 -m venv /tmp/goldens-venv && . /tmp/goldens-venv/bin/activate
    pip install -r scripts/requirements-goldens.txt
    scripts/parity.py --count 20                    # fp32 and bf16, exits 1 on a failure
    scripts/parity.py --count 5 --dtype bf16 --seed 100 --keep /tmp/parity
    scripts/parity.py --variant kontext             # or fill, control: with random pictures

Every case draws a pipeline, a prompt, a size, steps, guidance, a seed and a text length from
--seed + its number, so a failing case is repeated with `--seed N --count 1`.

Limits, in steps of 8-bit values: fp32 largest difference 2, mean 0.05; bf16 mean 3 (one value
rounded the other way spreads through all later layers, so single pixels may be further off).
fp16 is compared too if asked for, with the limit of bf16.
"""

import argparse
import dataclasses
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy
from PIL import Image

from make_goldens import call_pipeline, load_pipeline
from tiny_pipeline import DTYPES, REPOSITORY, make_pipeline, random_shape

LIMITS = {"fp32": (2, 0.05), "bf16": (255, 3.0), "fp16": (255, 3.0)}  # largest, mean

PROMPTS = [
    "",
    " ",
    "a red apple",
    "A Red APPLE,  on\tthe\n\ntable!!",
    "it's 7 o'clock; we're \"here\" & they've gone (100%) #1 @home",
    "résumé naïve ﬁn ① Ⅳ ½ №",
    "日本語の看板 と 猫",
    "🦊🔥👩‍👩‍👧 🇫🇷 heart ❤️",
    "e\u0301 \u00a0 \u2003 \u0085 \u200b zero\u200dwidth",
    "text </s> more <extra_id_0> <pad> <unk> end",
    "<|endoftext|> <|startoftext|> x",
    "-- --help -n 3",
    "supercalifragilistic" * 9,
    "the quick brown fox jumps over the lazy dog " * 40,
]


# The class in diffusers, and the channels that go into the transformer.
VARIANTS = {
    "kontext": ("FluxKontextPipeline", 64),
    "fill": ("FluxFillPipeline", 384),
    "control": ("FluxControlPipeline", 128),
}


def random_picture(rng: random.Random, file: Path, sharp: bool) -> Image.Image:
    coarse = numpy.array([rng.randrange(256) for _ in range(5 * 7 * 3)], numpy.uint8)
    size = (rng.randint(16, 90), rng.randint(16, 90))
    filter_ = Image.NEAREST if sharp else Image.BICUBIC
    picture = Image.fromarray(coarse.reshape(5, 7, 3)).resize(size, filter_)
    picture.save(file)
    return picture


def show_pictures(rng: random.Random, variant: str, request: dict, folder: Path) -> tuple:
    """What a model of this variant is shown: arguments of diffusers, options of steadyflux."""
    one, two = folder / "one.png", folder / "two.png"
    picture = random_picture(rng, one, False)
    if variant == "kontext":
        area = request["width"] * request["height"]
        arguments = {"image": picture, "max_area": area, "_auto_resize": False}
        return arguments, ["--reference", one, "--reference-size", "own"]
    if variant == "fill":
        mask = random_picture(rng, two, True)
        return {"image": picture, "mask_image": mask}, ["--image", one, "--mask", two]
    return {"control_image": picture}, ["--control-image", one]


def random_request(rng: random.Random, dev: bool) -> dict:
    seeds = [rng.randrange(100), rng.randrange(2**32), rng.randrange(2**32, 2**63)]
    seeds.append(rng.randrange(2**63, 2**64 - 8))
    return dict(
        prompt=rng.choice(PROMPTS),
        width=16 * rng.randint(1, 10),
        height=16 * rng.randint(1, 10),
        steps=rng.randint(1, 6),
        guidance=rng.choice([0.0, 1.0, 2.75, 3.5, 7.0]) if dev else 0.0,
        seed=rng.choice(seeds),
        max_sequence_length=rng.choice([1, 7, 16, 64, 77, 128, 256, 512]),
    )


def command(args, model: Path, request: dict, dtype: str, output: Path, more: list = ()) -> list:
    options = [
        *("-m", model),
        *("-W", request["width"]),
        *("-H", request["height"]),
        *("--steps", request["steps"]),
        *("--guidance", request["guidance"]),
        *("-s", request["seed"]),
        *("--max-sequence-length", request["max_sequence_length"]),
        *("--dtype", dtype),
        *("--device", "cpu"),
        *("-o", output),
        *more,
        "-q",
    ]
    # The prompt last, behind `--`: it may start with a dash.
    return [str(args.binary), "generate", *map(str, options), "--", request["prompt"]]


def run_program(line: list) -> None:
    result = subprocess.run(line, capture_output=True, text=True)
    if result.returncode != 0:
        raise RuntimeError(f"exit {result.returncode}: {result.stderr.strip()[:300]}")


def pixels_of(file: Path) -> numpy.ndarray:
    return numpy.array(Image.open(file).convert("RGB"))


def check_case(args, number: int, dtypes: list, folder: Path) -> list:
    """Compares one pipeline and request in each dtype; returns rows for the table."""
    rng = random.Random(number)
    shape = random_shape(rng)
    request = random_request(rng, shape.guidance_embeds)
    arguments, options = {}, []
    if args.variant:
        pipeline, in_channels = VARIANTS[args.variant]
        shape = dataclasses.replace(
            shape, pipeline=pipeline, in_channels=in_channels, guidance_embeds=True
        )
        arguments, options = show_pictures(rng, args.variant, request, folder)
    model = folder / "model"
    make_pipeline(model, shape, number)
    rows = []
    for dtype in dtypes:
        row = dict(case=number, dtype=dtype, request=request, shape=shape, error="")
        rows.append(row)
        pipeline = load_pipeline(model, DTYPES[dtype])
        reference = call_pipeline(pipeline, request, **arguments).images[0]
        reference.save(folder / f"{dtype}-diffusers.png")
        output = folder / f"{dtype}-steadyflux.png"
        try:
            run_program(command(args, model, request, dtype, output, options))
            found, expected = pixels_of(output), numpy.array(reference)
            if found.shape != expected.shape:
                raise RuntimeError(f"picture is {found.shape}, expected {expected.shape}")
            difference = numpy.abs(found.astype(int) - expected.astype(int))
            row.update(max=int(difference.max()), mean=float(difference.mean()))
            row["std"] = float(expected.std())
            largest, mean = LIMITS[dtype]
            if row["max"] > largest or row["mean"] > mean:
                row["error"] = f"beyond the limits {largest} and {mean}"
        except RuntimeError as error:
            row["error"] = str(error)
    return rows


def check_repeats(args, dtype: str, folder: Path) -> list:
    """Identical commands give identical bytes; -n 3 gives what three commands give."""
    number = args.seed
    rng = random.Random(number)
    shape = random_shape(rng)
    request = random_request(rng, shape.guidance_embeds)
    request["seed"] = 2**32 - 1  # the three seeds cross 2^32
    model = folder / "model"
    if not model.exists():
        make_pipeline(model, shape, number)
    errors = []
    try:
        first, second = folder / "first.png", folder / "second.png"
        for output in (first, second):
            run_program(command(args, model, request, dtype, output))
        if first.read_bytes() != second.read_bytes():
            errors.append(f"{dtype}: two identical commands gave different bytes")
        batch = folder / "batch"
        batch.mkdir()
        line = command(args, model, request, dtype, batch / "out.png")
        line[2:2] = ["-n", "3"]
        run_program(line)
        files = sorted(batch.iterdir())
        if len(files) != 3:
            raise RuntimeError(f"-n 3 left {[f.name for f in files]}")
        for i, file in enumerate(files):
            single = folder / f"single-{i}.png"
            one = {**request, "seed": request["seed"] + i}
            run_program(command(args, model, one, dtype, single))
            if not numpy.array_equal(pixels_of(file), pixels_of(single)):
                errors.append(f"{dtype}: picture {i} of -n 3 is not that of seed + {i}")
    except RuntimeError as error:
        errors.append(f"{dtype}: {error}")
    return errors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0, help="number of the first case")
    parser.add_argument("--dtype", action="append", choices=sorted(LIMITS), help="may be repeated")
    parser.add_argument("--variant", choices=sorted(VARIANTS), help="of FLUX.1; repeats are left out")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="leave models and pictures there")
    parser.add_argument(
        "--binary", type=Path, default=REPOSITORY / "build" / "release" / "steadyflux"
    )
    parser.add_argument("--n", action="store_true", help="check -n 3 and repeated commands only")
    args = parser.parse_args()
    dtypes = args.dtype or ["fp32", "bf16"]
    if not args.binary.exists():
        sys.exit(f"{args.binary} does not exist: build it first or say --binary")

    import diffusers
    import transformers

    for library in (diffusers, transformers):
        library.logging.set_verbosity_error()
        library.logging.disable_progress_bar()

    root = args.keep or Path(tempfile.mkdtemp(prefix="steadyflux-parity-"))
    failures = 0
    try:
        if not args.n:
            print("case dtype  max    mean   std  size     steps  text  heads  what")
        for number in [] if args.n else range(args.seed, args.seed + args.count):
            folder = root / f"case-{number}"
            folder.mkdir(parents=True)
            for row in check_case(args, number, dtypes, folder):
                request, shape = row["request"], row["shape"]
                numbers = (
                    f"{row['max']:4d} {row['mean']:7.4f} {row['std']:5.1f}"
                    if "max" in row
                    else f"{'-':>4} {'-':>7} {'-':>5}"
                )
                size = f"{request['width']}x{request['height']}"
                prompt = request["prompt"][:24]
                print(
                    f"{number:4d} {row['dtype']}  {numbers}  {size:8} {request['steps']:4d}"
                    f"  {request['max_sequence_length']:4d}  {shape.num_attention_heads}x"
                    f"{sum(shape.axes_dims_rope):<4} {prompt!r}"
                    + (f"  FAILED: {row['error']}" if row["error"] else ""),
                    flush=True,
                )
                failures += bool(row["error"])
            if not args.keep:
                shutil.rmtree(folder)
        for dtype in [] if args.variant else dtypes:
            folder = root / f"repeats-{dtype}"
            folder.mkdir(parents=True)
            errors = check_repeats(args, dtype, folder)
            for error in errors:
                print(f"FAILED: {error}")
            if not errors:
                print(f"{dtype}: identical commands give identical bytes; -n 3 equals 3 commands")
            failures += len(errors)
    finally:
        if not args.keep:
            shutil.rmtree(root, ignore_errors=True)
    print(f"{failures} failures")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
