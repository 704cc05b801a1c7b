"""Runs steadyflux under a memory limit and prints what it took; see full_size.sh.

Steps are timed by the progress that the program shows on a terminal, which is a pseudo-terminal
here; the bytes read are those that /proc/PID/io has at that moment. Before every process the
model's files are taken out of the page cache, so each one finds what the first one finds.
"""
import argparse
import json
import mmap
import os
import pty
import re
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import termios
import time
from fcntl import ioctl
from pathlib import Path

GIB = 1 << 30
PROGRESS = re.compile(r"^(\w+) *\[[#.]*\] (\d+)/(\d+)")


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
    return sorted(model.glob("*/*.safetensors"), key=lambda p: p.stat().st_size)


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


def read_bytes(pid):
    try:
        text = Path(f"/proc/{pid}/io").read_text()
    except OSError:
        return None
    return int(re.search(r"^read_bytes: (\d+)", text, re.MULTILINE).group(1))


class Stopping:
    """Kills a process that is still there when the `with` block ends."""

    def __init__(self, process):
        self.process = process

    def __enter__(self):
        return self.process

    def __exit__(self, *_):
        if self.process.returncode is None:
            self.process.kill()
            self.process.wait()


def run(command, limit):
    """One process. `ticks`: seconds and bytes read, for every phase at its start and its steps."""
    with Cgroup(limit) as cgroup, tempfile.TemporaryFile("w+") as output:
        master, slave = pty.openpty()
        ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
        start = time.monotonic()
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=slave,
                                   preexec_fn=cgroup.join,
                                   env={**os.environ, "TERM": "dumb", "NO_COLOR": "1"})
        with Stopping(process):
            os.close(slave)
            ticks, messages = watch(process, master, start)
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        os.close(master)
        output.seek(0)
        text = output.read()
        return {"ticks": ticks, "messages": messages, "seconds": time.monotonic() - start,
                "exit": process.returncode, "peak": cgroup.peak(), "faults": usage.ru_majflt,
                "killed": cgroup.kills() > 0 or process.returncode == -signal.SIGKILL,
                "json": json.loads(text) if text.startswith("{") else {}}


def watch(process, terminal, start):
    """Reads what a process shows until it ends."""
    ticks, messages, rest, last = {}, [], "", None
    while True:
        try:
            data = os.read(terminal, 65536)
        except OSError:  # the other end is closed
            return ticks, messages
        if not data:
            return ticks, messages
        now, read = time.monotonic() - start, read_bytes(process.pid)
        *lines, rest = re.split(r"[\r\n]+", rest + data.decode(errors="replace"))
        for line in [*lines, rest]:
            line = line.replace("\x1b[K", "")
            found = PROGRESS.match(line)
            if found:
                name, done = found.group(1), int(found.group(2))
                if (name, done) != last:
                    ticks.setdefault(name, []).append((now, read))
                    last = (name, done)
            elif line and line is not rest:
                messages.append(line)


def fail(result, what):
    print("\n".join(result["messages"][-20:]), file=sys.stderr)
    state = "was killed" if result["killed"] else f"ended with exit code {result['exit']}"
    print(f"{what} {state}; peak of the cgroup {result['peak'] / GIB:.2f} GiB", file=sys.stderr)


def differences(ticks, what):
    return [b[what] - a[what] for a, b in zip(ticks, ticks[1:])
            if a[what] is not None and b[what] is not None]


