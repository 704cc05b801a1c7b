"""The peer of batch_throughput: the pictures of a prompt file with diffusers in a Python loop, the
pipeline loaded once. Prints one JSON line.

Use: diffusers_batch.py MODEL PROMPTS.jsonl FOLDER WIDTH HEIGHT STEPS TEXT_TOKENS THREADS [OTHERS]

OTHERS is a folder with the same pictures made by somebody else: the mean difference is told, of
values from 0 to 255.
"""
import json
import sys
import time
from pathlib import Path

import numpy
import torch
from diffusers import FluxPipeline
from PIL import Image


def pixels(path):
    return numpy.asarray(Image.open(path).convert("RGB"), dtype=float)


def main():
    model, prompts, folder = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    width, height, steps, tokens, threads = map(int, sys.argv[4:9])
    others = Path(sys.argv[9]) if len(sys.argv) > 9 else None
    torch.set_num_threads(threads)
    folder.mkdir(parents=True)
    start = time.perf_counter()
    pipeline = FluxPipeline.from_pretrained(model, torch_dtype=torch.bfloat16)
    pipeline.set_progress_bar_config(disable=True)
    load = time.perf_counter() - start
    seconds, files = [], []
    for number, line in enumerate(prompts.read_text().splitlines(), 1):
        start = time.perf_counter()
        entry = json.loads(line)
        image = pipeline(
            entry["prompt"], width=width, height=height, num_inference_steps=steps,
            guidance_scale=0.0, max_sequence_length=tokens,
            generator=torch.Generator("cpu").manual_seed(entry["seed"])).images[0]
        files.append(folder / f"{number:04}.png")
        image.save(files[-1])
        seconds.append(time.perf_counter() - start)
    result = {"load": load, "seconds": seconds}
    if others:
        result["difference"] = sum(
            numpy.abs(pixels(f) - pixels(others / f.name)).mean() for f in files) / len(files)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
