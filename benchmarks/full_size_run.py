"""Runs steadyflux under a memory limit and prints what it took; see full_size.sh.

Steps are timed and bytes counted by the program's own --events. Before every process the model's
files are taken out of the page cache, so each one finds what the first one finds.
"""
import argparse
import json
import mmap
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

GIB = 1 << 30


class Cgroup:
    """A memory cgroup, of either version, that lives as long as the `with` block."""

    def __init__(self, limit):
        name = f"steadyflux-full-size-{os.getpid()}"
        v1, v2 = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")
        self.is_v2 = not v1.is_dir()
        self.folder = (v2 if self.is_v2 else v1) / name
        self.limit = limit

    def __enter__(self):
        try:
            if self.is_v2:
                (self.folder.parent / "cgroup.subtree_control").write_text("+memory")
            self.folder.mkdir()
            self.write("memory.max" if self.is_v2 else "memory.limit_in_bytes", self.limit)
            if self.is_v2 and (self.folder / "memory.swap.max").exists():
                self.write("memory.swap.max", 0)
        except OSError as error:
            self.remove()
            raise SystemExit(f"no memory cgroup can be made (as root?): {error}") from error
        return self

    def __exit__(self, *_):
        self.remove()

    def remove(self):
        for _ in range(50):  # the last process may still be on its way out
            try:
                self.folder.rmdir()
                return
            except FileNotFoundError:
                return
            except OSError:
                time.sleep(0.1)

    def write(self, name, value):
        (self.folder / name).write_text(str(value))

    def join(self):
        (self.folder / "cgroup.procs").write_text(str(os.getpid()))

    def peak(self):
        file = self.folder / ("memory.peak" if self.is_v2 else "memory.max_usage_in_bytes")
        return int(file.read_text()) if file.exists() else 0

    def kills(self):
        file = self.folder / ("memory.events" if self.is_v2 else "memory.oom_control")
        found = re.search(r"^oom_kill (\d+)", file.read_text(), re.MULTILINE)
        return int(found.group(1)) if found else 0


def weight_files(model):
    files = [*model.glob("*/*.safetensors"), *model.glob("*/*.gguf")]
    return sorted(files, key=lambda p: p.stat().st_size)


def forget_files(model):
    for path in weight_files(model):
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def disk_rate(model, size=2 * GIB, block=8 << 20):
    """Bytes per second of reading the largest file past the page cache, in order."""
    path = weight_files(model)[-1]
    size = min(size, path.stat().st_size) // block * block
    buffer = mmap.mmap(-1, block)
    file = os.open(path, os.O_RDONLY | os.O_DIRECT)
    start = time.monotonic()
    for offset in range(0, size, block):
        os.preadv(file, [buffer], offset)
    seconds = time.monotonic() - start
    os.close(file)
    return size / seconds


class Stopping:
    """Kills a process that is still there when the `with` block ends, or after `most_seconds`."""

    def __init__(self, process, most_seconds=None):
        self.process = process
        self.timer = threading.Timer(most_seconds, process.kill) if most_seconds else None

    def __enter__(self):
        if self.timer:
            self.timer.start()
        return self.process

    def __exit__(self, *_):
        if self.timer:
            self.timer.cancel()
        if self.process.returncode is None:
            self.process.kill()
            self.process.wait()


def run(command, limit, most_seconds=None):
    """One process in a cgroup of its own, stopped after `most_seconds`."""
    with Cgroup(limit) as cgroup, tempfile.TemporaryFile("w+") as output, \
            tempfile.TemporaryFile("w+") as messages:
        start = time.monotonic()
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output,
                                   stderr=messages, preexec_fn=cgroup.join)
        with Stopping(process, most_seconds):
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.monotonic() - start
        output.seek(0)
        messages.seek(0)
        text = output.read()
        stopped = most_seconds is not None and seconds >= most_seconds
        killed = cgroup.kills() > 0 or process.returncode == -signal.SIGKILL and not stopped
        return {"messages": messages.read().splitlines(), "seconds": seconds,
                "exit": process.returncode, "peak": cgroup.peak(), "faults": usage.ru_majflt,
                "killed": killed, "stopped": stopped,
                "json": json.loads(text) if text.startswith("{") else {}}


def fail(result, what):
    print("\n".join(result["messages"][-20:]), file=sys.stderr)
    state = "was killed" if result["killed"] else f"ended with exit code {result['exit']}"
    print(f"{what} {state}; peak of the cgroup {result['peak'] / GIB:.2f} GiB", file=sys.stderr)


