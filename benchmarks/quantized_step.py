"""What unpacking quantised weights costs: denoising steps of a transformer as it is and quantised.

    quantized_step.py TRANSFORMER [--types q8_0,q4_k,...] [--size 512] [--text 256] [--rounds 3]
                      [--threads 1] [--build build/release]

TRANSFORMER is a component folder or file in bf16, at full width best (full_size_weights.py --double
2 --single 4 writes one). Each type is quantised by steadyflux itself into a folder that is removed
at the end. A round times every variant in a process of its own, in turn; printed are medians over
the rounds and their ratio to the plain weights' of the same rounds.
"""
import argparse
import json
import pathlib
import statistics
import subprocess
import tempfile


def step_seconds(bench, path, args):
    done = subprocess.run([bench, path, str(args.size), str(args.size), str(args.text), "3",
                           str(args.threads)], check=True, capture_output=True, text=True)
    return min(json.loads(done.stdout)["step_s"])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("transformer", type=pathlib.Path)
    parser.add_argument("--types", default="q8_0,q6_k,q5_k,q4_k,q5_0,q4_0,fp8")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--text", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--build", type=pathlib.Path, default=pathlib.Path("build/release"))
    args = parser.parse_args()
    bench = args.build / "benchmarks" / "step_bench"
    with tempfile.TemporaryDirectory() as folder:
        paths = {"bf16": args.transformer}
        for kind in args.types.split(","):
            suffix = "safetensors" if kind == "fp8" else "gguf"
            paths[kind] = pathlib.Path(folder) / f"{kind}.{suffix}"
            subprocess.run([args.build / "steadyflux", "quantize", args.transformer, paths[kind],
                            "--type", kind, "-q"], check=True)
        times = {kind: [] for kind in paths}
        for _ in range(args.rounds):
            for kind, path in paths.items():
                times[kind].append(step_seconds(bench, path, args))
        print(f"step at {args.size} x {args.size}, {args.text} text tokens, {args.threads} threads, "
              f"median of {args.rounds}")
        print("| weights | file, GiB | step, s | to bf16 |\n|---|---|---|---|")
        for kind, path in paths.items():
            files = [path] if path.is_file() else path.glob("*.safetensors")
            size = sum(file.stat().st_size for file in files) / 2**30
            ratio = statistics.median(a / b for a, b in zip(times[kind], times["bf16"]))
            print(f"| {kind} | {size:.2f} | {statistics.median(times[kind]):.2f} | {ratio:.3f} |")


if __name__ == "__main__":
    main()
