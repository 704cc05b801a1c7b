"""Whether a long run stays as it was: makes 20 pictures in one process, and compares memory after
the 2nd and the 20th, and the time of pictures 2-7 with that of pictures 15-20.

Use: steady.py PROGRAM [MODEL] [--size 256x256] [--steps 24] [-n 20] [--threads N] [--device NAME]

The program draws its progress on a terminal, so it gets one: that tells from outside when each step
and each picture was done, while RSS is read from /proc. Pictures are denoised one after the other,
then decoded one after the other; both are compared. Exits 1 if memory or time grew by more than the
limits below, and 2 if other programs took so much of the processor that the times say nothing.
"""
import argparse
import fcntl
import json
import os
import pathlib
import pty
import re
import select
import statistics
import struct
import subprocess
import sys
import tempfile
import termios
import time

MEMORY_RATIO, MEMORY_SLACK = 1.02, 16 * 2**20  # either of them may be used up
TIME_RATIO = 1.03
MOST_FOREIGN = 0.05  # of all processors, taken by others
EARLY, LATE = (2, 7), (15, 20)  # pictures, counted from 1
PROGRESS = re.compile(rb"(encode|modulate|denoise|decode) *\[[#.]*\] (\d+)/(\d+)")


def rss_of(pid):
    try:
        pages = int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):  # gone
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def busy_seconds():
    """Of all processors and all processes, since boot."""
    user, nice, system, _, _, irq, softirq, steal = map(
        int, pathlib.Path("/proc/stat").read_text().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def own_seconds():
    """Of this script and the programs that it ran."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


class Phase:
    def __init__(self, start):
        self.marks = [(0, start, 0)]  # steps done, time, RSS
        self.samples = []             # time, RSS
        self.total = 0

    def boundary(self, picture, images):
        """Time and RSS when so many pictures were done."""
        steps = self.total // images * picture
        return next((at, rss) for done, at, rss in self.marks if done >= steps)

    def peak(self, picture, images):
        begin, end = self.boundary(picture - 1, images)[0], self.boundary(picture, images)[0]
        return max((rss for at, rss in self.samples if begin < at <= end), default=0)

    def seconds(self, images):
        times = [self.boundary(picture, images)[0] for picture in range(images + 1)]
        return [after - before for before, after in zip(times, times[1:])]


def watch(command):
    """Runs the program on a terminal of its own; its phases by name."""
    terminal, other_end = pty.openpty()
    fcntl.ioctl(other_end, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 120, 0, 0))
    process = subprocess.Popen(command, stderr=other_end, stdout=subprocess.DEVNULL,
                               stdin=subprocess.DEVNULL)
    os.close(other_end)
    phases, running, text = {}, None, b""
    while True:
        ready = select.select([terminal], [], [], 0.005)[0]
        now, rss = time.perf_counter(), rss_of(process.pid)
        if running:
            running.samples.append((now, rss))
        if not ready:
            continue
        try:
            piece = os.read(terminal, 65536)
        except OSError:  # the program has ended
            break
        text = (text + piece)[-100000:]
        end = 0
        for match in PROGRESS.finditer(text):
            name, done, total = match[1].decode(), int(match[2]), int(match[3])
            running = phases.setdefault(name, Phase(now))
            running.total = total
            if done > running.marks[-1][0]:
                running.marks.append((done, now, rss))
            end = match.end()
        text = text[end:]
    os.close(terminal)
    if process.wait() != 0:
        sys.exit(f"{' '.join(command)}: exit code {process.returncode}: {text.decode().strip()}")
    return phases


def mean_of(seconds, pictures):
    first, last = pictures
    return statistics.mean(seconds[first - 1:last])


def device_bytes(report, name, phase, images, picture):
    """Of the device's allocator, from the program's own samples, at the end of a picture."""
    index = next(i for i, record in enumerate(report["phases"]) if record["name"] == name)
    at = (report["phases"][index]["start"] + phase.boundary(picture, images)[0]
          - phase.marks[0][1])
    samples = [s for s in report["samples"] if s["phase"] == index]
    return min(samples, key=lambda s: abs(s["seconds"] - at))["device"]["allocated"]


def compare_memory(label, early, late):
    ok = late <= max(early * MEMORY_RATIO, early + MEMORY_SLACK)
    print(f"| {label} | {early / 2**20:.1f} MiB | {late / 2**20:.1f} MiB | {late / early:.3f} | "
          f"{'ok' if ok else 'GREW'} |")
    return ok


def compare_time(label, seconds):
    early, late = mean_of(seconds, EARLY), mean_of(seconds, LATE)
    ok = late <= early * TIME_RATIO
    print(f"| {label} | {1000 * early:.1f} ms | {1000 * late:.1f} ms | {late / early:.3f} | "
          f"{max(seconds[1:]) / min(seconds[1:]):.2f} | {'ok' if ok else 'SLOWER'} |")
    return ok


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("model", nargs="?")
    parser.add_argument("--size", default="256x256")
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("-n", "--num-images", type=int, default=20)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("options", nargs="*", help="more for the program, after --")
    arguments = parser.parse_args()
    images = arguments.num_images
    if images < LATE[1]:
        sys.exit(f"-n must be at least {LATE[1]}")
    width, height = arguments.size.split("x")
    with tempfile.TemporaryDirectory() as folder:
        report_file = pathlib.Path(folder) / "report.json"
        command = [arguments.program, "-W", width, "-H", height, "--steps", str(arguments.steps),
                   "-n", str(images), "--device", arguments.device, "--json",
                   "--memory-report", str(report_file), "-o", f"{folder}/out.png"]
        if arguments.model:
            command += ["-m", arguments.model]
        if arguments.threads:
            command += ["--threads", str(arguments.threads)]
        start = time.perf_counter(), busy_seconds() - own_seconds()
        phases = watch(command + arguments.options + ["a red apple"])
        foreign = (busy_seconds() - own_seconds() - start[1]) / (
            (time.perf_counter() - start[0]) * os.cpu_count())
        report = json.loads(report_file.read_text())
    phases = {name: phases[name] for name in ("denoise", "decode")}
    print(f"{report['title']}; {images} pictures, {report['seconds']:.1f} s\n")
    print(f"| mean | pictures {EARLY[0]}-{EARLY[1]} | {LATE[0]}-{LATE[1]} | ratio | "
          "slowest / fastest | |")
    print("|---|---|---|---|---|---|")
    ok, whole = [], [0.0] * images
    for name, phase in phases.items():
        seconds = phase.seconds(images)
        whole = [a + b for a, b in zip(whole, seconds)]
        ok.append(compare_time(name, seconds))
    ok.append(compare_time("both", whole))
    print(f"\n| | picture {EARLY[0]} | {LATE[1]} | ratio | |\n|---|---|---|---|---|")
    on_device = any(s["device"]["allocated"] for s in report["samples"])
    for name, phase in phases.items():
        ok.append(compare_memory(f"{name}, RSS after", phase.boundary(EARLY[0], images)[1],
                                 phase.boundary(LATE[1], images)[1]))
        ok.append(compare_memory(f"{name}, highest RSS during", phase.peak(EARLY[0], images),
                                 phase.peak(LATE[1], images)))
        if on_device:
            ok.append(compare_memory(f"{name}, device after", *(
                device_bytes(report, name, phase, images, picture)
                for picture in (EARLY[0], LATE[1]))))
    print(f"\nother programs took {100 * foreign:.1f} % of the processors")
    if foreign > MOST_FOREIGN:
        print("DISTURBED: the times above say nothing; run it again on a machine that is idle")
        sys.exit(2)
    sys.exit(not all(ok))


if __name__ == "__main__":
    main()
