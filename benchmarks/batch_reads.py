"""What it reads from disk when weights stream: 8 pictures in one chunk against one after the other.

Use: batch_reads.py PROGRAM MODEL [--max-ram 1GiB] [--prompts 8] [--size 256x256] [--steps 2]
                    [--within cgroup,page-cache]

MODEL is of full width and little depth, as full_size_weights.py --double 2 --single 4 --t5-layers 2
makes it. Each run begins with none of its files in the page cache, and has no cache of embeddings.

cgroup      as on a machine with just so much memory: the page cache is inside the limit too, which
            is an eighth above --max-ram. Wants root.
page-cache  the program keeps to the limit, the system does not: what was mapped once stays in the
            page cache, and only what streams past it is read again. Both ways begin by reading
            all that is mapped, which is much of what is read in a chunk.

The kernel's count of bytes (/proc/PID/io) is compared with the plan's. Exits 1 if the pictures
differ, or if a picture in a chunk takes more than 0.15 of what it takes alone.
"""
import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from batch_runs import (different_prompts, in_page_cache, machine, run_batch, stop_cleanly,
                        write_prompts)
from full_size_run import Cgroup, forget_files, weight_files

WANTED = 0.15
CGROUP_SLACK = 8  # a fraction of --max-ram
UNITS = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "KB": 10**3, "MB": 10**6, "GB": 10**9}
PHASES = ("encode", "modulate", "denoise", "decode")


def bytes_of(size):
    for unit, factor in UNITS.items():
        if size.endswith(unit):
            return int(float(size[:-len(unit)]) * factor)
    sys.exit(f"{size}: give a size such as 1GiB")


def make_plan(arguments):
    """What `steadyflux plan` says, and by phase the bytes of all its weights."""
    width, height = arguments.size.split("x")
    output = subprocess.run(
        [arguments.program, "plan", "-m", arguments.model, "-W", width, "-H", height, "--steps",
         arguments.steps, "--max-ram", arguments.max_ram, "--prompts", str(arguments.prompts),
         "--json"], stdout=subprocess.PIPE, check=True).stdout
    plan = json.loads(output)
    weights = {phase["name"]: sum(units["file_bytes"] for w in phase["weights"]
                                  for units in w["units"].values())
               + sum(w["fixed_bytes"] for w in phase["weights"]) for phase in plan["phases"]}
    return plan, weights


def planned_reads(run, phase, weights, within):
    """Bytes, by the plans that the run was made by: those that stream, and all. What does not
    stream is mapped, and read once by the process, or in the cgroup once by every chunk."""
    streamed = [p["disk_read_bytes"] for event in run.all("plan") for p in event["phases"]
                if p["name"] == phase]
    mapped = [max(weights - one, 0) for one in streamed]
    read = max(mapped, default=0) if within == "page-cache" else sum(mapped)
    return sum(streamed), sum(streamed) + read


def giga(count):
    return f"{count / 1e9:.3f}"


def run(arguments, folder, name, options, within):
    width, height = arguments.size.split("x")
    forget_files(arguments.model)
    left = sum(map(in_page_cache, weight_files(arguments.model)))
    if left:
        print(f"({name}: {left >> 20} MiB stayed in the page cache; does somebody use the model?)")
    limit = bytes_of(arguments.max_ram)
    cgroup = Cgroup(limit + limit // CGROUP_SLACK) if within == "cgroup" else None
    with cgroup or contextlib.nullcontext():
        result = run_batch(
            [arguments.program, "batch", "-q", "-m", arguments.model, "-W", width, "-H", height,
             "--steps", arguments.steps, "--max-ram", arguments.max_ram, "--no-cache", *options,
             folder / "prompts.jsonl", "-o", folder / name],
            before=cgroup.join if cgroup else None)
    changes = len(result.all("plan_changed"))
    if changes:
        print(f"({name}: the plan was changed {changes} times)")
    return result


def compare(arguments, folder, within):
    chunked = run(arguments, folder, f"{within}-chunk",
                  ["--chunk-size", str(arguments.prompts)], within)
    alone = run(arguments, folder, f"{within}-alone", ["--order", "prompt"], within)
    sizes = [chunk[0]["pictures"] for chunk in chunked.chunks()]
    if sizes != [arguments.prompts]:
        print(f"NOT one chunk: {sizes}")
    print(f"\n### {within}\n\n| GB per picture | one by one | of these planned | in a chunk | "
          "planned | ratio | planned |\n|---|---|---|---|---|---|---|")
    count = arguments.prompts
    plan, weights = make_plan(arguments)
    totals, streamed = [0, 0], [0, 0]
    for phase in PHASES:
        measured = [r.phases()[phase][1] / count for r in (alone, chunked)]
        planned = []
        for i, result in enumerate((alone, chunked)):
            streams, all_of_it = planned_reads(result, phase, weights[phase], within)
            planned.append(all_of_it / count)
            streamed[i] += streams / count
            totals[i] += all_of_it / count
        print_row(phase, measured, planned)
    measured = [r.disk_read / count for r in (alone, chunked)]
    print_row("in all", measured, totals)
    print(f"\nplanned to stream, without what is mapped: {giga(streamed[0])} and "
          f"{giga(streamed[1])}, ratio {streamed[1] / max(streamed[0], 1):.3f}; "
          f"`plan --prompts {count}` says {giga(plan['disk_read_bytes'] / count)}, in "
          f"{plan['chunks']} chunk(s), with groups of {plan['encode_group']} (encode) and "
          f"{plan['denoise_group']} (denoise)")
    print(f"seconds per picture: {alone.seconds / count:.2f} and {chunked.seconds / count:.2f}; "
          f"others took {100 * alone.foreign:.0f} % and {100 * chunked.foreign:.0f} % of the "
          "processors")
    same = same_pictures(folder / f"{within}-chunk", folder / f"{within}-alone", count)
    print(f"pictures: {'identical' if same else 'DIFFERENT'}")
    ratio = measured[1] / measured[0]
    print(f"ratio {ratio:.3f}, wanted at most {WANTED}: {'ok' if ratio <= WANTED else 'OFF'}")
    return same and ratio <= WANTED


def print_row(name, measured, planned):
    def ratio(pair):
        return f"{pair[1] / pair[0]:.3f}" if pair[0] > 0 else ""

    print(f"| {name} | {giga(measured[0])} | {giga(planned[0])} | {giga(measured[1])} | "
          f"{giga(planned[1])} | {ratio(measured)} | {ratio(planned)} |")


def same_pictures(first, second, count):
    names = sorted(path.name for path in first.glob("*.png"))
    return len(names) == count and all(
        (first / name).read_bytes() == (second / name).read_bytes() for name in names)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("model", type=Path)
    parser.add_argument("--max-ram", default="1GiB")
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--size", default="256x256")
    parser.add_argument("--steps", default="2")
    parser.add_argument("--within", default="cgroup")
    arguments = parser.parse_args()
    stop_cleanly()
    print(f"{machine()}; {arguments.model.name}, {arguments.size}, {arguments.steps} steps, "
          f"--max-ram {arguments.max_ram}, {arguments.prompts} prompts")
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        write_prompts(folder / "prompts.jsonl", different_prompts(arguments.prompts))
        ok = [compare(arguments, folder, within) for within in arguments.within.split(",")]
    sys.exit(not all(ok))


if __name__ == "__main__":
    main()
