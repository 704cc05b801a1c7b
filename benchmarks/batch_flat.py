"""Whether a long batch stays as it was: 1,000 prompts of the bundled model, 200 of them different.

Use: batch_flat.py PROGRAM [--prompts 1000] [--different 200] [--model FOLDER] [--size WxH]
                   [--steps N] [--runs phase,warm,prompt,scattered,paired]

phase      the default order, with an empty cache. Pictures come in bursts there, so each is given
           its share of the time of its chunk (all of it, from one chunk's start to the next's).
warm       the same again in a new folder, now with a full cache, and watched by strace if it is
           there: nothing may be encoded, and the encoders' weights may be opened once, at the
           start, to see by their headers what type they have (running them opens them again).
prompt     `--order prompt`, with an empty cache: the time from picture to picture.
scattered  the same prompts so that each comes back only after all the others, at 1 step, with an
           empty cache and with --no-cache: how many were encoded.
paired     two processes, `--order prompt`, one at its last 100 pictures and the other at its
           pictures 51-150, take turns of 5 pictures, the one that waits being stopped: whatever
           slows this machine meanwhile slows both. The median of the turns counts, so that it
           holds on a shared machine.

But for `scattered`, a new prompt comes at a steady rate (every 5th picture), so that the work of
encoding is spread evenly. Compared are pictures 50-150 with the last 100, wall time and processor
time, and memory after picture 50 with that at the end. Exits 1 if something is off, and 2 if that
may be so because other programs took much of the processor.
"""
import argparse
import json
import re
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

from batch_runs import (MOST_FOREIGN, Stepper, different_prompts, machine, run_batch,
                        stop_cleanly, write_prompts)

TIME_RATIO = 1.02
MEMORY_RATIO, MEMORY_SLACK = 1.02, 16 * 2**20  # either of them may be used up
EARLY, LATE = (50, 150), 100  # pictures from..to, counted from 1; the last so many
TURN = 5                      # pictures
AFTER = 50                    # pictures, before memory is compared
BUNDLED = Path(__file__).resolve().parent.parent / "models" / "emoji"


class Checks:
    """Rows of a table, and what is to be said of them."""

    def __init__(self):
        self.failed, self.times_failed = False, False

    def row(self, *cells, ok=None, is_time=False):
        verdict = "" if ok is None else "ok" if ok else "OFF"
        print("| " + " | ".join([*map(str, cells), verdict]) + " |", flush=True)
        if ok is False:
            self.failed = self.failed or not is_time
            self.times_failed = self.times_failed or is_time


def picture_times(run, by_chunk):
    """Wall and processor seconds of each picture, in their order."""
    ends = [*run.chunks()[1:], run.all("finished")]
    times = []
    if by_chunk:
        for chunk, after in zip(run.chunks(), ends):
            pictures = chunk[0]["pictures"]
            wall = (after[0]["elapsed"] - chunk[0]["elapsed"]) / pictures
            cpu = (after[0].cpu_seconds - chunk[0].cpu_seconds) / pictures
            times += [(wall, cpu)] * pictures
        return times
    pictures = run.all("picture")
    return [(b["elapsed"] - a["elapsed"], b.cpu_seconds - a.cpu_seconds)
            for a, b in zip([run.all("started")[0], *pictures], pictures)]


def compare_times(checks, run, by_chunk):
    times = picture_times(run, by_chunk)
    for i, what in enumerate(("seconds", "processor seconds")):
        early = statistics.mean(t[i] for t in times[EARLY[0] - 1:EARLY[1]])
        late = statistics.mean(t[i] for t in times[-LATE:])
        checks.row(f"{what} per picture", f"{early:.4f} (pictures {EARLY[0]}-{EARLY[1]})",
                   f"{late:.4f} (last {LATE})", f"{late / early:.3f}",
                   ok=late <= TIME_RATIO * early, is_time=True)


