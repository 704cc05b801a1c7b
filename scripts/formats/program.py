"""Runs steadyflux, compares pictures, keeps the tally."""

import os
import subprocess
import time
from pathlib import Path

import numpy
from PIL import Image

PROMPT = "a red apple on a wooden table"
REQUEST = dict(prompt=PROMPT, width=64, height=64, steps=2, seed=1, max_sequence_length=128)


class Program:
    def __init__(self, binary: Path, work: Path):
        self.binary = binary
        self.work = work
        self.failures = []
        self.count = 0
        self.pictures = work / "pictures"
        self.pictures.mkdir(parents=True, exist_ok=True)
        self.empty_cache = work / "no-hub-cache"
        self.empty_cache.mkdir(exist_ok=True)

    def run(self, *arguments, environment=None) -> subprocess.CompletedProcess:
        variables = {
            **os.environ,
            "HF_HUB_CACHE": str(self.empty_cache),
            "STEADYFLUX_CACHE": str(self.work / "cache"),
            **(environment or {}),
        }
        line = [str(self.binary), *map(str, arguments)]
        return subprocess.run(line, capture_output=True, text=True, env=variables)

    def request(self) -> list:
        return [
            *("-W", REQUEST["width"], "-H", REQUEST["height"], "--steps", REQUEST["steps"]),
            *("--max-sequence-length", REQUEST["max_sequence_length"]),
            *("--device", "cpu", "--threads", 1),
        ]

    def picture(self, name: str, model: list, dtype="fp32", more=(), environment=None):
        """(pixels, "") or (None, what the program said)."""
        output = self.pictures / (name.replace("/", "_").replace(" ", "-") + ".png")
        output.unlink(missing_ok=True)
        result = self.run(
            *("generate", *model, *self.request(), "--dtype", dtype, "-s", REQUEST["seed"]),
            *("--no-cache", "-q", "-o", output, *more, "--", PROMPT),
            environment=environment,
        )
        if result.returncode != 0:
            return None, f"exit {result.returncode}: {result.stderr.strip()}"
        return numpy.array(Image.open(output).convert("RGB")).astype(int), ""

    # --- the tally ----------------------------------------------------------------------------

    def tell(self, ok: bool, name: str, detail: str) -> None:
        self.count += 1
        if not ok:
            self.failures.append(name)
        print(f"{'ok  ' if ok else 'FAIL'} {name:52} {detail}", flush=True)

    def compare(self, name, found, error, expected, most: int, mean=None) -> None:
        """`most`: the largest difference that is right."""
        if error:
            self.tell(False, name, error)
            return
        if found.shape != expected.shape:
            self.tell(False, name, f"picture of {found.shape}, expected {expected.shape}")
            return
        difference = numpy.abs(found - expected)
        differing = int((difference.max(axis=2) > 0).sum())
        text = f"largest difference {difference.max()}, {differing} of {found[..., 0].size} pixels"
        ok = difference.max() <= most
        if mean is not None:
            text += f", mean {difference.mean():.3f}"
            ok = ok and difference.mean() <= mean
        self.tell(ok, name, text)

    def check(self, name, model, expected, most=0, mean=None, **options) -> None:
        begin = time.monotonic()
        found, error = self.picture(name, model, **options)
        if time.monotonic() - begin > 60:
            print(f"     {name}: slow")
        self.compare(name, found, error, expected, most, mean)

    def check_refusal(self, name, arguments, *parts, environment=None, code=3) -> None:
        """Exit code 3, one line on standard error, with all of `parts`."""
        output = self.pictures / "none.png"
        output.unlink(missing_ok=True)
        result = self.run(
            *("generate", *arguments, *self.request(), "--no-cache", "-o", output, "--", PROMPT),
            environment=environment,
        )
        text = result.stderr.strip()
        lines = text.splitlines()
        missing = [part for part in parts if part not in text]
        ok = result.returncode == code and len(lines) == 1 and not missing and not output.exists()
        detail = text if ok else f"exit {result.returncode}, {len(lines)} lines: {text}"
        if missing:
            detail += f" [lacks: {missing}]"
        self.tell(ok, name, detail)
