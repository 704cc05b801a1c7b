"""Runs what docs/examples.md shows: every bash block in a folder of its own, with the files that
the page shows, the program on the PATH and the bundled model; then looks at what came of it. A
section whose tools are not installed is skipped.

Usage: examples_test.py PROGRAM MODEL_FOLDER [--only WORD] [--require-all] [--keep FOLDER]
--require-all: a section that is skipped counts as failed. --keep: leave what was made there."""

import argparse
import contextlib
import json
import os
import pathlib
import re
import shlex
import shutil
import struct
import subprocess
import sys
import tempfile
import time

TOP = pathlib.Path(__file__).resolve().parents[2]
PAGE = TOP / "docs/examples.md"
FILES = TOP / "docs/examples"
# An optional line that names a file, and a fenced block: file name, language, text.
BLOCK = re.compile(r"^(?:[^\n]*\[examples/([\w.-]+)\][^\n]*:\n\n)?```(\w+)\n(.*?)^```$",
                   re.M | re.S)
# What is to be installed for a command, where that is not plain.
PACKAGES = {"convert": "imagemagick", "montage": "imagemagick", "systemd-analyze": "systemd",
            "split": "coreutils", "xargs": "findutils"}
# Starts as many processes as a step of this many tasks has, with the variables that SLURM sets.
SRUN = """#!/bin/sh
for rank in 0 1 2; do
  SLURM_PROCID=$rank SLURM_LOCALID=$rank SLURM_NTASKS=3 SLURM_STEP_NUM_TASKS=3 SLURM_STEP_ID=0 \\
    SLURM_JOB_ID=$$ SLURM_STEP_NODELIST=localhost OMP_NUM_THREADS=1 "$@" --threads 1 &
  ranks="$ranks $!"
done
for rank in $ranks; do wait "$rank" || exit; done
"""


class Skipped(Exception):
    pass


def check(condition, *shown):
    if not condition:
        raise AssertionError(" ".join(str(part) for part in shown))


def size_of(path):
    """Of a whole PNG file, in pixels."""
    data = path.read_bytes()
    check(data.startswith(b"\x89PNG\r\n\x1a\n") and data.endswith(b"IEND\xaeB`\x82"), path)
    return struct.unpack(">II", data[16:24])


def read_page():
    """heading -> [(file name or None, language, text)]"""
    _, *sections = re.split(r"^## (.*)\n", PAGE.read_text(), flags=re.M)
    before = PAGE.read_text().split("\n## ")[0]
    page = {None: [(m[1], m[2], m[3]) for m in BLOCK.finditer(before)]}
    for heading, body in zip(sections[::2], sections[1::2]):
        page[heading] = [(m[1], m[2], m[3]) for m in BLOCK.finditer(body)]
    return page


def find_torch_python():
    for python in [os.environ.get("STEADYFLUX_TORCH_PYTHON"), str(TOP / ".venv/bin/python"),
                   shutil.which("python3")]:
        if python and subprocess.run([python, "-c", "from torch.distributed import TCPStore"],
                                     capture_output=True).returncode == 0:
            return python
    return None


