"""How well plans predict: runs the program at several sizes and budgets of RAM on the CPU, and
compares the peak RSS of every phase with what the plan said before anything was loaded.

Use: plan_accuracy.py PROGRAM MODEL [--sizes 256x256,...] [--budgets 1GiB,...] [--steps N] [--threads N]
Prints a Markdown table and the extremes; exits 1 if a phase took 2 % more or 5 % less than predicted.
"""
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

MOST_UNDER, MOST_OVER = 0.02, 0.05  # predicted less, more than measured


def run(arguments, size, budget, output):
    width, height = size.split("x")
    command = [arguments.program, "-m", arguments.model, "-W", width, "-H", height,
               "--steps", str(arguments.steps), "--device", "cpu", "--json", "-q",
               "-o", output, "a lighthouse on a cliff at dawn"]
    if arguments.threads:
        command += ["--threads", str(arguments.threads)]
    if arguments.dtype:
        command += ["--dtype", arguments.dtype]
    if budget != "none":
        command += ["--max-ram", budget]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode == 4:
        return None
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}: {done.stderr.strip()}")
    return json.loads(done.stdout)["phases"]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("model")
    parser.add_argument("--sizes", default="256x256,512x512,384x640,768x768,1024x1024")
    parser.add_argument("--budgets", default="none,1GiB,1280MiB,1536MiB,2GiB,2560MiB,3GiB")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--dtype", default="")
    arguments = parser.parse_args()
    lowest, highest, over_budget = (0, ""), (0, ""), 0
    print("| size | budget | phase | predicted MiB | measured MiB | predicted / measured |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        output = str(pathlib.Path(folder) / "out.png")
        for size in arguments.sizes.split(","):
            for budget in arguments.budgets.split(","):
                phases = run(arguments, size, budget, output)
                if phases is None:
                    print(f"| {size} | {budget} | does not fit | | | |")
                    continue
                for phase in phases:
                    predicted, measured = phase["predicted_ram"], phase["peak_rss"]
                    off = predicted / measured - 1
                    what = f"{size}, {budget}, {phase['name']}"
                    lowest, highest = min(lowest, (off, what)), max(highest, (off, what))
                    print(f"| {size} | {budget} | {phase['name']} | {predicted / 2**20:.0f} | "
                          f"{measured / 2**20:.0f} | {100 * off:+.1f} % |", flush=True)
    print(f"\nmost under: {100 * lowest[0]:+.1f} % ({lowest[1]}); "
          f"most over: {100 * highest[0]:+.1f} % ({highest[1]})")
    sys.exit(lowest[0] < -MOST_UNDER or highest[0] > MOST_OVER)


if __name__ == "__main__":
    main()
