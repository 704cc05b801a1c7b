"""Pictures that do not fit: the address space of the child is limited, as `ulimit -v` does it."""

import resource
import subprocess

from .case import DOES_NOT_FIT, Case

MIB = 1 << 20
# (side, MiB more than the program needs to start). 1024 x 1024 takes more than 130 MiB beyond that.
LIMITS = [(1024, 60), (1024, 80), (1024, 100), (1024, 120), (13376, 100)]


def limited(mib):
    return lambda: resource.setrlimit(resource.RLIMIT_AS, (mib * MIB, mib * MIB))


def smallest_start(program):
    """MiB of address space in which libtorch's own start-up, before main(), comes through."""
    for mib in range(200, 4000, 25):
        done = subprocess.run([program, "--version"], capture_output=True, preexec_fn=limited(mib))
        if done.returncode == 0:
            return mib
    raise SystemExit(f"{program} --version fails even in 4 GB of address space")


def cases(program):
    start = smallest_start(program)
    return [Case(f"memory: {side} x {side}, {more} MiB more than the start", DOES_NOT_FIT,
                 ("memory", "--width"), ["x", "-W", str(side), "-H", str(side)],
                 limit=limited(start + more), late=True) for side, more in LIMITS]
