"""Pictures that do not fit: the address space of the child is limited, as `ulimit -v` does it."""

import resource
import subprocess

from .case import DOES_NOT_FIT, Case

MIB = 1 << 20
# (side, MiB more than the program needs to start).
LIMITS = [(1024, 10), (1024, 30), (2048, 30), (2048, 40), (2048, 50), (2048, 100), (2048, 250),
          (13376, 80)]


def limited(mib):
    return lambda: resource.setrlimit(resource.RLIMIT_AS, (mib * MIB, mib * MIB))


def smallest_start(program):
    """MiB of address space in which libtorch's own start-up, before main(), comes through."""
    for mib in range(200, 4000, 5):
        # Three times: what threads take at the start varies a little.
        if all(subprocess.run([program, "--version"], capture_output=True,
                              preexec_fn=limited(mib)).returncode == 0 for _ in range(3)):
            return mib + 5  # and a step more, for the same reason
    raise SystemExit(f"{program} --version fails even in 4 GB of address space")


def cases(program):
    start = smallest_start(program)
    return [Case(f"memory: {side} x {side}, {more} MiB more than the start", DOES_NOT_FIT,
                 ("ulimit -v",), ["x", "-W", str(side), "-H", str(side), "--steps", "1"],
                 limit=limited(start + more)) for side, more in LIMITS]
