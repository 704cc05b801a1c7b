#!/usr/bin/env python3
"""Runs build/release/steadyflux on a graphics card and writes a report in Markdown.

    scripts/gpu_check.py [--model FOLDER] [--device cuda]

Uses the program (through --json) and Python's standard library only. scripts/gpu_check.sh builds it
first. Exit status 1 if a check failed.

Checks, for fp32 and bf16:
  goldens   the tiny pipelines of tests/goldens on the card, against diffusers' pixels (made on a CPU)
  pictures  a model on the card against the same model on the CPU; twice, byte for byte the same,
            and once more with --cuda-graphs on
  budget    with PYTORCH_CUDA_ALLOC_CONF=per_process_memory_fraction just above the measured peak the
            same picture comes out; below the peak the exit code is 4, with one line and no file

Limits: fp32 largest difference 2 of 255 and mean 0.05; bf16 mean 3, as between CPU and diffusers
(scripts/parity.py): the arithmetic is the same, the order of its sums is not.
"""

import argparse
import json
import os
import pathlib
import struct
import subprocess
import sys
import tempfile
import zlib

TOP = pathlib.Path(__file__).resolve().parent.parent
PROGRAM = TOP / "build" / "release" / "steadyflux"
LIMITS = {"fp32": (2, 0.05), "bf16": (255, 3.0)}  # largest, mean difference
MIB = 1 << 20


def run(arguments, **environment):
    return subprocess.run([PROGRAM, *map(str, arguments)], capture_output=True, text=True,
                          stdin=subprocess.DEVNULL, env={**os.environ, **environment})


def run_json(arguments, **environment):
    done = run([arguments[0], "--json", *arguments[1:]], **environment)
    if done.returncode != 0:
        raise RuntimeError(f"exit {done.returncode}: {done.stderr.strip()[-500:]}")
    return json.loads(done.stdout)


def read_png(path):
    """8-bit RGB PNG without interlacing -> (width, height, bytes)."""
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n", path
    position, header, packed = 8, None, b""
    while position < len(data):
        length, kind = struct.unpack(">I4s", data[position:position + 8])
        body = data[position + 8:position + 8 + length]
        if kind == b"IHDR":
            header = struct.unpack(">IIBBBBB", body)
        elif kind == b"IDAT":
            packed += body
        position += 12 + length
    width, height = header[:2]
    assert header[2:] == (8, 2, 0, 0, 0), f"{path}: not 8-bit RGB"
    raw, stride, rows, above = zlib.decompress(packed), 3 * width, [], bytes(3 * width)
    for y in range(height):
        start = y * (stride + 1)
        above = unfilter(raw[start], bytearray(raw[start + 1:start + 1 + stride]), above)
        rows.append(bytes(above))
    return width, height, b"".join(rows)


