#!/usr/bin/env python3
"""One tiny model in every format that people keep FLUX.1 in, written by Python's own libraries:
is steadyflux's picture always the same?

    python3 -m venv /tmp/formats-venv && . /tmp/formats-venv/bin/activate
    pip install -r scripts/requirements-formats.txt
    scripts/check_formats.py                       # all, some 20 minutes; exits 1 on a failure
    scripts/check_formats.py gguf fp8 --keep /tmp/formats

Unquantised weights must give the picture of the same weights in a diffusers folder, bit for bit.
Quantised ones are unpacked by their libraries too, and the values kept as a diffusers folder in
fp32: the picture of that may differ by 1 of 255, since the last bit of a product may. Whether the
folder's picture is right, diffusers says (largest difference 2, as in parity.py).
"""

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from formats import commands, found, models, plans, sources
from formats.program import Program
from tiny_pipeline import REPOSITORY


def check_dev(program, work) -> None:
    """With guidance: the scheduler and the guidance's embedding of FLUX.1-dev."""
    model = models.Model(work / "dev", models.DEV, 2)
    sources.check_diffusers(program, model, guidance=3.5)
    sources.check_dev_files(program, model)


GROUPS = {
    "names": sources.check_names,
    "diffusers": lambda program, model: sources.check_diffusers(program, model, 0.0),
    "folders": sources.check_folders,
    "files": sources.check_unquantised,
    "parts": sources.check_parts,
    "gguf": sources.check_gguf,
    "fp8": sources.check_fp8,
    "bitsandbytes": sources.check_bitsandbytes,
    "mixed": sources.check_mixed_files,
    "t5": sources.check_t5,
    "dev": lambda program, model: check_dev(program, model.root.parent),
    "streaming": plans.check_streaming,
    "bf16": plans.check_bf16,
    "plan": plans.check_plans,
    "found": found.check_found,
    "wrong": found.check_wrong,
    "commands": commands.check_commands,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=", ".join(GROUPS))
    parser.add_argument("--keep", type=Path, metavar="DIR", help="leave models and pictures there")
    parser.add_argument(
        "--binary", type=Path, default=REPOSITORY / "build" / "release" / "steadyflux"
    )
    args = parser.parse_args()
    unknown = set(args.groups) - set(GROUPS)
    if unknown:
        sys.exit(f"no such group: {', '.join(sorted(unknown))}; there are {', '.join(GROUPS)}")
    if not args.binary.exists():
        sys.exit(f"{args.binary} does not exist: build it first or say --binary")

    import diffusers
    import transformers

    for library in (diffusers, transformers):
        library.logging.set_verbosity_error()
        library.logging.disable_progress_bar()

    work = args.keep or Path(tempfile.mkdtemp(prefix="steadyflux-formats-"))
    work.mkdir(parents=True, exist_ok=True)
    try:
        program = Program(args.binary.resolve(), work.resolve())
        model = models.Model(work.resolve() / "schnell", models.SCHNELL, 1)
        for group in args.groups or GROUPS:
            print(f"--- {group}")
            GROUPS[group](program, model)
        print(f"{program.count} checks, {len(program.failures)} failed")
        for name in program.failures:
            print(f"  {name}")
    finally:
        if not args.keep:
            shutil.rmtree(work, ignore_errors=True)
    sys.exit(1 if program.failures else 0)


if __name__ == "__main__":
    main()
