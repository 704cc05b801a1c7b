"""The peer of a run of steadyflux: one picture with diffusers, from nothing to the file.

Use: diffusers_picture.py MODEL SIDE STEPS TEXT_TOKENS THREADS bf16|fp32 OUTPUT

Prints one JSON line: when the first step began, in seconds since 1970, and what each step took.
"""
import json
import sys
import time

import torch
from diffusers import FluxPipeline


def main():
    model, output = sys.argv[1], sys.argv[7]
    side, steps, tokens, threads = (int(v) for v in sys.argv[2:6])
    torch.set_num_threads(threads)
    pipeline = FluxPipeline.from_pretrained(
        model, torch_dtype=torch.float32 if sys.argv[6] == "fp32" else torch.bfloat16)
    pipeline.set_progress_bar_config(disable=True)
    begun = []
    pipeline.transformer.register_forward_pre_hook(lambda *_: begun.append(time.time()))
    ended = []
    pipeline.transformer.register_forward_hook(lambda *_: ended.append(time.time()))
    image = pipeline("a lighthouse in a storm", width=side, height=side, num_inference_steps=steps,
                     guidance_scale=0.0, max_sequence_length=tokens,
                     generator=torch.Generator("cpu").manual_seed(1)).images[0]
    image.save(output)
    print(json.dumps({"first_step_at": begun[0],
                      "steps": [e - b for b, e in zip(begun, ended, strict=True)]}))


if __name__ == "__main__":
    main()