class Examples:
    def __init__(self, program, model, folder):
        self.folder, self.model = folder, model
        self.prompts = [line for line in (FILES / "prompts.txt").read_text().splitlines()
                        if not line.startswith("#")]
        bin_folder = folder / "bin"
        bin_folder.mkdir(parents=True)
        (bin_folder / "steadyflux").symlink_to(program)
        self.environment = {k: v for k, v in os.environ.items()
                            if not k.startswith(("SLURM_", "OMPI_", "PMI_", "MASTER_", "MAKE"))}
        self.environment.update(
            PATH=f"{bin_folder}:{os.environ['PATH']}", STEADYFLUX_MODEL=str(model),
            STEADYFLUX_CACHE=str(folder / "cache"), OMP_WAIT_POLICY="passive",
            HOME=str(folder / "home"))
        (folder / "home").mkdir()
        self.count = 0

    def need(self, *tools):
        for tool in tools:
            if not shutil.which(tool, path=self.environment["PATH"]):
                raise Skipped(f"{tool} is not installed (apt-get install "
                              f"{PACKAGES.get(tool, tool)})")

    def new_folder(self):
        self.count += 1
        here = self.folder / f"{self.count:02}"
        here.mkdir()
        for file in FILES.iterdir():
            shutil.copy(file, here)
        return here

    def run(self, script, here=None, code=0, **variables):
        """In a new folder, which is returned."""
        here = here or self.new_folder()
        done = subprocess.run(["bash", "-euo", "pipefail", "-c", script], cwd=here, timeout=300,
                              env={**self.environment, **variables}, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.said = done.stdout.decode(errors="replace")
        check(done.returncode == code, f"exit code {done.returncode} of:\n{script}\n{self.said}")
        return here

    def check_batch(self, folder, count=None):
        """It holds the pictures of the prompts, whole, and nothing else."""
        names = [f"{n + 1:04}.png" for n in range(count or len(self.prompts))]
        found = sorted(p.name for p in folder.iterdir())
        check(found == [*names, "journal.jsonl"], folder, "holds", found)
        for name in names:
            check(size_of(folder / name) == (128, 128), name)

    def check_one_by_one(self, folder, names):
        check(sorted(p.name for p in folder.iterdir()) == sorted(names), list(folder.iterdir()))
        for name in names:
            check(size_of(folder / name) == (128, 128), name)


# --- a function for each section, which gets the texts of its bash blocks -------------------------


def a_pipe(examples, script):
    examples.need("jq")
    here = examples.run(script)
    examples.check_batch(here / "pictures")
    lines = [f"pictures/{n + 1:04}.png\t{p}" for n, p in enumerate(examples.prompts)]
    check((here / "index.tsv").read_text().splitlines() == lines)


def imagemagick(examples, script):
    examples.need("convert", "montage")
    here = examples.run(script)
    check(size_of(here / "apple-large.png") == (512, 512))
    check(size_of(here / "montage.png") == (3 * 136, 2 * 136), size_of(here / "montage.png"))


def a_conversation(examples, ask, loop):
    examples.need("jq")
    here = examples.run(ask)
    check(re.fullmatch(r"(pictures/apple-[123]\.png took [\d.e-]+ s\n){3}",
                       (here / "log.txt").read_text()), (here / "log.txt").read_text())
    check(len({(here / f"pictures/apple-{seed}.png").read_bytes() for seed in (1, 2, 3)}) == 3)
    here = examples.run(loop)
    for number, prompt in enumerate(examples.prompts, 1):
        copy = here / f"{prompt.replace(' ', '-')}.png"
        check(copy.read_bytes() == (here / f"pictures/{number:04}.png").read_bytes())


def stopped(examples, script):
    here = examples.run(script)
    examples.check_batch(here / "pictures")
    codes = re.findall(r"stopped with exit code (\d+)", examples.said)
    check(codes in ([], ["143"]), examples.said)  # []: it was done before the signal came
    lines = (here / "pictures/journal.jsonl").read_text().splitlines()
    done = [json.loads(line)["output"] for line in lines if json.loads(line)["event"] == "done"]
    check(len(done) == len(set(done)) >= len(examples.prompts) - 1, done)


def watching(examples, live, later):
    examples.need("jq")
    here = examples.run(live)
    lines = (here / "progress.txt").read_text().splitlines()
    check(len(lines) == len(examples.prompts), lines)
    check(all(re.fullmatch(r"[\d.]+ s: pictures/\d{4}\.png", line) for line in lines), lines)
    here = examples.run(later)
    seconds = json.loads((here / "seconds.json").read_text())
    check({"denoise", "decode"} <= set(seconds), seconds)


def xargs_and_parallel(examples, xargs, parallel, parts):
    examples.need("xargs", "parallel")
    here = examples.run(xargs)
    examples.check_one_by_one(here / "one-by-one",
                              [f"{p.replace(' ', '-')}.png" for p in examples.prompts])
    here = examples.run(parallel)
    examples.check_one_by_one(here / "numbered",
                              [f"{n + 1}.png" for n in range(len(examples.prompts))])
    here = examples.run(parts)
    answers = [json.loads(line) for line in (here / "answers.jsonl").read_text().splitlines()]
    check(sorted(a["prompt"] for a in answers) == sorted(examples.prompts), answers)
    for part in "12":
        examples.check_batch(here / f"pictures/part-{part}", count=3)


def make(examples, script):
    examples.need("make")
    here = examples.run(script)
    examples.check_one_by_one(here / "out", ["apple.png", "panda.png"])
    check(examples.said.count("out/apple.png -") == 1, examples.said)
    check(examples.said.count("out/panda.png -") == 2, examples.said)
    check(b"a panda in the snow" in (here / "out/panda.png").read_bytes())


def slurm_array(examples):
    examples.need("split")
    here = examples.new_folder()
    for _ in "again", "and again":  # a task that is queued again does nothing twice
        for task in "1234":
            examples.run("bash array.sh", here, SLURM_ARRAY_TASK_ID=task,
                         SLURM_ARRAY_TASK_COUNT="4", SLURM_JOB_ID="1", SLURM_NTASKS="1",
                         SLURM_PROCID="0")
    prompts = []
    for line in (here / "pictures").glob("part-*/journal.jsonl"):
        entries = [json.loads(text) for text in line.read_text().splitlines()]
        prompts += [entry["prompt"] for entry in entries if entry["event"] == "done"]
    check(sorted(prompts) == sorted(examples.prompts), prompts)
    check(len(list((here / "pictures").glob("part-*/*.png"))) == len(prompts))


def slurm_shared(examples):
    srun = examples.folder / "bin/srun"
    srun.write_text(SRUN)
    srun.chmod(0o755)
    here = examples.run("bash shared.sh")
    examples.check_batch(here / "pictures")
    made = (here / "pictures/journal.jsonl").read_text().count('"event":"done"')
    check(made == len(examples.prompts), made)


def torchrun(examples, script):
    python = find_torch_python()
    if not python:
        raise Skipped("no Python that can import torch (STEADYFLUX_TORCH_PYTHON)")
    launcher = examples.folder / "bin/torchrun"
    launcher.write_text(f'#!/bin/sh\nexec {python} -m torch.distributed.run "$@"\n')
    launcher.chmod(0o755)
    here = examples.run(script)
    examples.check_batch(here / "pictures")


def several_machines(examples, script):
    here = examples.run(script)
    examples.check_batch(here / "pictures")


def encode_and_draw(examples, script):
    here = examples.run(script)
    examples.check_batch(here / "pictures")
    # The second command again, as on a machine without the weights of text encoders.
    lean = here / "lean"
    shutil.copytree(examples.model, lean, ignore=lambda folder, names: [
        n for n in names if "text_encoder" in folder and n.endswith(".safetensors")])
    check(not list(lean.glob("text_encoder*/*.safetensors")))
    command = script.splitlines()[-1].replace("-o pictures", "-o drawn-elsewhere")
    examples.run(command, here, STEADYFLUX_MODEL=str(lean), STEADYFLUX_CACHE=str(here / "cache"))
    examples.check_batch(here / "drawn-elsewhere")


def systemd(examples):
    here = examples.new_folder()
    units = [here / f"steadyflux-batch.{kind}" for kind in ("service", "timer")]
    settings = dict(re.findall(r"^(\w+)=(.*)$", units[0].read_text(), flags=re.M))
    program, *arguments = shlex.split(settings["ExecStart"])
    # The command itself, where the service would run it.
    state = examples.new_folder()
    examples.run(shlex.join([pathlib.Path(program).name, *arguments]), state)
    examples.check_batch(state / "pictures")
    if not shutil.which("systemd-analyze"):
        raise Skipped("the command went well, but systemd-analyze is not installed (apt-get "
                      "install systemd)")
    calendar = dict(re.findall(r"^(\w+)=(.*)$", units[1].read_text(), flags=re.M))["OnCalendar"]
    examples.run(shlex.join(["systemd-analyze", "calendar", calendar]), here)
    # It looks whether the program is there: the one of this test.
    text = units[0].read_text().replace(program, str(examples.folder / "bin/steadyflux"))
    units[0].write_text(text)
    examples.run(shlex.join(["systemd-analyze", "verify", "--man=no", *map(str, units)]), here)
    check("steadyflux" not in examples.said, examples.said)  # keys that it does not know


CHECKS = {
    "A pipe, and jq": a_pipe,
    "ImageMagick": imagemagick,
    "A script that talks to a batch": a_conversation,
    "Stopped, and run again": stopped,
    "Watching": watching,
    "xargs, GNU parallel": xargs_and_parallel,
    "make": make,
    "SLURM, an array": slurm_array,
    "SLURM, processes that share": slurm_shared,
    "torchrun": torchrun,
    "Several machines, no launcher": several_machines,
    "Encode here, draw there": encode_and_draw,
    "Every night, by systemd": systemd,
}


def check_files_shown(page):
    """The page shows every file of docs/examples, as it is."""
    shown = {name: text for blocks in page.values() for name, _, text in blocks if name}
    check(set(shown) == {file.name for file in FILES.iterdir()}, "shown:", sorted(shown))
    for name, text in shown.items():
        check(text == (FILES / name).read_text(), f"{name} is another file than the page shows")
    for heading, blocks in page.items():
        for name, language, text in blocks:
            check(name or language == "bash", heading, "has a block that is no file:", text)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program", type=pathlib.Path)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("--only", metavar="WORD", action="append", default=[])
    parser.add_argument("--require-all", action="store_true")
    parser.add_argument("--keep", metavar="FOLDER", type=pathlib.Path)
    options = parser.parse_args()
    page = read_page()
    check_files_shown(page)
    check(set(page) - {None} == set(CHECKS), set(page) ^ {None, *CHECKS})

    failed = skipped = 0
    with contextlib.ExitStack() as stack:
        folder = options.keep or pathlib.Path(stack.enter_context(
            tempfile.TemporaryDirectory(prefix="steadyflux-examples-")))
        examples = Examples(options.program.resolve(), options.model.resolve(), folder.resolve())
        for heading, function in CHECKS.items():
            if options.only and not any(word in heading for word in options.only):
                continue
            begin = time.monotonic()
            try:
                function(examples, *(text for name, language, text in page[heading]
                                     if language == "bash" and not name))
                print(f"ok       {heading}, {time.monotonic() - begin:.1f} s", flush=True)
            except Skipped as reason:
                skipped += 1
                print(f"skipped  {heading}: {reason}", flush=True)
            except Exception as error:  # the other sections go on
                failed += 1
                print(f"FAILED   {heading}: {error}", flush=True)
    print(f"{failed} failed, {skipped} skipped")
    return 1 if failed or (skipped and options.require_all) else 0


if __name__ == "__main__":
    sys.exit(main())
