"""Where the picture goes, what --from repeats, what --config holds."""

import json
import os
import struct
import zlib

from .case import BAD_INPUT, IO, USAGE, Case, rng

RECORD = {"format": 1, "prompt": "x", "width": 32, "height": 32, "num_inference_steps": 1,
          "seed": 0, "max_sequence_length": 16, "model": "model", "model_path": "/nonexistent",
          "model_hash": "0", "dtype": "fp32", "device": "cpu", "num_threads": 1,
          "steadyflux_version": "0.1.0", "libtorch_version": "2.15.0", "cpu_capability": "DEFAULT"}


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def text_chunk(keyword, text):
    text = text if isinstance(text, bytes) else text.encode()
    return chunk(b"iTXt", keyword + b"\0\0\0\0\0" + text)


def png(*texts):
    """A grey picture of 1 x 1 pixel with these chunks in it."""
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0))
            + b"".join(texts) + chunk(b"IDAT", zlib.compress(b"\0\0")) + chunk(b"IEND", b""))


def record(**changes):
    values = {**RECORD, **changes}
    return text_chunk(b"steadyflux", json.dumps({k: v for k, v in values.items() if v is not ...}))


def write(name, data):
    return lambda folder: (folder / name).write_bytes(data)


def outputs():
    def case(name, output, code, *says, prepare=None):
        return Case(f"-o {name}", code, says, ["x", "-o", output], prepare=prepare)
    found = [
        case("below a missing folder", "no/out.png", IO, "no/out.png", "does not exist"),
        case("far below a missing folder", "a/b/c/d/out.png", IO, "a/b/c/d"),
        case("a folder", "dir.png", IO, "dir.png", "is a folder",
             prepare=lambda folder: (folder / "dir.png").mkdir()),
        case("a folder with a slash", "dir/", USAGE, "dir/",
             prepare=lambda folder: (folder / "dir").mkdir()),
        case("below a file", "file/out.png", IO, "file",
             prepare=write("file", b"I am a file")),
        case("in /proc", "/proc/out.png", IO, "/proc/out.png"),
        case("in /proc/self", "/proc/self/out.png", IO, "/proc/self/out.png"),
        case("in /sys", "/sys/out.png", IO, "/sys/out.png"),
        case("empty", "", USAGE),
        case("a dot", ".", USAGE), case("two dots", "..", USAGE), case("a slash", "/", USAGE),
        case("only an extension", ".png", USAGE),
        *[case(f"out{e}", f"out{e}", USAGE, f"out{e}", ".png")
          for e in ["", ".", ".gif", ".webp", ".pn", ".png.tmp", ".png ", ".\u0440ng"]],
        case("a name of 5000 characters", "x" * 5000 + ".png", IO, ".png"),
        case("a name of 256 characters", "x" * 252 + ".png", IO, ".png"),
        case("a link to itself", "loop.png", IO, "loop.png",
             prepare=lambda folder: os.symlink("loop.png", folder / "loop.png")),
        case("control characters", "no\x1b[31m\n/out.png", IO, "\\x1B", "\\x0A"),
        case("invalid UTF-8 below a missing folder", b"no\xff/out.png", IO, "\\xFF"),
        Case("-o a link to /dev/full", IO, ("full.png",), ["x", "-o", "full.png"], late=True,
             prepare=lambda folder: os.symlink("/dev/full", folder / "full.png")),
        Case("the picture to a full standard output", IO, ("standard output",), ["x", "-o", "-"],
             stdout="/dev/full", late=True),
        Case("--help to a full standard output", IO, ("standard output",), ["--help"],
             stdout="/dev/full", model=False),
        Case("doctor to a full standard output", IO, ("standard output",), ["doctor"],
             stdout="/dev/full", model=False),
        Case("--version to a full standard output", IO, ("standard output",), ["--version"],
             stdout="/dev/full", model=False),
    ]
    if os.geteuid() != 0:  # root may write everywhere
        found.append(case("a closed folder", "closed/out.png", IO, "closed",
                          prepare=lambda folder: (folder / "closed").mkdir(mode=0o500)))
    return found


def repeated(name, data, *says, code=BAD_INPUT):
    return Case(f"--from {name}", code, ("old.png", *says), ["--from", "old.png"],
                prepare=write("old.png", data))


