"""How much faster two processes are than one through a prompt file, each with one thread: wall time
from the start to the end of the last, with opening and encoding; alternating, medians.

Use: sharing.py PROGRAM [--prompts FILE] [--processes 2] [--rounds 3] [-- options of batch]
Without FILE: 100 prompts. Options that follow `--` go to all runs (default: those of the model).

Says also how busy others kept the processors meanwhile: with as many processes as cores, what they
take is missing here. So it also prints the ratio that the processes' own time on the processors
would give. All pictures of all runs are compared: they have to be the same.
"""
import argparse
import os
import pathlib
import socket
import statistics
import subprocess
import sys
import tempfile
import time

from steady import busy_seconds, own_seconds

THINGS = ["apple", "panda", "rocket", "castle", "pizza", "owl", "tree", "star", "dog", "car"]
COLOURS = ["red", "orange", "yellow", "green", "blue", "purple", "pink", "gray", "big", "small"]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run(program, prompts, processes, options):
    """Seconds, processor seconds, others' share of the processors, pictures, number by process."""
    with tempfile.TemporaryDirectory(prefix="steadyflux-sharing-") as folder:
        command = [program, "batch", prompts, "-o", folder, "--threads", "1", "--no-cache", "-q",
                   *options]
        if processes > 1:
            command += ["--rendezvous", f"127.0.0.1:{free_port()}"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        begin, busy, own = time.monotonic(), busy_seconds(), own_seconds()
        workers = [subprocess.Popen(command, env=environment) for _ in range(processes)]
        codes = [worker.wait() for worker in workers]
        seconds = time.monotonic() - begin
        own = own_seconds() - own
        foreign = max(0, busy_seconds() - busy - own) / seconds / os.cpu_count()
        if any(codes):
            sys.exit(f"a run ended with the exit codes {codes}")
        pictures = {p.name: p.read_bytes() for p in pathlib.Path(folder).glob("*.png")}
        journal = (pathlib.Path(folder) / "journal.jsonl").read_text()
        shares = [journal.count(f'"pid":{worker.pid},') for worker in workers]
        return seconds, own, foreign, pictures, shares


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("--prompts", metavar="FILE")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    arguments, own_options = sys.argv[1:], []
    if "--" in arguments:
        at = arguments.index("--")
        arguments, own_options = arguments[:at], arguments[at + 1:]
    options = parser.parse_args(arguments)

    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        prompts = options.prompts
        if not prompts:
            file.write("".join(f"a {c} {t}\n" for t in THINGS for c in COLOURS))
            file.flush()
            prompts = file.name
        seconds, work = ({1: [], options.processes: []} for _ in range(2))
        first = None
        for round_number in range(options.rounds):
            for processes, times in seconds.items():
                took, own, foreign, pictures, shares = run(
                    options.program, prompts, processes, own_options)
                first = first or pictures
                if pictures != first:
                    sys.exit("the pictures of this run are not those of the first one")
                times.append(took)
                work[processes].append(own)
                print(f"round {round_number + 1}, {processes} process(es): {took:.2f} s, "
                      f"{own:.2f} s of processors for {len(pictures)} pictures "
                      f"({' + '.join(map(str, shares))}); others took {100 * foreign:.0f} % of the "
                      "processors", flush=True)
    one, several = (statistics.median(times) for times in seconds.values())
    own = [statistics.median(times) for times in work.values()]
    print(f"1 process: {one:.2f} s; {options.processes} processes: {several:.2f} s; "
          f"ratio {several / one:.3f} ({os.cpu_count()} cores, 1 thread each)\n"
          f"time of processors, which hardly depends on what others do: {own[0]:.2f} s and "
          f"{own[1]:.2f} s; shared out evenly on free cores, a ratio "
          f"of {own[1] / own[0] / options.processes:.3f}")


if __name__ == "__main__":
    main()