def chunks_of(path):
    """What a run's --events say, chunk by chunk: seconds, peaks of the phases, and of the denoising
    steps the seconds each took and the bytes they read together."""
    chunks = []
    for line in path.read_text().splitlines():
        event = json.loads(line)
        name = event["event"]
        if name == "chunk_started":
            chunks.append({"start": event["elapsed"], "phases": {}, "ticks": [], "read": 0})
        if not chunks:
            continue
        chunk = chunks[-1]
        if name == "phase_started" and event["phase"] == "denoise":
            chunk["ticks"].append(event["elapsed"])
        elif name == "step" and event["phase"] == "denoise" and event["step"] > 0:
            chunk["ticks"].append(event["elapsed"])
        elif name == "phase_finished":
            chunk["phases"][event["phase"]] = event
            chunk["read"] += event["disk_read"]
        elif name == "picture":
            chunk["seconds"] = event["elapsed"] - chunk["start"]
    return chunks


def steps_of(chunk):
    """Seconds of the denoising steps without the first, which also loads what stays."""
    steps = [b - a for a, b in zip(chunk["ticks"], chunk["ticks"][1:])]
    return steps[1:] or steps or [float("nan")]


def blocks(model):
    config = json.loads((model / "transformer" / "config.json").read_text())
    return config["num_layers"] + config["num_single_layers"]


