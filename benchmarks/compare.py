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

from full_size_run import forget_files

HERE = pathlib.Path(__file__).resolve().parent
SECTIONS = ["step", "int8", "text", "decode", "picture"]
median = statistics.median


class Run:
    """A process that has ended: its last line as JSON, wall seconds, and the peaks of its memory."""

    def __init__(self, command):
        self.begin = time.time()
        self.peak_rss = self.peak_anon = 0
        process = subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, text=True)
        watch = threading.Thread(target=self.watch, args=(process.pid,), daemon=True)
        watch.start()
        out, error = process.communicate()
        self.seconds = time.time() - self.begin
        watch.join()
        if process.returncode != 0:
            sys.exit(f"{' '.join(map(str, command))}: {error.strip()[-500:]}")
        # All of it, or what other libraries left for the last line.
        self.told = json.loads(out if out.startswith("{\n") else out.strip().splitlines()[-1])

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

    def peer(self, script, *arguments):
        return Run([self.options.python, HERE / script, *arguments])

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

    def step(self, side, threads):
        o, folder = self.options, self.model / "transformer"
        shape = [side, side, o.text, o.repeats, threads, o.dtype]
        roof, shares = [], []

        def ours():
            told = Run([self.bench / "step_bench", folder, *shape]).told
            roof.append((told["of_roof"], told["gemm_gflops"]))
            shares.append(told["shares"])
            return {"": median(told["step_s"])}

        self.compare(f"step {side} x {side}, {threads} thread(s)", ours,
                     lambda: {"": median(self.peer("diffusers_step.py", folder, *shape).told["step_s"])})
        share, gflops = (median(values) for values in zip(*roof, strict=True))
        largest = sorted(shares[-1].items(), key=lambda item: -item[1])
        self.rows[-1].update(share_of_gemm_roof=share, gemm_gflops=gflops, operators=shares[-1])
        print(f"| of it, of this machine's GEMM at {gflops:.0f} GFLOP/s | {100 * share:.0f} % | "
              f"{100 * share * self.rows[-1]['ratio']:.0f} % | | |")
        print("| of it, in per cent: " + ", ".join(
            f"{name.removeprefix('steadyflux::')} {100 * part:.1f}" for name, part in largest)
              + " | | | | |", flush=True)

    def int8(self, side, threads):
        """A step with --compute int8 beside one of diffusers, then beside our own in the dtype."""
        o, folder = self.options, self.model / "transformer"
        shape = [side, side, o.text, o.repeats, threads, o.dtype]
        ours = lambda *compute: {"": median(  # noqa: E731
            Run([self.bench / "step_bench", folder, *shape, *compute]).told["step_s"])}
        what = f"step {side} x {side} in int8, {threads} thread(s)"
        self.compare(what, lambda: ours("int8"), lambda: {
            "": median(self.peer("diffusers_step.py", folder, *shape).told["step_s"])})
        self.compare(f"{what}; beside it steadyflux in {o.dtype}", lambda: ours("int8"), ours)

    def text(self, threads):
        o = self.options
        shape = [o.text, o.repeats, threads, o.dtype]
        self.compare(
            f"T5, {o.text} tokens, {threads} thread(s)",
            lambda: {"": median(Run([self.bench / "text_bench", self.model, *shape]).told["seconds"])},
            lambda: {"": median(self.peer("diffusers_text.py", self.model, *shape).told["seconds"])})

    def decode(self, side, threads):
        o = self.options

        def ours(band):
            run = Run([self.bench / "vae_bench", "--size", side, "--dtype", o.dtype, "--threads",
                       threads, "--repeat", 2, *band])
            return {"": run.told["seconds"], " peak": run.told["peak_rss_delta"] / 2**30}

        def theirs():
            told = self.peer("diffusers_vae.py", side, "plain", threads, o.dtype).told
            return {"": told["seconds"], " peak": told["peak_rss_delta"] / 2**30}

        what = f"VAE decode {side} x {side}, {threads} thread(s)"
        self.compare(what, lambda: ours([]), theirs)
        self.compare(what + ", least memory", lambda: ours(["--band-bytes", 8 << 20]), theirs)

    def picture(self, side, threads, cold):
        o = self.options
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            steps = 4
            common = [side, steps, o.text, threads, o.dtype]

            def ours():
                if cold:
                    forget_files(self.model)
                events = folder / "events.jsonl"
                events.unlink(missing_ok=True)
                run = Run([self.build / "steadyflux", "a lighthouse in a storm", "-m", self.model,
                           "--size", side, "--steps", steps, "--max-sequence-length", o.text,
                           "--threads", threads, "--dtype", o.dtype, "--device", "cpu", "-s", 1,
                           "--json", "--events", events, "-o", folder / "ours.png"])
                told = [json.loads(line) for line in events.read_text().splitlines()]
                begun = next(e["time"] for e in told
                             if e["event"] == "phase_started" and e.get("phase") == "denoise")
                return self.of_picture(run, begun - run.begin)

            def theirs():
                if cold:
                    forget_files(self.model)
                run = self.peer("diffusers_picture.py", self.model, *common, folder / "theirs.png")
                return self.of_picture(run, run.told["first_step_at"] - run.begin)

            os.environ["STEADYFLUX_CACHE"] = str(folder / "cache")
            if not cold:  # embeddings are in steadyflux's cache, the model in the page cache
                ours()
            self.compare(f"picture {side} x {side}, {threads} thread(s), "
                         f"{'cold' if cold else 'warm'}", ours, theirs)

    @staticmethod
    def of_picture(run, until_first_step):
        return {": until the first step": until_first_step, ": in all": run.seconds,
                " peak RSS, anonymous": run.peak_anon / 2**30}

    def run(self):
        o = self.options
        print("| what | steadyflux | diffusers | ratio, median | ratios |\n|---|---|---|---|---|")
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
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--dtype", choices=["bf16", "fp32"], default="bf16")
    parser.add_argument("--only", type=lambda text: text.split(","), default=SECTIONS)
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