def picture_seconds(result, images):
    """Denoising and decoding of each picture: they follow one another, with as many steps each."""
    sums = [0.0] * images
    for phase in ("denoise", "decode"):
        steps = differences(result["ticks"].get(phase, []), 0)
        each = max(len(steps) // images, 1)
        for i, seconds in enumerate(steps):
            sums[min(i // each, images - 1)] += seconds
    return sums


def later_steps(result):
    """Seconds of the denoising steps without the first, which also loads what stays."""
    steps = differences(result["ticks"].get("denoise", []), 0)
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

    def command(self, model, size, images, seed, output, *more):
        return [self.options.program, *more, "-m", str(model), "--device", "cpu", "--json", "-W",
                str(size), "-H", str(size), "--steps", str(self.options.steps), "-n", str(images),
                *([] if "plan" in more else ["-s", str(seed), "-o", output]), *self.options.rest]

    def plan(self, model, size, images):
        result = run(self.command(model, size, images, 0, "", "plan"), self.limit)
        if not result["json"]:
            fail(result, "steadyflux plan")
            self.failed = True
        empty = {"fits": False, "ram_peak_bytes": 0, "disk_read_bytes_per_step": 0, "phases": []}
        return {**empty, **result["json"]}

    def generate(self, model, size, images, seed, folder, limit=None):
        if limit is None:
            forget_files(model)
        output = str(Path(folder) / f"{size}-{self.runs}.png")
        self.runs += 1
        command = self.command(model, size, images, seed, output, "-v", "a red apple on a table")
        result = run(command, limit or self.limit)
        if result["exit"] != 0:
            fail(result, f"{images} picture(s) of {size} x {size}")
            self.failed = True
        return result

    def per_step(self, result, plan):
        """Bytes read per denoising step, without those that the plan reads once and keeps."""
        reads = differences(result["ticks"].get("denoise", []), 1)
        phase = next((p for p in plan["phases"] if p["name"] == "denoise"), None)
        once = 0
        if phase is not None:
            once = phase["disk_read_bytes"] - len(reads) * plan["disk_read_bytes_per_step"]
        return max(sum(reads) - once, 0) / max(len(reads), 1)

    def row(self, name, seconds, result, plan):
        step = statistics.median(later_steps(result))
        read, planned = self.per_step(result, plan), plan["disk_read_bytes_per_step"]
        ratio = f"{read / planned:.3f}" if planned else "-"
        total = max((t[1] or 0 for ticks in result["ticks"].values() for t in ticks), default=0)
        rss = max((p["peak_rss"] for p in result["json"].get("phases", [])), default=0)
        state = "ok" if result["exit"] == 0 else f"exit {result['exit']}"
        if result["killed"]:
            state = "killed"
        print(f"| {name} | {seconds:.1f} | {step:.2f} | {total / 1e9:.2f} | {read / 1e9:.2f} | "
              f"{planned / 1e9:.2f} | {ratio} | {rss / GIB:.2f} | {result['peak'] / GIB:.2f} | "
              f"{result['faults']} | {state} |", flush=True)

    def compare_pictures(self, one, many):
        paths = [[p["output"] for p in r["json"].get("images", [])] for r in (one, *many)]
        pairs = list(zip(paths[0], [p for own in paths[1:] for p in own]))
        equal = sum(Path(a).read_bytes() == Path(b).read_bytes() for a, b in pairs)
        print(f"- the same file both ways: {equal} of {len(pairs)} pictures")

    def compare_peaks(self, result, plan):
        measured = {p["name"]: p for p in result["json"].get("phases", [])}
        for phase in plan["phases"]:
            found = measured.get(phase["name"], {}).get("peak_rss", 0)
            planned = phase.get("ram_peak_bytes", 0)
            if found and planned:
                print(f"- {phase['name']}: RSS {found / GIB:.3f} GiB, planned {planned / GIB:.3f}, "
                      f"ratio {found / planned:.3f}")

    def compute_seconds(self, size, folder):
        """A step without reading: of the small model, from the page cache, times the blocks.

        A double and a single block take the same number of operations. The best step counts: what
        others do on the machine meanwhile only makes it longer."""
        small, images = self.options.small, 4
        result = self.generate(small, size, images, 0, folder, 64 * GIB)
        return min(later_steps(result)) * blocks(self.options.model) / blocks(small)

    def size(self, size, folder):
        images = self.options.images
        model = self.options.model
        plan = self.plan(model, size, images)
        print(f"\n### {size} x {size}, {self.options.steps} steps, {self.options.limit:g} GiB\n")
        print(f"Plan: {'fits' if plan['fits'] else 'does not fit'}, RAM peak "
              f"{plan['ram_peak_bytes'] / GIB:.3f} GiB, "
              f"{plan['disk_read_bytes_per_step'] / 1e9:.2f} GB read per step\n")
        print("| run | seconds | per step | GB read | per step | planned | ratio | RSS peak GiB | "
              "cgroup peak GiB | major faults | |\n|---|---|---|---|---|---|---|---|---|---|---|")
        one = self.generate(model, size, images, 0, folder)
        seconds = picture_seconds(one, images)
        for i, value in enumerate(seconds):
            self.row(f"one process, picture {i + 1}", value, one, plan)
        own_plan = self.plan(model, size, 1)
        many = []
        for i in range(images):
            many.append(self.generate(model, size, 1, i, folder))
            self.row(f"process {i + 1}", many[-1]["seconds"], many[-1], own_plan)
        print()
        if any(result["exit"] != 0 for result in (one, *many)):
            return
        rate = disk_rate(model)
        if images > 1 and seconds[0] > 0:
            print(f"- last picture / first: {seconds[-1] / seconds[0]:.3f} in one process (denoise "
                  f"and decode), {many[-1]['seconds'] / many[0]['seconds']:.3f} as processes (all)")
        self.compare_pictures(one, many)
        self.compare_peaks(one, plan)
        print(f"- one process in all {one['seconds']:.1f} s: " + ", ".join(
            f"{p['name']} {p['seconds']:.1f}" for p in one["json"].get("phases", [])))
        step = statistics.median(later_steps(one))
        reading = self.per_step(one, plan) / rate
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
    parser.add_argument("rest", nargs="*")
    bench = Bench(parser.parse_args())
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # by way of all `with` blocks
    with tempfile.TemporaryDirectory() as folder:
        for size in bench.options.sizes.split(","):
            bench.size(int(size), folder)
    raise SystemExit(bench.failed)


if __name__ == "__main__":
    main()