class Bench:
    def __init__(self, options):
        self.options = options
        self.limit = int(options.limit * GIB)
        self.failed = False
        self.runs = 0

    def plan(self, model, size, images):
        result = run([self.options.program, "plan", "-m", str(model), "--device", "cpu", "--json",
                      "-W", str(size), "-H", str(size), "--steps", str(self.options.steps),
                      "-n", str(images), *self.options.rest], self.limit)
        if not result["json"]:
            fail(result, "steadyflux plan")
            self.failed = True
        empty = {"fits": False, "ram_peak_bytes": 0, "disk_read_bytes_per_step": 0, "phases": []}
        return {**empty, **result["json"]}

    def batch(self, model, size, seeds, order, folder, limit=None):
        """One process that makes a picture for every seed."""
        if limit is None:
            forget_files(model)
        self.runs += 1
        prompts = Path(folder) / f"{self.runs}.jsonl"
        events = Path(folder) / f"{self.runs}.events"
        output = Path(folder) / f"{self.runs}"
        prompts.write_text("".join(
            json.dumps({"prompt": "a red apple on a table", "seed": seed, "output": f"{seed}.png"})
            + "\n" for seed in seeds))
        command = [self.options.program, "batch", str(prompts), "-o", str(output), "--events",
                   str(events), "--order", order, "--no-cache", "-m", str(model), "--device", "cpu",
                   "-W", str(size), "-H", str(size), "--steps", str(self.options.steps),
                   *self.options.rest]
        result = run(command, limit or self.limit)
        if result["exit"] != 0:
            fail(result, f"{len(seeds)} picture(s) of {size} x {size}")
            self.failed = True
        result["chunks"] = chunks_of(events) if events.exists() else []
        result["pictures"] = {seed: output / f"{seed}.png" for seed in seeds}
        return result

    def row(self, name, seconds, chunk, result, plan):
        """`seconds`: of the picture; the rest is of its chunk, or of the process."""
        step = statistics.median(steps_of(chunk))
        phase = next((p for p in plan["phases"] if p["name"] == "denoise"), {})
        passes = max(len(chunk["ticks"]) - 1, 1)
        planned = plan["disk_read_bytes_per_step"]
        once = phase.get("disk_read_bytes", 0) - passes * planned  # read once, and kept
        read = max(chunk["phases"].get("denoise", {}).get("disk_read", 0) - once, 0) / passes
        ratio = f"{read / planned:.3f}" if planned else "-"
        rss = max((p["peak_rss"] for p in chunk["phases"].values()), default=0)
        state = "ok" if result["exit"] == 0 else f"exit {result['exit']}"
        if result["killed"]:
            state = "killed"
        print(f"| {name} | {seconds:.1f} | {step:.2f} | {chunk['read'] / 1e9:.2f} | "
              f"{read / 1e9:.2f} | {planned / 1e9:.2f} | {ratio} | {rss / GIB:.2f} | "
              f"{result['peak'] / GIB:.2f} | {result['faults']} | {state} |", flush=True)
        return read

    def compare_peaks(self, name, chunk, plan):
        for phase in plan["phases"]:
            found = chunk["phases"].get(phase["name"], {}).get("peak_rss", 0)
            planned = phase.get("ram_peak_bytes", 0)
            if found and planned:
                print(f"- {name}, {phase['name']}: RSS {found / GIB:.3f} GiB, planned "
                      f"{planned / GIB:.3f}, ratio {found / planned:.3f}")

    def compute_seconds(self, size, folder):
        """A step without reading: of the small model, from the page cache, times the blocks.

        A double and a single block take the same number of operations. The best step counts: what
        others do on the machine meanwhile only makes it longer."""
        small = self.options.small
        result = self.batch(small, size, range(4), "prompt", folder, 64 * GIB)
        best = min(min(steps_of(chunk)) for chunk in result["chunks"])
        return best * blocks(self.options.model) / blocks(small)

    def others(self, size, folder, plan):
        """The same pictures as separate processes, and in one go, which is the last result."""
        model, images = self.options.model, self.options.images
        results = []
        for i in range(images):
            results.append(self.batch(model, size, [i], "prompt", folder))
            for chunk in results[-1]["chunks"]:
                self.row(f"process {i + 1}", results[-1]["seconds"], chunk, results[-1], plan)
        together = self.batch(model, size, range(images), "phase", folder)
        together["plan"] = self.plan(model, size, images)
        for chunk in together["chunks"]:
            self.row(f"{images} in one go", together["seconds"], chunk, together, together["plan"])
        return [*results, together]

    def compare_others(self, one, others):
        *many, together = others
        print(f"- last picture / first: {many[-1]['seconds'] / many[0]['seconds']:.3f} as processes")
        print(f"- in one go / one after the other: seconds "
              f"{together['seconds'] / one['seconds']:.3f}, bytes read "
              f"{sum(c['read'] for c in together['chunks']) / sum(c['read'] for c in one['chunks']):.3f}")
        equal = sum(one["pictures"][seed].read_bytes() == other["pictures"][seed].read_bytes()
                    for other in others for seed in other["pictures"])
        print(f"- the same file as one after the other: {equal} of "
              f"{2 * self.options.images} pictures")
        self.compare_peaks("in one go", together["chunks"][0], together["plan"])

    def size(self, size, folder):
        model, images = self.options.model, self.options.images
        plan = self.plan(model, size, 1)
        print(f"\n### {size} x {size}, {self.options.steps} steps, {self.options.limit:g} GiB\n")
        print(f"Plan: {'fits' if plan['fits'] else 'does not fit'}, RAM peak "
              f"{plan['ram_peak_bytes'] / GIB:.3f} GiB, "
              f"{plan['disk_read_bytes_per_step'] / 1e9:.2f} GB read per step\n")
        print("| run | seconds | per step | GB read | per step | planned | ratio | RSS peak GiB | "
              "cgroup peak GiB | major faults | |\n|---|---|---|---|---|---|---|---|---|---|---|")
        one = self.batch(model, size, range(images), "prompt", folder)
        read = 0
        for i, chunk in enumerate(one["chunks"]):
            read = self.row(f"one process, picture {i + 1}", chunk["seconds"], chunk, one, plan)
        others = [] if self.options.one_process else self.others(size, folder, plan)
        print()
        if any(result["exit"] != 0 for result in (one, *others)):
            return
        rate = disk_rate(model)
        seconds = [chunk["seconds"] for chunk in one["chunks"]]
        print(f"- last picture / first: {seconds[-1] / seconds[0]:.3f} in one process")
        self.compare_peaks("picture 1", one["chunks"][0], plan)
        if others:
            self.compare_others(one, others)
        step = statistics.median(s for chunk in one["chunks"] for s in steps_of(chunk))
        reading = read / rate
        text = (f"- a step {step:.2f} s; reading alone {reading:.2f} s "
                f"at {rate / 1e9:.2f} GB/s")
        if self.options.small:
            compute = self.compute_seconds(size, folder)
            text += (f", computing alone {compute:.2f} s; step / larger of them "
                     f"{step / max(compute, reading):.3f}")
        print(text, flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--program", required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--small", type=Path)
    parser.add_argument("--limit", type=float, default=8)
    parser.add_argument("--sizes", default="256")
    parser.add_argument("--images", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--one-process", action="store_true")
    parser.add_argument("rest", nargs="*")
    bench = Bench(parser.parse_args())
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # by way of all `with` blocks
    with tempfile.TemporaryDirectory() as folder:
        for size in bench.options.sizes.split(","):
            bench.size(int(size), folder)
    raise SystemExit(bench.failed)


if __name__ == "__main__":
    main()
