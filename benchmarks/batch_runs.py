"""What the benchmarks of batches share: runs `steadyflux batch` and notes its events, beside each
of them the memory and the processor time that it had then, and at the end what it read from disk.
"""
import ctypes
import dataclasses
import json
import mmap
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from steady import busy_seconds, own_seconds

MOST_FOREIGN = 0.05  # of all processors, taken by others
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "gray")
THINGS = ("dog", "cat", "horse", "panda", "penguin", "owl", "frog", "turtle", "whale", "butterfly",
          "sunflower", "mushroom", "apple", "pear", "pizza", "house", "castle", "train", "bus",
          "sailboat", "rocket", "umbrella", "balloon", "guitar", "robot")


def different_prompts(count):
    """That the bundled model can draw."""
    texts = [f"a {colour} {thing}" for thing in THINGS for colour in COLOURS]
    if count > len(texts):
        sys.exit(f"there are {len(texts)} different prompts, not {count}")
    return texts[:count]


def write_prompts(path, texts, **options):
    """As JSON Lines, with the seeds 0, 1, ..."""
    lines = [json.dumps({"prompt": text, "seed": seed, **options})
             for seed, text in enumerate(texts)]
    Path(path).write_text("\n".join(lines) + "\n")


@dataclasses.dataclass
class Event:
    data: dict
    rss_anon: int = 0      # bytes, when this script saw the event
    cpu_seconds: float = 0

    def __getitem__(self, key):
        return self.data[key]

    def is_(self, name, **values):
        return self.data["event"] == name and all(self.data[k] == v for k, v in values.items())


@dataclasses.dataclass
class Run:
    events: list
    seconds: float     # of the process
    disk_read: int     # bytes
    foreign: float     # share of all processors that others took meanwhile

    def all(self, name, **values):
        return [event for event in self.events if event.is_(name, **values)]

    def chunks(self):
        """The events of each chunk."""
        starts = [i for i, event in enumerate(self.events) if event.is_("chunk_started")]
        return [self.events[a:b] for a, b in zip(starts, starts[1:] + [len(self.events)])]

    def phases(self):
        """Seconds and bytes read from disk, by phase."""
        sums = {}
        for event in self.all("phase_finished"):
            seconds, read = sums.get(event["phase"], (0, 0))
            sums[event["phase"]] = seconds + event["seconds"], read + event["disk_read"]
        return sums


def _proc(pid, name):
    try:
        return Path(f"/proc/{pid}/{name}").read_text()
    except OSError:  # gone
        return ""


def _number(text, key):
    found = re.search(rf"^{key}:\s+(\d+)", text, re.MULTILINE)
    return int(found.group(1)) if found else 0


def _cpu_seconds(pid):
    fields = _proc(pid, "stat").rpartition(")")[2].split()
    if not fields:
        return 0.0
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def run_batch(command, cache=None, tracer=(), before=None):
    """Runs it to its end; exits if it fails. `cache`: folder of embeddings. `tracer`: put before
    the command. `before`: called in the new process."""
    environment = {**os.environ, **({"STEADYFLUX_CACHE": str(cache)} if cache else {})}
    ours, theirs = os.pipe()
    busy, own, start = busy_seconds(), own_seconds(), time.monotonic()
    with tempfile.TemporaryFile("w+") as messages:
        process = subprocess.Popen([*tracer, *map(str, command), "--events", f"fd:{theirs}"],
                                   env=environment, pass_fds=[theirs], stdin=subprocess.DEVNULL,
                                   stdout=subprocess.DEVNULL, stderr=messages,
                                   preexec_fn=before)
        os.close(theirs)
        events = []
        try:
            with os.fdopen(ours) as lines:
                for line in lines:
                    events.append(Event(json.loads(line),
                                        _number(_proc(process.pid, "status"), "RssAnon") * 1024,
                                        _cpu_seconds(process.pid)))
            # Ended, but not gone: the kernel still knows what it read.
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
            disk_read = _number(_proc(process.pid, "io"), "read_bytes")
        except BaseException:
            process.kill()
            raise
        finally:
            process.wait()
        seconds = time.monotonic() - start
        if process.returncode != 0:
            messages.seek(0)
            sys.exit(f"{' '.join(map(str, command))}: exit code {process.returncode}\n"
                     f"{messages.read()[-2000:]}")
    foreign = (busy_seconds() - busy - own_seconds() + own) / (seconds * os.cpu_count())
    return Run(events, seconds, disk_read, max(foreign, 0.0))


class Stepper:
    """A batch that is made to stop after some pictures, and to go on later."""

    def __init__(self, command, cache):
        ours, theirs = os.pipe()
        self.process = subprocess.Popen(
            [*map(str, command), "--events", f"fd:{theirs}"], pass_fds=[theirs],
            env={**os.environ, "STEADYFLUX_CACHE": str(cache)}, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL)
        os.close(theirs)
        self.lines = os.fdopen(ours)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.lines.close()

    def advance(self, pictures):
        """Wall and processor seconds that they took."""
        start, cpu = time.monotonic(), _cpu_seconds(self.process.pid)
        self.process.send_signal(signal.SIGCONT)
        while pictures > 0:
            line = self.lines.readline()
            if not line:
                sys.exit("the batch ended early")
            pictures -= json.loads(line)["event"] == "picture"
        self.process.send_signal(signal.SIGSTOP)
        return time.monotonic() - start, _cpu_seconds(self.process.pid) - cpu


def in_page_cache(path):
    """Bytes."""
    pages = (path.stat().st_size + mmap.PAGESIZE - 1) // mmap.PAGESIZE
    states = (ctypes.c_ubyte * pages)()
    # Private and writable only so that ctypes can take its address.
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as mapped:
        first = ctypes.c_char.from_buffer(mapped)
        failed = ctypes.CDLL(None, use_errno=True).mincore(
            ctypes.c_void_p(ctypes.addressof(first)), ctypes.c_size_t(len(mapped)), states)
        del first
    if failed:
        sys.exit(f"mincore: {os.strerror(ctypes.get_errno())}")
    return sum(state & 1 for state in states) * mmap.PAGESIZE


def stop_cleanly():
    """SIGTERM ends this script by way of all its `with` and `finally` blocks."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def machine():
    model = re.search(r"^model name\s*: (.*)", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return f"{os.cpu_count()} x {model.group(1) if model else 'unknown processor'}"
