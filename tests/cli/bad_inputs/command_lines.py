"""Options that do not exist, lack their value, or have one that cannot be."""

import os

from .case import BAD_INPUT, IO, USAGE, Case

# option -> values that are refused; the message names the option and the value.
WHOLE = ["", " ", "x", "1.5", "1e3", "0x10", "+4", " 4", "4 ", "-1", "0", "99999999999999999999",
         "-99999999999999999999", "nan", "inf", "\u0664", "4\n", "4;ls"]
REFUSED = {
    "--width": WHOLE + ["1", "100", "16385", "16400", "9223372036854775807"],
    "--height": WHOLE[:6] + ["-16", "8", "17", "1e18"],
    "--steps": WHOLE + ["1001", "2147483648"],
    "--num-images": ["", "x", "0", "-1", "1.5", "10001", "18446744073709551617"],
    "--threads": ["", "x", "0", "-2", "1025", "4294967297"],
    "--max-sequence-length": ["", "x", "0", "-1", "513", "77.0"],
    "--seed": ["", "x", "-2", "1.0", "1e3", "18446744073709551616", "0x1", "+1", "- 1"],
    "--guidance": ["", "x", "nan", "-nan", "inf", "-inf", "-0.5", "1e400", "1,5", "3.5x"],
    "--cache-threshold": ["", "x", "nan", "inf", "-0.1", "1.01", "0,1", "auto"],
    "--device": ["", "gpu", "CPU", "cuda:", "cuda:x", "cuda:-1", "cuda:256", "cuda:1:2", "cuda:N",
                 "mps", "meta"],
    "--dtype": ["", "int8", "float32", "BF16", "fp8", "bf16 "],
    "--compute": ["", "int4", "fp16", "INT8", "int8 ", "w8a8"],
    "--max-vram": ["", "x", "6", "0", "-6GiB", "6XB", "GiB", "6 GiB GiB", "nan", "inf", "1e3GiB",
                   "1,5GiB", "1023KiB", "99999999999999TiB", "6GiB\n"],
    "--max-ram": ["", "8", "-1", "0x10GiB", "+8GiB", "8GiB;ls", "\u0668GiB", "9223372036854775808"],
    "--vae-tiling": ["", "yes", "ON", "auto ", "true", "1"],
    "--cuda-graphs": ["", "yes", "ON", "auto", "off ", "1"],
    "--on-pressure": ["", "ignore", "Replan", "kill", "warn,abort"],
    "--memory-report": ["", "-", "report", "report.png", "report.svg.gz", "svg", ".svg", "report."],
}

NEAREST = {"100": "use 96 or 112", "1": "use 16 or 32", "8": "use 16 or 32", "17": "use 16 or 32",
           "1023": "use 1008 or 1024", "16383": "use 16368 or 16384"}


def option_cases():
    found = []
    for option, values in REFUSED.items():
        for value in values:
            # --width=-1 and "--width -1" are the same to the user: half of them either way.
            joined = len(found) % 2 == 0
            arguments = [f"{option}={value}"] if joined else [option, value]
            found.append(Case(f"{' '.join(map(repr, arguments))}", USAGE, (option[2:],),
                              ["x", *arguments], model=False))
    return found


def usage(name, arguments, *says, **more):
    return Case(f"command line: {name}", USAGE, says, arguments, model=False, **more)


