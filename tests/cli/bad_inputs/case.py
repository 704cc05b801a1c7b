"""One bad input and what the program owes to it: the right exit code, one line on standard error that
names what is wrong, nothing on standard output, and a folder that looks as it did before."""

import atexit
import dataclasses
import os
import pathlib
import random
import shutil
import subprocess
import tempfile
from typing import Callable, Optional

USAGE, BAD_INPUT, DOES_NOT_FIT, IO = 2, 3, 4, 5
SEED = 20240801  # of all random damage: the same cases in every run

CACHE = tempfile.mkdtemp(prefix="steadyflux-cache-")  # of embeddings, for all cases
atexit.register(shutil.rmtree, CACHE, ignore_errors=True)

# The smallest picture, so that a case that wrongly succeeds does so quickly.
SMALL = ["-W", "32", "-H", "32", "--steps", "1", "--device", "cpu", "--threads", "1"]


@dataclasses.dataclass
class Case:
    name: str
    code: int
    says: tuple = ()  # every one of these stands in the message
    arguments: list = dataclasses.field(default_factory=lambda: ["x"])
    damage: Optional[Callable[[pathlib.Path], None]] = None  # done to a copy of the model
    prepare: Optional[Callable[[pathlib.Path], None]] = None  # done to the working folder
    environment: dict = dataclasses.field(default_factory=dict)
    stdin: bytes = b""
    stdout: str = ""  # a file to write to instead of a pipe
    limit: Optional[Callable[[], None]] = None  # runs in the child before the program
    model: bool = True  # give it the model and SMALL
    late: bool = False  # found only after a phase has been reported: run with --quiet


def rng(*what):
    """Random numbers that depend on the case alone, not on the order of the cases."""
    return random.Random(f"{SEED} {what}")


def listing(folder):
    """Every name below the folder with its size, as far as one can look without opening it."""
    return sorted((str(p.relative_to(folder)), p.lstat().st_size, p.lstat().st_mode)
                  for p in folder.rglob("*") if not p.is_dir() or p.is_symlink())


def command_of(case, program, model):
    """The case's own options come last, where they count."""
    common = ["-m", str(model), *SMALL] if case.model else []
    return [program, *common, *(["-q"] if case.late else []), *case.arguments]


def wrong_with(case, done, before, after):
    """What is not as it should be, or ""."""
    error = done.stderr.decode("utf-8", "backslashreplace")
    problems = []
    if done.returncode != case.code:
        problems.append(f"exit code {done.returncode}, expected {case.code}")
    if error.count("\n") != 1 or not error.startswith("steadyflux: error: "):
        problems.append("not exactly one line 'steadyflux: error: ...'")
    if not error[:-1].isprintable():
        problems.append("control characters in the message")
    problems += [f"does not say {text!r}" for text in case.says if text not in error]
    if done.stdout:
        problems.append(f"{len(done.stdout)} bytes on standard output")
    if before != after:
        problems.append(f"files changed: {sorted(set(after) ^ set(before))}")
    return f"{'; '.join(problems)}\n    stderr: {error[:600]!r}" if problems else ""


def run_case(case, program, model, time_limit):
    """Gives what is wrong ("" if nothing) and the message of the program."""
    root = pathlib.Path(tempfile.mkdtemp(prefix="steadyflux-bad-"))
    try:
        work = root / "work"
        work.mkdir()
        if case.damage:
            shutil.copytree(model, root / "model")
            model = root / "model"
            case.damage(model)
        if case.prepare:
            case.prepare(work)
        environment = {k: v for k, v in os.environ.items()
                       if not k.startswith(("HF_", "STEADYFLUX_"))}
        environment.update(HOME="/nonexistent", XDG_CACHE_HOME="/nonexistent", TMPDIR=str(root),
                           STEADYFLUX_CACHE=CACHE)
        environment.update(case.environment)
        before = listing(root)
        with open(case.stdout or os.devnull, "wb") as target:
            try:
                done = subprocess.run(
                    command_of(case, program, model), cwd=work, env=environment, input=case.stdin,
                    stdout=target if case.stdout else subprocess.PIPE, stderr=subprocess.PIPE,
                    timeout=time_limit, preexec_fn=case.limit)
            except subprocess.TimeoutExpired:
                return f"still running after {time_limit} s", ""
        return (wrong_with(case, done, before, listing(root)),
                done.stderr.decode("utf-8", "backslashreplace").strip())
    finally:
        shutil.rmtree(root, ignore_errors=True)