def repeats():
    good = png(record())
    bad_values = {
        "format": [0, 2, "1", ...], "prompt": [5, None, ...], "width": [0, -16, "32", 32.5, 2**63],
        "height": [..., 10**18], "num_inference_steps": [0, True, 2**31],
        "seed": [-1, 2**64, 1.5, "0", ...], "max_sequence_length": [0, 513],
        "num_threads": [0, -1], "guidance_scale": ["3.5", []], "model": [..., 1],
        "model_path": [["/"]],
    }
    found = [repeated(f"with {key} = {'nothing' if value is ... else value}",
                      png(record(**{key: value})), key)
             for key, values in bad_values.items() for value in values]
    found += [repeated(f"cut to {size} bytes", good[:size])
              for size in sorted(rng("png").sample(range(len(good) - 1), 6))]
    found += [
        repeated("an empty file", b""),
        repeated("a JPEG", b"\xff\xd8\xff\xe0" + bytes(100), "not a PNG"),
        repeated("text", b"a red apple", "not a PNG"),
        repeated("without a record", png(), "no record"),
        repeated("of another program", png(text_chunk(b"parameters", "a cat\nSteps: 20"),
                                           text_chunk(b"Software", "other")), "no record"),
        repeated("with a checksum that is wrong", good.replace(b'"seed": 0', b'"seed": 1'),
                 "checksum"),
        repeated("with two records", png(record(), record(seed=5)), "two different"),
        repeated("with a record that is no JSON", png(text_chunk(b"steadyflux", "{seed")), "JSON"),
        repeated("with a record that is a list", png(text_chunk(b"steadyflux", "[]")), "object"),
        repeated("with a record of deep nesting",
                 png(text_chunk(b"steadyflux", '{"a":' + "[" * 100000)), "nested"),
        repeated("with a record of invalid UTF-8",
                 png(text_chunk(b"steadyflux", b'{"prompt": "\xff"}')), "UTF-8"),
        repeated("with a chunk longer than the file",
                 good[:33] + struct.pack(">I", 0xFFFFFFFF) + b"iTXt" + good[33:], "cut off"),
        repeated("without a header", good[:8] + good[33:], "IHDR"),
        Case("--from missing", BAD_INPUT, ("missing.png", "not found"), ["--from", "missing.png"]),
        Case("--from a folder", BAD_INPUT, ("dir.png",), ["--from", "dir.png"],
             prepare=lambda folder: (folder / "dir.png").mkdir()),
        Case("--from a fifo", BAD_INPUT, ("pipe.png",), ["--from", "pipe.png"],
             prepare=lambda folder: os.mkfifo(folder / "pipe.png")),
        Case("--from with a model that has gone", BAD_INPUT, ("old.png", "/nonexistent", "-m"),
             ["--from", "old.png"], prepare=write("old.png", png(record(model="gone"))),
             model=False),
    ]
    return found


def configured(name, text, *says, code=BAD_INPUT):
    data = text if isinstance(text, bytes) else text.encode()
    return Case(f"--config {name}", code, says, ["x", "--config", "my.toml"],
                prepare=write("my.toml", data))


def configs():
    file = "my.toml"
    return [
        Case("--config missing", BAD_INPUT, ("missing.toml",), ["x", "--config", "missing.toml"]),
        Case("--config a folder", BAD_INPUT, ("dir",), ["x", "--config", "dir"],
             prepare=lambda folder: (folder / "dir").mkdir()),
        Case("--config a fifo", BAD_INPUT, ("pipe",), ["x", "--config", "pipe"],
             prepare=lambda folder: os.mkfifo(folder / "pipe")),
        Case("--config /dev/zero", BAD_INPUT, ("/dev/zero",), ["x", "--config", "/dev/zero"]),
        Case("--config empty name", BAD_INPUT, (), ["x", "--config", ""]),
        configured("with an unknown key", "stesp = 3\n", file, "stesp"),
        configured("with a section", "[generate]\nsteps = 3\n", file, "generate"),
        configured("with a dotted key", "generate.steps = 3\n", file, "generate"),
        configured("with two values", "steps = [1, 2]\n", file, "2 values"),
        configured("with no value", "seed\n", "seed", "true", code=USAGE),
        configured("with an empty list", "steps = []\n", file, "steps"),
        configured("with a flag that is a number", "json = 3\n", file, "true or false"),
        configured("with a prompt", "prompt = 'x'\n", file, "prompt"),
        configured("with another file", "config = 'other.toml'\n", file, "config"),
        configured("with --from", "from = 'a.png'\n", file, "from"),
        configured("of random bytes", rng("toml").randbytes(3000), file),
        configured("of zero bytes", bytes(3000), file),
        configured("of 2 MiB", "# x\n" * (1 << 19), file, "larger"),
        configured("with an open quote", 'dtype = "fp32\n', "dtype", code=USAGE),
        configured("with a control character in a key", "\x1b[31m = 3\n", file, "\\x1B"),
        configured("with a seed that is no number", "seed = many\n", "seed", "many", code=USAGE),
        configured("with guidance inf", "guidance = inf\n", "guidance", code=USAGE),
        configured("with an unknown extension", "output = 'a.bmp'\n", "a.bmp", code=USAGE),
    ]


def cases():
    return outputs() + repeats() + configs()