def compare_memory(checks, run):
    """Of the chunk with picture AFTER, and of the last one that is as large."""
    chunks, done = run.chunks(), 0
    for first in chunks:
        done += first[0]["pictures"]
        if done >= AFTER:
            break
    last = [c for c in chunks if c[0]["pictures"] == first[0]["pictures"]][-1]

    def bytes_of(chunk):
        peak = max(e["peak_rss_anon"] for e in chunk if e.is_("phase_finished"))
        after = next(e.rss_anon for e in chunk if e.is_("memory_released"))
        return peak, after

    for what, early, late in zip(("highest anonymous RSS of a chunk", "anonymous RSS after it"),
                                 bytes_of(first), bytes_of(last)):
        checks.row(what, f"{early / 2**20:.1f} MiB (picture {done})",
                   f"{late / 2**20:.1f} MiB (end)", f"{late / early:.3f}",
                   ok=late <= max(early * MEMORY_RATIO, early + MEMORY_SLACK))


def encoded(run, model):
    """Prompts: the encode phase counts CLIP as one step, and each block of T5."""
    layers = json.loads((model / "text_encoder_2" / "config.json").read_text())["num_layers"]
    return sum(e["total"] for e in run.all("phase_started", phase="encode")) // (1 + layers)


def cached(cache):
    return len(list(cache.glob("embeds/??/*.safetensors")))


def encoder_reads(trace, model):
    """How often weights of encoders were opened or mapped, and bytes of them read, by strace -y."""
    opened, mapped, read = 0, 0, 0
    weights = re.compile(re.escape(str(model)) + r"/text_encoder(_2)?/[^>\"]*\.safetensors")
    for line in trace.read_text(errors="replace").splitlines():
        call = re.match(r"\d+ +(\w+)\(.*= (0x[0-9a-f]+|\d+)", line)
        if not call or not weights.search(line):
            continue
        if call[1].startswith("open"):
            opened += 1
        elif call[1] == "mmap":
            mapped += 1
        else:
            read += int(call[2])
    return opened, mapped, read


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("--prompts", type=int, default=1000)
    parser.add_argument("--different", type=int, default=200)
    parser.add_argument("--model", type=Path, default=BUNDLED)
    parser.add_argument("--size", help="default: the model's own")
    parser.add_argument("--steps", help="default: the model's own")
    parser.add_argument("--runs", default="phase,warm,prompt,scattered,paired")
    arguments = parser.parse_args()
    stop_cleanly()
    if arguments.prompts < EARLY[1] + LATE:
        sys.exit(f"--prompts must be at least {EARLY[1] + LATE}")
    runs = arguments.runs.split(",")
    with tempfile.TemporaryDirectory() as folder:
        sys.exit(measure(arguments, runs, Path(folder)))


