"""Band decode beside diffusers' plain and tiled decode, at FLUX.1's size with random weights in bf16:
seconds, peak of memory, and whether bands change a bit of the picture. Prints a Markdown table.

Use: PYTHON=python-with-diffusers decode_table.py VAE_BENCH [--sizes 512,1024,1536] [--threads N]
PYTHON (default: this one) needs scripts/requirements-goldens.txt. Exits 1 if a band decode differs.
"""
import argparse
import json
import os
import pathlib
import subprocess
import sys

WHOLE = 1 << 50
BANDS = [("whole", WHOLE), ("bands of 64 MiB", 64 << 20), ("bands of 8 MiB", 8 << 20)]


def output_of(command):
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}: {done.stderr.strip()[-500:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("vae_bench")
    parser.add_argument("--sizes", default="512,1024,1536")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    peer = pathlib.Path(__file__).with_name("diffusers_vae.py")
    python = os.environ.get("PYTHON", sys.executable)
    same = True
    print("| px | decode | seconds | to diffusers' plain | peak above the start, MiB |")
    print("|---|---|---|---|---|")
    for size in map(int, options.sizes.split(",")):
        rows, hashes = [], set()
        for name, band in BANDS:
            found = output_of([options.vae_bench, "--size", size, "--band-bytes", band,
                               "--threads", options.threads, "--repeat", 2])
            hashes.add(found["hash"])
            rows.append((f"steadyflux, {name}", found))
        for mode in ["plain", "tiled"]:
            rows.append((f"diffusers, {mode}", output_of([python, peer, size, mode,
                                                          options.threads])))
        plain = rows[-2][1]["seconds"]
        for name, found in rows:
            print(f"| {size} | {name} | {found['seconds']:.2f} | {found['seconds'] / plain:.2f} | "
                  f"{found['peak_rss_delta'] / 2**20:.0f} |", flush=True)
        same = same and len(hashes) == 1
    print(f"\nBands change {'nothing' if same else 'THE PICTURE'}.")
    sys.exit(not same)


if __name__ == "__main__":
    main()