def grammar():
    long_prompt = "x" * 100000
    return [
        usage("nothing", [], "no prompt"),
        usage("generate alone", ["generate"], "no prompt"),
        usage("two prompts", ["red", "apple"], "apple", "quotes"),
        usage("a prompt of many words", ["a", "red", "apple", "on", "a", "table"], "quotes"),
        usage("unknown long option", ["x", "--colour", "red"], "--colour"),
        usage("unknown short option", ["x", "-Z"], "-Z"),
        usage("a misspelt option", ["x", "--step", "3"], "--step"),
        usage("an option with one dash", ["x", "-steps", "3"]),
        usage("control characters in an option", ["x", "--\x1b[31m\n"], "\\x1B", "\\x0A"),
        usage("an option of invalid UTF-8", ["x", b"--\xff\xfe"], "\\xFF"),
        usage("an option of 100000 characters", ["x", f"--{long_prompt}"]),
        *[usage(f"{option} without its value", ["x", option], name, "missing")
          for option, name in {"-o": "--output", "-m": "--model", "-W": "--width",
                               "-H": "--height", "--steps": "--steps", "-s": "--seed",
                               "-n": "--num-images", "--threads": "--threads",
                               "--guidance": "--guidance", "--device": "--device",
                               "--dtype": "--dtype", "--compute": "--compute", "--from": "--from",
                               "--max-sequence-length": "--max-sequence-length",
                               "--max-vram": "--max-vram", "--max-ram": "--max-ram",
                               "--vae-tiling": "--vae-tiling", "--cuda-graphs": "--cuda-graphs",
                               "--on-pressure": "--on-pressure",
                               "--memory-report": "--memory-report",
                               "--config": "--config"}.items()],
        usage("a flag with a value", ["x", "--json=3"], "json"),
        usage("quiet and verbose", ["x", "-q", "-v"], "exclude each other"),
        Case("a prompt of invalid UTF-8", USAGE, ("UTF-8",), [b"caf\xe9"]),
        Case("a prompt of a lone surrogate", USAGE, ("UTF-8",), [b"\xed\xa0\x80"]),
        Case("a prompt of overlong UTF-8", USAGE, ("UTF-8",), [b"\xc0\xaf"]),
        Case("standard input is no UTF-8", USAGE, ("UTF-8",), ["-"], stdin=b"\xff\xfe\x00"),
        Case("standard input ends within a character", USAGE, ("UTF-8",), ["-"], stdin=b"a\xe2\x82"),
        usage("inspect without a path", ["inspect"], "no path"),
        usage("inspect of two paths", ["inspect", "a", "b"], "'b'"),
        usage("inspect with an option of generate", ["inspect", ".", "--steps", "3"], "--steps"),
        usage("plan with a prompt", ["plan", "a red apple"], "a red apple", "steadyflux plan --help"),
        usage("plan with an option of generate", ["plan", "--seed", "3"], "--seed"),
        usage("doctor with an argument", ["doctor", "please"], "please"),
        usage("doctor with --steps", ["doctor", "--steps", "3"], "--steps"),
        usage("both picture and JSON to stdout", ["x", "-o", "-", "--json"], "--json and -o -"),
        usage("two pictures to stdout", ["x", "-o", "-", "-n", "2"], "-o -"),
        usage("the last seed is too large", ["x", "-s", "18446744073709551615", "-n", "2"], "2^64"),
        usage("a picture too large for the writers", ["x", "-W", "16384", "-H", "16384"], "larger"),
    ]


def sizes():
    return [Case(f"--width {size} names its neighbours", USAGE, (size, text), ["x", "-W", size],
                 model=False) for size, text in NEAREST.items()]


def has_gpu():
    return os.path.exists("/dev/nvidiactl")


def devices():
    if has_gpu():
        return []
    return [Case(f"--device {name} without a driver", USAGE, (f"--device {name}", "--device cpu"),
                 ["x", "--device", name]) for name in ["cuda", "cuda:0", "cuda:7"]]


def plans():
    """The same values are refused where nothing would be made anyway."""
    def case(name, arguments, *says, code=USAGE):
        return Case(f"plan: {name}", code, says, ["plan", *arguments], model=False)
    refused = {"--width": "100", "--height": "0", "--steps": "0", "--num-images": "x",
               "--max-sequence-length": "513", "--dtype": "int8", "--compute": "int4", "--device": "tpu",
               "--threads": "0", "--max-vram": "6", "--max-ram": "many", "--vae-tiling": "maybe",
               "--cuda-graphs": "maybe"}
    return [
        *[case(f"{option} {value}", [option, value], option[2:], value)
          for option, value in refused.items()],
        case("a missing folder", ["-m", "no/such/folder"], "no/such/folder", code=BAD_INPUT),
        case("a hub id that is not there", ["-m", "some-org/some-model"], "hf download",
             code=BAD_INPUT),
        case("a folder without a model", ["-m", "."], "model_index.json", code=BAD_INPUT),
    ]


def reports():
    def case(name, path, *says, prepare=None):
        return Case(f"--memory-report: {name}", IO, ("--memory-report", *says),
                    ["x", "--memory-report", path], prepare=prepare, model=False)
    return [
        case("a missing folder", "no/such/report.svg", "no/such"),
        case("a folder", "folder.html", "is a folder",
             prepare=lambda folder: (folder / "folder.html").mkdir()),
        case("below a file", "file/report.json", "file",
             prepare=lambda folder: (folder / "file").write_bytes(b"")),
    ]


def inspected():
    def file(name, data):
        return lambda folder: (folder / name).write_bytes(data)

    def case(name, arguments, *says, prepare=None, code=BAD_INPUT):
        return Case(f"inspect: {name}", code, says, ["inspect", *arguments], prepare=prepare,
                    model=False)
    return [
        case("a missing file", ["missing.png"], "missing.png"),
        case("an empty folder", ["."], "."),
        case("/dev/null", ["/dev/null"], "/dev/null"),
        case("a fifo", ["pipe.safetensors"], "pipe.safetensors",
             prepare=lambda folder: os.mkfifo(folder / "pipe.safetensors")),
        case("an empty file", ["e.safetensors"], "e.safetensors", prepare=file("e.safetensors", b"")),
        case("a text file", ["notes.txt"], "notes.txt", prepare=file("notes.txt", b"hello")),
        case("half a picture", ["half.png"], "half.png",
             prepare=file("half.png", b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR")),
    ]


def cases():
    return (option_cases() + grammar() + sizes() + devices() + plans() + reports() + inspected())
