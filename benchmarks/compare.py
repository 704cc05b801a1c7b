"""steadyflux and its peers on the same weights and shapes, in turn, in one run. See compare.sh."""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import threading
import time

import sd_cpp
import turns
from full_size_run import forget_files
from full_size_run import run as run_in_cgroup

HERE = pathlib.Path(__file__).resolve().parent
SECTIONS = ["step", "int8", "text", "decode", "picture", "sd-cpp", "limit"]
PROMPT = "a lighthouse in a storm"
PICTURE_STEPS = 4
median = statistics.median


class Run:
    """A process that has ended: what it said, wall seconds, and the peaks of its memory."""

    def __init__(self, command):
        self.begin = time.time()
        self.peak_rss = self.peak_anon = 0
        process = subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, text=True)
        watch = threading.Thread(target=self.watch, args=(process.pid,), daemon=True)
        watch.start()
        self.out, error = process.communicate()
        self.seconds = time.time() - self.begin
        watch.join()
        if process.returncode != 0:
            sys.exit(f"{' '.join(map(str, command))}: {error.strip()[-500:]}")

    @property
    def told(self):
        """The JSON: all of it, or what other libraries left for the last line."""
        out = self.out
        return json.loads(out if out.startswith("{\n") else out.strip().splitlines()[-1])

    def watch(self, pid):
        path = pathlib.Path(f"/proc/{pid}/status")
        try:
            while lines := path.read_text().splitlines():
                sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines
                         if line.startswith(("VmRSS:", "RssAnon:"))}
                if not sizes:
                    return
                self.peak_rss = max(self.peak_rss, sizes["VmRSS"])
                self.peak_anon = max(self.peak_anon, sizes["RssAnon"])
                time.sleep(0.02)
        except OSError:
            return


