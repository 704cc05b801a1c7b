"""A batch of 16 prompts: steadyflux against diffusers in a Python loop, and against
stable-diffusion.cpp called once per prompt. Same weights (bf16), sizes, steps, length of text and
number of threads.

Use: batch_throughput.py PROGRAM MODEL [--python PYTHON] [--sd-cpp SD_CLI] [--prompts 16]
                         [--size 256x256] [--steps 4] [--text 256] [--threads N] [--rounds 2]
                         [--sd-cpp-calls 16] [--work FOLDER]

PYTHON has torch, diffusers and transformers; SD_CLI is stable-diffusion.cpp's program. A peer that
is not given is left out. MODEL is what full_size_weights.py makes. --work keeps the single files
that SD_CLI needs (single_files.py) for the next time. Its calls are all alike: with
--sd-cpp-calls 2, two stand for all.

The programs take turns. Counted is everything from the start of a process to its end, divided by
its pictures, in wall and in processor seconds; nobody has a cache of embeddings. On a machine
that is shared the second says more. stable-diffusion.cpp always uses 256 tokens of T5.
"""
import argparse
import json
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import sd_cpp
from batch_runs import (busy_seconds, different_prompts, machine, own_seconds, stop_cleanly,
                        write_prompts)


def run(command, log):
    """Wall and processor seconds, and what it printed."""
    def children():
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    cpu, start = children(), time.monotonic()
    with open(log, "w") as messages:
        result = subprocess.run([str(part) for part in command], stdin=subprocess.DEVNULL,
                                stdout=subprocess.PIPE, stderr=messages)
    seconds = time.monotonic() - start
    if result.returncode != 0:
        output = result.stdout.decode(errors="replace") + Path(log).read_text(errors="replace")
        sys.exit(f"{command[0]}: exit code {result.returncode}\n{output[-2000:]}")
    return seconds, children() - cpu, result.stdout.decode(errors="replace")


class Contest:
    def __init__(self, arguments, folder):
        self.arguments, self.folder = arguments, folder
        self.width, self.height = arguments.size.split("x")
        self.prompts = folder / "prompts.jsonl"
        self.texts = different_prompts(arguments.prompts)
        write_prompts(self.prompts, self.texts)
        self.notes = []

    def steadyflux(self, out):
        a = self.arguments
        seconds, cpu, _ = run(
            [a.program, "batch", "-q", "--no-cache", "-m", a.model, "-W", self.width, "-H",
             self.height, "--steps", a.steps, "--max-sequence-length", a.text, "--threads",
             a.threads, self.prompts, "-o", out], self.folder / "log")
        return seconds / a.prompts, cpu / a.prompts

    def diffusers(self, out, others):
        a = self.arguments
        seconds, cpu, output = run(
            [a.python, Path(__file__).with_name("diffusers_batch.py"), a.model, self.prompts, out,
             self.width, self.height, a.steps, a.text, a.threads, others], self.folder / "log")
        result = json.loads(output.strip().splitlines()[-1])
        self.notes.append(
            f"diffusers: {result['load']:.1f} s to load, then "
            f"{statistics.mean(result['seconds']):.2f} s a picture; pictures differ from ours by "
            f"{result['difference']:.2f} of 255 on average")
        return seconds / a.prompts, cpu / a.prompts

    def sd_cpp(self, out, files):
        a = self.arguments
        out.mkdir()
        total = [0.0, 0.0]
        for i, text in enumerate(self.texts[:a.sd_cpp_calls]):
            seconds, cpu, output = run(
                sd_cpp.command(a.sd_cpp, files, text, self.width, self.height, a.steps, i,
                               a.threads, out / f"{i}.png"), self.folder / "log")
            if not (out / f"{i}.png").exists():
                sys.exit(f"{a.sd_cpp} made no picture:\n{output[-2000:]}")
            total = [total[0] + seconds, total[1] + cpu]
            log = output + Path(self.folder / "log").read_text(errors="replace")
            parts = re.findall(r"(get_learned_condition|sampling|decode_first_stage) completed, "
                               r"taking ([\d.]+)s", log)
        self.notes.append("stable-diffusion.cpp, last call: "
                          + ", ".join(f"{name} {taken} s" for name, taken in parts))
        return total[0] / a.sd_cpp_calls, total[1] / a.sd_cpp_calls


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("model", type=Path)
    parser.add_argument("--python")
    parser.add_argument("--sd-cpp")
    parser.add_argument("--sd-cpp-calls", type=int)
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--size", default="256x256")
    parser.add_argument("--steps", default="4")
    parser.add_argument("--text", default="256")
    parser.add_argument("--threads", default=str(os.cpu_count()))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--work")
    arguments = parser.parse_args()
    stop_cleanly()
    arguments.sd_cpp_calls = min(arguments.sd_cpp_calls or arguments.prompts, arguments.prompts)
    with tempfile.TemporaryDirectory() as folder:
        compare(arguments, Path(folder))


def compare(arguments, folder):
    contest, times = Contest(arguments, folder), {}
    work = Path(arguments.work or folder / "single")
    files = sd_cpp.single_files(arguments.model, work) if arguments.sd_cpp else None
    busy, own, start = busy_seconds(), own_seconds(), time.monotonic()

    def note(name, result):
        times.setdefault(name, []).append(result)
        print(f"{name}: {result[0]:.2f} s a picture, {result[1]:.2f} processor seconds",
              file=sys.stderr, flush=True)

    for number in range(arguments.rounds):
        ours = folder / f"ours-{number}"
        note("steadyflux batch", contest.steadyflux(ours))
        if arguments.python:
            note("diffusers, a loop", contest.diffusers(folder / f"diffusers-{number}", ours))
        if arguments.sd_cpp:
            note("stable-diffusion.cpp, a call each",
                 contest.sd_cpp(folder / f"sd-cpp-{number}", files))
        shutil.rmtree(ours)
    foreign = (busy_seconds() - busy - own_seconds() + own) / (
        (time.monotonic() - start) * os.cpu_count())
    print(f"{machine()}; {arguments.model.name}, {arguments.prompts} prompts, {arguments.size}, "
          f"{arguments.steps} steps, {arguments.text} tokens, {arguments.threads} threads, "
          f"{arguments.rounds} rounds; others took {100 * foreign:.0f} % of the processors\n")
    print("| | seconds per picture | against ours | processor seconds | against ours |\n"
          "|---|---|---|---|---|")
    best = [min(t[i] for t in times["steadyflux batch"]) for i in range(2)]
    for name, results in times.items():
        wall, cpu = (min(t[i] for t in results) for i in range(2))
        print(f"| {name} | {wall:.2f} | {wall / best[0]:.2f} | {cpu:.2f} | {cpu / best[1]:.2f} |")
    print("\nThe best round of each. " + "; ".join(contest.notes) + ".")


if __name__ == "__main__":
    main()