def measure(arguments, runs, folder):
    model = folder / "model"  # nobody else opens these files
    shutil.copytree(arguments.model, model)
    time.sleep(3)  # what was changed just now is not yet trusted to stay as it is
    texts = different_prompts(arguments.different)
    count, checks, foreign, phase_seconds = arguments.prompts, Checks(), {}, None
    steady, scattered = folder / "steady.jsonl", folder / "scattered.jsonl"
    write_prompts(steady, [texts[i * len(texts) // count] for i in range(count)])
    write_prompts(scattered, [texts[i % len(texts)] for i in range(count)])
    command = [arguments.program, "batch", "-q", "-m", model]
    sized = []
    if arguments.size:
        width, height = arguments.size.split("x")
        sized += ["-W", width, "-H", height]
    if arguments.steps:
        sized += ["--steps", arguments.steps]
    print(f"{machine()}; {count} prompts, {len(texts)} different\n")
    print("| run | | early, or wanted | late, or seen | ratio | |\n|---|---|---|---|---|---|")

    def row(name):
        table = checks.row
        return lambda *cells, **options: table(name, *cells, **options)

    def run(name, prompts, *options, cache, tracer=()):
        result = run_batch([*command, *options, prompts, "-o", folder / name], cache, tracer)
        made = len(list((folder / name).glob("*.png")))
        checks.row(name, "pictures", count, made, "", ok=made == count)
        checks.row(name, "seconds in all", "", f"{result.seconds:.1f}", "")
        foreign[name] = result.foreign
        return result

    class Named:
        def __init__(self, name):
            self.row = row(name)

    for name, options in (("phase", []), ("prompt", ["--order", "prompt"])):
        if name not in runs:
            continue
        cache = folder / f"cache-{name}"
        result = run(name, steady, *sized, *options, cache=cache)
        if name == "phase":
            phase_seconds = result.seconds
            sizes = [chunk[0]["pictures"] for chunk in result.chunks()]
            checks.row(name, "pictures per chunk", "", f"{min(sizes)} to {max(sizes)}", "")
        compare_times(Named(name), result, by_chunk=name == "phase")
        compare_memory(Named(name), result)
        checks.row(name, "prompts encoded", len(texts), encoded(result, model), "",
                   ok=encoded(result, model) == len(texts))
        if name == "phase" and "warm" in runs:
            warm_run(checks, run, steady, sized, cache, folder, model, phase_seconds)
    if "scattered" in runs:
        for name, options in (("scattered", []), ("scattered-no-cache", ["--no-cache"])):
            result = run(name, scattered, "--steps", "1", "-W", "32", "-H", "32", *options,
                         cache=folder / f"cache-{name}")
            checks.row(name, "prompts encoded", len(texts), encoded(result, model), "",
                       ok=encoded(result, model) == len(texts) if not options else None)
            if not options:
                entries = cached(folder / f"cache-{name}")
                checks.row(name, "entries in the cache", len(texts), entries, "",
                           ok=entries == len(texts))
    if "paired" in runs:
        paired_runs(checks, [*command, *sized, "--order", "prompt", steady], count, folder)
    print("\nother programs took of the processors: "
          + ", ".join(f"{name} {100 * share:.0f} %" for name, share in foreign.items()))
    if checks.failed:
        return 1
    if checks.times_failed:
        disturbed = max(foreign.values(), default=1) > MOST_FOREIGN
        if disturbed:
            print("DISTURBED: times say little; run it again on a machine that is idle")
        return 2 if disturbed else 1
    return 0


def paired_runs(checks, command, count, folder):
    with (Stepper([*command, "-o", folder / "paired-late"], folder / "cache-late") as late,
          Stepper([*command, "-o", folder / "paired-early"], folder / "cache-early") as early):
        late.advance(count - LATE)
        early.advance(EARLY[0])
        turns = [(early.advance(TURN), late.advance(TURN)) for _ in range(LATE // TURN)]
    for i, what in enumerate(("seconds", "processor seconds")):
        sums = [sum(turn[who][i] for turn in turns) / LATE for who in range(2)]
        median = statistics.median(turn[1][i] / turn[0][i] for turn in turns)
        spread = sorted(turn[1][i] / turn[0][i] for turn in turns)
        low, high = spread[len(spread) // 4], spread[len(spread) * 3 // 4]
        checks.row("paired", f"{what} per picture",
                   f"{sums[0]:.4f} (pictures {EARLY[0] + 1}-{EARLY[0] + LATE})",
                   f"{sums[1]:.4f} (last {LATE})",
                   f"{sums[1] / sums[0]:.3f}, median of turns {median:.3f} ({low:.2f}-{high:.2f})",
                   ok=median <= TIME_RATIO, is_time=True)


def warm_run(checks, run, prompts, sized, cache, folder, model, cold_seconds):
    trace, tracer = folder / "trace", []
    if shutil.which("strace"):
        tracer = ["strace", "-f", "-y", "--seccomp-bpf", "-o", str(trace), "-e",
                  "trace=openat,open,read,pread64,preadv,mmap"]
    result = run("warm", prompts, *sized, cache=cache, tracer=tracer)
    checks.row("warm", "seconds, against `phase`", f"{cold_seconds:.1f}", f"{result.seconds:.1f}",
               f"{result.seconds / cold_seconds:.3f}")
    phases = len(result.all("phase_started", phase="encode"))
    checks.row("warm", "encode phases", 0, phases, "", ok=phases == 0)
    if tracer:
        files = len(list(model.glob("text_encoder*/*.safetensors")))
        opened, mapped, read = encoder_reads(trace, model)
        checks.row("warm", "encoders' weights opened, times", f"at most {files}",
                   f"{opened}; mapped {mapped} times, {read / 1024:.0f} KiB read by calls", "",
                   ok=opened <= files and read == 0)


if __name__ == "__main__":
    main()