class Comparison:
    def __init__(self, options):
        self.options = options
        self.rows = []
        self.build = pathlib.Path(options.build)
        self.bench = self.build / "benchmarks"
        self.model = options.model

    def compare(self, what, ours, theirs):
        """Both in turn, `rounds` times; each call gives one figure, or several by name."""
        pairs = []
        for i in range(self.options.rounds):
            first, second = (ours, theirs) if i % 2 == 0 else (theirs, ours)
            found = first(), second()
            pairs.append(found if i % 2 == 0 else found[::-1])
        for key in pairs[0][0]:
            a, b = ([pair[side][key] for pair in pairs] for side in (0, 1))
            self.add(f"{what}{key}", "GiB" if "peak" in key else "s", a, b)

    def add(self, what, unit, ours, theirs):
        ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
        self.rows.append({"what": what, "unit": unit, "steadyflux": ours, "peer": theirs,
                          "ratio": median(ratios), "ratios": ratios})
        print(f"| {what} | {median(ours):.3g} {unit} | {median(theirs):.3g} {unit} | "
              f"{median(ratios):.3f} | {min(ratios):.3f} to {max(ratios):.3f} |", flush=True)

    def take_turns(self, what, ours, theirs):
        """Two benchmarks of one thing -> what each said at the end."""
        pairs, told = turns.play(ours, theirs, self.options.rounds)
        self.add(what, "s", *zip(*pairs, strict=True))
        return told

    def step_commands(self, side, threads, *compute):
        o, folder = self.options, self.model / "transformer"
        shape = [folder, side, side, o.text, 0, threads, o.dtype]
        return ([self.bench / "step_bench", *shape, *compute],
                [o.python, HERE / "diffusers_step.py", *shape])

    def step(self, side, threads):
        told, _ = self.take_turns(f"step {side} x {side}, {threads} thread(s)",
                                  *self.step_commands(side, threads))
        share, gflops = told["of_roof"], told["gemm_gflops"]
        largest = sorted(told["shares"].items(), key=lambda item: -item[1])
        self.rows[-1].update(share_of_gemm_roof=share, gemm_gflops=gflops,
                             operators=told["shares"])
        print(f"| of it, of this machine's GEMM at {gflops:.0f} GFLOP/s | {100 * share:.0f} % | | | |")
        print("| of it, in per cent: " + ", ".join(
            f"{name.removeprefix('steadyflux::')} {100 * part:.1f}" for name, part in largest)
              + " | | | | |", flush=True)

    def int8(self, side, threads):
        """A step with --compute int8 beside one of diffusers, then beside our own in the dtype."""
        what = f"step {side} x {side} in int8, {threads} thread(s)"
        ours, theirs = self.step_commands(side, threads, "int8")
        self.take_turns(what, ours, theirs)
        self.take_turns(f"{what}; beside it steadyflux in {self.options.dtype}", ours, ours[:-1])

    def text(self, threads):
        o = self.options
        shape = [self.model, o.text, 0, threads, o.dtype]
        self.take_turns(f"T5, {o.text} tokens, {threads} thread(s)",
                        [self.bench / "text_bench", *shape],
                        [o.python, HERE / "diffusers_text.py", *shape])

    def decode(self, side, threads):
        o = self.options
        ours = [self.bench / "vae_bench", "--size", side, "--dtype", o.dtype, "--threads", threads,
                "--repeat", 0]
        theirs = [o.python, HERE / "diffusers_vae.py", side, "plain", threads, o.dtype, 0]
        what = f"VAE decode {side} x {side}, {threads} thread(s)"
        for mode, band in [("", []), (", least memory", ["--band-bytes", 1 << 20])]:
            told = self.take_turns(what + mode, ours + band, theirs)
            self.add(what + mode + ": peak", "GiB",
                     *([end["peak_rss_delta"] / 2**30] for end in told))

    def picture(self, side, threads, cold):
        o = self.options
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)

            def ours():
                return self.of_picture(*self.our_picture(side, threads, o.text, cold, folder))

            def theirs():
                if cold:
                    forget_files(self.model)
                run = Run(self.diffusers_command(side, threads, folder / "theirs.png"))
                return self.of_picture(run, run.told["first_step_at"] - run.begin)

            if not cold:  # embeddings are in steadyflux's cache, the model in the page cache
                ours()
            self.compare(f"picture {side} x {side}, {threads} thread(s), "
                         f"{'cold' if cold else 'warm'}", ours, theirs)

    def picture_of_sd_cpp(self, side, threads):
        """Whole pictures beside stable-diffusion.cpp, everything in the page cache, no embeddings
        in steadyflux's."""
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)

            def ours():
                run, _ = self.our_picture(side, threads, sd_cpp.TEXT_TOKENS, False, folder,
                                          "--no-cache")
                return self.of_process(run)

            def theirs():
                picture = folder / "theirs.png"
                picture.unlink(missing_ok=True)
                run = Run(self.sd_cpp_command(side, threads, picture))
                if not picture.exists():
                    sys.exit(f"{self.options.sd_cpp} made no picture")
                return self.of_process(run)

            ours(), theirs()
            self.compare(f"picture {side} x {side}, {threads} thread(s), beside "
                         "stable-diffusion.cpp", ours, theirs)

    def within_limit(self, side, threads):
        """Whole pictures in a memory cgroup, which holds the page cache as well: nothing is in it at
        first, no embeddings are in a cache, and each program has --most-seconds."""
        o = self.options
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            runs = [("steadyflux", "ours.png", self.our_command(
                        side, threads, o.text, folder / "ours.png", "--no-cache")),
                    ("diffusers", "theirs.png",
                     self.diffusers_command(side, threads, folder / "theirs.png"))]
            if o.sd_cpp:
                runs.append(("stable-diffusion.cpp", "sd_cpp.png",
                             self.sd_cpp_command(side, threads, folder / "sd_cpp.png")))
            for name, picture, command in runs:
                forget_files(self.model)
                forget_files(self.model.parent)  # the single files
                took = run_in_cgroup([str(part) for part in command], int(o.limit * 2**30),
                                     o.most_seconds)
                drawn = took["exit"] == 0 and (folder / picture).exists()
                state = ("drawn" if drawn else "killed for memory" if took["killed"] else
                         "stopped" if took["stopped"] else f"failed: {took['messages'][-1:]}")
                what = f"picture {side} x {side}, {threads} thread(s), in {o.limit:g} GiB: {name}"
                seconds, peak = took["seconds"], took["peak"] / 2**30
                self.rows.append({"what": what, "state": state, "seconds": seconds,
                                  "cgroup_peak_gib": peak, "major_faults": took["faults"]})
                print(f"| {what} | {state} after {seconds:.0f} s, peak {peak:.2f} GiB, "
                      f"{took['faults']} major faults | | | |", flush=True)

    def our_command(self, side, threads, text, picture, *others):
        return [self.build / "steadyflux", PROMPT, "-m", self.model, "--size", side, "--steps",
                PICTURE_STEPS, "--max-sequence-length", text, "--threads", threads, "--dtype",
                self.options.dtype, "--device", "cpu", "-s", 1, "--json", "-o", picture, *others]

    def diffusers_command(self, side, threads, picture):
        o = self.options
        return [o.python, HERE / "diffusers_picture.py", self.model, side, PICTURE_STEPS, o.text,
                threads, o.dtype, picture]

    def sd_cpp_command(self, side, threads, picture):
        files = sd_cpp.single_files(self.model, self.model.parent / "single")
        return sd_cpp.command(self.options.sd_cpp, files, PROMPT, side, side, PICTURE_STEPS, 1,
                              threads, picture)

    def our_picture(self, side, threads, text, cold, folder, *others):
        """The process that made it, and the seconds from its start to the first step."""
        if cold:
            forget_files(self.model)
        events = folder / "events.jsonl"
        events.unlink(missing_ok=True)
        os.environ["STEADYFLUX_CACHE"] = str(folder / "cache")
        run = Run(self.our_command(side, threads, text, folder / "ours.png", "--events", events,
                                   *others))
        told = [json.loads(line) for line in events.read_text().splitlines()]
        begun = next(e["time"] for e in told
                     if e["event"] == "phase_started" and e.get("phase") == "denoise")
        return run, begun - run.begin

    @staticmethod
    def of_process(run):
        return {": in all": run.seconds, " peak RSS, anonymous": run.peak_anon / 2**30}

    def of_picture(self, run, until_first_step):
        return {": until the first step": until_first_step} | self.of_process(run)

    def run(self):
        o = self.options
        print("| what | steadyflux | diffusers, or whom it names | ratio, median | ratios |\n|---|---|---|---|---|")
        for threads in o.threads:
            for side in o.sizes:
                if "step" in o.only:
                    self.step(side, threads)
                if "int8" in o.only:
                    self.int8(side, threads)
            if "text" in o.only:
                self.text(threads)
            for side in o.sizes:
                if "decode" in o.only:
                    self.decode(side, threads)
            if "picture" in o.only:
                for cold in [False, True]:
                    self.picture(o.sizes[0], threads, cold)
            if "sd-cpp" in o.only and o.sd_cpp:
                self.picture_of_sd_cpp(o.sizes[0], threads)
            if "limit" in o.only:
                self.within_limit(o.sizes[0], threads)