def unfilter(kind, row, above):
    for i in range(len(row)):
        left = row[i - 3] if i >= 3 else 0
        corner = above[i - 3] if i >= 3 else 0
        if kind == 1:
            row[i] = (row[i] + left) & 255
        elif kind == 2:
            row[i] = (row[i] + above[i]) & 255
        elif kind == 3:
            row[i] = (row[i] + (left + above[i]) // 2) & 255
        elif kind == 4:
            estimate = left + above[i] - corner
            nearest = min((left, above[i], corner), key=lambda value: abs(estimate - value))
            row[i] = (row[i] + nearest) & 255
    return row


def read_golden_pixels(path, run_name):
    """RUN.pixels of a goldens.safetensors: uint8 [height, width, 3]."""
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    entry = json.loads(data[8:8 + size])[f"{run_name}.pixels"]
    begin, end = entry["data_offsets"]
    assert entry["dtype"] == "U8", entry
    return data[8 + size + begin:8 + size + end]


def difference(a, b):
    """Largest and mean difference of two byte strings."""
    assert len(a) == len(b), f"{len(a)} and {len(b)} bytes"
    differences = [abs(x - y) for x, y in zip(a, b)]
    return max(differences), sum(differences) / len(differences)


class Report:
    def __init__(self):
        self.failed = 0

    def line(self, text=""):
        print(text, flush=True)

    def check(self, name, passed, detail):
        self.failed += not passed
        self.line(f"- {'ok' if passed else '**FAILED**'}: {name}: {detail}")

    def section(self, title, body):
        self.line(f"\n## {title}\n")
        try:
            body()
        except (RuntimeError, AssertionError, OSError, ValueError, KeyError) as error:
            self.check(title, False, f"{type(error).__name__}: {error}")


def compare(report, name, dtype, ours, reference):
    largest, mean = difference(ours, reference)
    limit_largest, limit_mean = LIMITS[dtype]
    report.check(name, largest <= limit_largest and mean <= limit_mean,
                 f"largest difference {largest} (limit {limit_largest}), "
                 f"mean {mean:.4f} (limit {limit_mean})")


def check_goldens(report, device, folder, dtype, libtorch):
    for golden in sorted((TOP / "tests" / "goldens").glob("*/manifest.json")):
        manifest = json.loads(golden.read_text())
        if dtype not in manifest.get("runs", ()):  # those of parts and of other commands
            continue
        # libtorch 2.11 and 2.15 draw other noise in bf16: two pictures, not two computations.
        made_with = manifest["versions"]["torch"].split("+")[0]
        if dtype != "fp32" and made_with.split(".")[:2] != libtorch.split(".")[:2]:
            report.line(f"- left out: golden {golden.parent.name}, {dtype}: the noise of libtorch "
                        f"{made_with}, here is {libtorch}")
            continue
        request, out = manifest["request"], folder / "golden.png"
        run_json(["generate", "-m", golden.parent / "model", "-o", out, "--device", device,
                  "--dtype", dtype, "-W", request["width"], "-H", request["height"],
                  "--steps", request["steps"], "--guidance", request["guidance"],
                  "-s", request["seed"], "--max-sequence-length", request["max_sequence_length"],
                  "--", request["prompt"]])
        compare(report, f"golden {golden.parent.name}, {dtype}", dtype, read_png(out)[2],
                read_golden_pixels(golden.parent / "goldens.safetensors", dtype))


def denoise_seconds(told):
    return next(phase["seconds"] for phase in told["phases"] if phase["name"] == "denoise")


def check_graphs(report, command, dtype, plain, plain_told):
    path = plain.with_name(f"graphs-{dtype}.png")
    done = run([*command, "--json", "--cuda-graphs", "on", "-o", path])
    if done.returncode != 0:
        raise RuntimeError(f"--cuda-graphs on: exit {done.returncode}: {done.stderr.strip()[-500:]}")
    report.check(f"graphs, {dtype}", "cannot be recorded" not in done.stderr
                 and path.read_bytes() == plain.read_bytes(),
                 f"recorded, the same bytes? Denoising {denoise_seconds(json.loads(done.stdout)):.3f} "
                 f"s with, {denoise_seconds(plain_told):.3f} s without")


def check_pictures(report, device, folder, dtype, model):
    """Gives the largest number of bytes that the allocator reserved."""
    common = ["generate", "--dtype", dtype, *model, "a red apple"]
    paths = [folder / f"{name}-{dtype}.png" for name in ("cpu", "card", "again")]
    cpu = run_json([*common, "--device", "cpu", "-o", paths[0]])
    card = run_json([*common, "--device", device, "-o", paths[1]])
    run_json([*common, "--device", device, "-o", paths[2]])
    compare(report, f"picture, {dtype}", dtype, read_png(paths[1])[2], read_png(paths[0])[2])
    report.check(f"repeated, {dtype}", paths[1].read_bytes() == paths[2].read_bytes(),
                 "two commands, the same bytes?")
    check_graphs(report, [*common, "--device", device], dtype, paths[1], card)
    report.line(f"\n{card['width']} x {card['height']}, {card['steps']} steps, {dtype}:\n")
    report.line("| phase | seconds | on the CPU | card: allocated MiB | reserved MiB | RSS MiB |")
    report.line("|---|---|---|---|---|---|")
    for on_card, on_cpu in zip(card["phases"], cpu["phases"]):
        report.line(f"| {on_card['name']} | {on_card['seconds']:.2f} | {on_cpu['seconds']:.2f} | "
                    f"{on_card['device_peak_allocated'] / MIB:.0f} | "
                    f"{on_card['device_peak_reserved'] / MIB:.0f} | "
                    f"{on_card['peak_rss'] / MIB:.0f} |")
    report.line()
    return max(phase["device_peak_reserved"] for phase in card["phases"])


def check_budget(report, device, folder, model, reserved, total):
    common = ["generate", "--dtype", "bf16", "--device", device, *model, "a red apple"]

    def limited(limit):
        return {"PYTORCH_CUDA_ALLOC_CONF": f"per_process_memory_fraction:{limit / total:.9f}"}

    # One segment (20 MiB) of room: the limit is checked before cached blocks are looked through.
    enough, path = reserved + 20 * MIB, folder / "budget.png"
    run_json([*common, "-o", path], **limited(enough))
    report.check("budget that suffices", path.read_bytes() == (folder / "card-bf16.png").read_bytes(),
                 f"limit {enough / MIB:.0f} MiB, the same bytes?")
    small, path = reserved // 2, folder / "small.png"
    done = run([*common, "-q", "-o", path], **limited(small))
    lines = done.stderr.strip().splitlines()
    report.check("budget that does not", done.returncode == 4 and len(lines) == 1
                 and not path.exists() and not list(folder.glob("small*")),
                 f"limit {small / MIB:.0f} MiB, exit {done.returncode} (4 expected), "
                 f"{len(lines)} line(s): {lines[-1] if lines else ''}")


def card_memory(doctor, device):
    name = device if ":" in device else f"{device}:0"
    for card in doctor["devices"]:
        if card["name"] == name:
            return card["total"]
    raise SystemExit(f"gpu_check: steadyflux finds no {name}: {'; '.join(doctor['problems'])}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="a model folder; without it, the bundled model")
    parser.add_argument("--device", default="cuda", help="cuda or cuda:N")
    options = parser.parse_args()
    doctor = run_json(["doctor"])
    total = card_memory(doctor, options.device)
    model = ["-m", options.model] if options.model else []
    report, reserved = Report(), {}
    report.line("# steadyflux on a graphics card\n")
    report.line(f"steadyflux {doctor['steadyflux_version']}, libtorch {doctor['libtorch_version']}, "
                f"CPU {doctor['cpu_capability']}, {doctor['cores']} cores, "
                f"card memory {total / MIB:.0f} MiB")
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        report.line(subprocess.run(query, capture_output=True, text=True).stdout.strip())
    except OSError:
        pass  # WSL may lack it
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        for dtype in LIMITS:
            report.section(f"Goldens, {dtype}",
                           lambda: check_goldens(report, options.device, folder, dtype,
                                                 doctor["libtorch_version"]))
            report.section(f"Pictures, {dtype}", lambda: reserved.update(
                {dtype: check_pictures(report, options.device, folder, dtype, model)}))
        if "bf16" in reserved:
            report.section("Budget", lambda: check_budget(report, options.device, folder, model,
                                                          reserved["bf16"], total))
    report.line(f"\n{report.failed} check(s) failed" if report.failed else "\nall checks passed")
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