def numbers(text):
    return [int(part) for part in text.split(",")]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--build", required=True)
    parser.add_argument("--model", required=True, type=pathlib.Path)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--sizes", type=numbers, default=[512, 1024])
    parser.add_argument("--text", type=int, default=512)
    parser.add_argument("--threads", type=numbers, default=[2, 1])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtype", choices=["bf16", "fp32"], default="bf16")
    parser.add_argument("--only", type=lambda text: text.split(","), default=SECTIONS)
    parser.add_argument("--limit", type=float, default=2, help="GiB of the section of that name")
    parser.add_argument("--most-seconds", type=float, default=900, help="of a program in it")
    parser.add_argument("--sd-cpp", help="stable-diffusion.cpp's sd-cli, for whole pictures")
    parser.add_argument("-o", "--output", type=pathlib.Path)
    options = parser.parse_args()
    for name in options.only:
        if name not in SECTIONS:
            parser.error(f"--only {name}: expected some of {','.join(SECTIONS)}")
    comparison = Comparison(options)
    try:
        comparison.run()
    finally:
        if options.output:
            cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo")
                        if line.startswith("model name")), "")
            options.output.write_text(json.dumps(
                {"cpu": cpu, "dtype": options.dtype, "text_tokens": options.text,
                 "rounds": options.rounds, "rows": comparison.rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
