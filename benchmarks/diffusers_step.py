"""The peer of step_bench: the same steps with diffusers, one JSON line.

Use: diffusers_step.py TRANSFORMER_FOLDER WIDTH HEIGHT TEXT_TOKENS REPEATS THREADS [bf16|fp32]
0 REPEATS are turns (turns.py).
"""
import json
import sys
import time

import torch
from diffusers import FluxTransformer2DModel

from turns import timed_runs


def main():
    folder = sys.argv[1]
    width, height, text, repeats, threads = (int(v) for v in sys.argv[2:7])
    dtype = torch.float32 if sys.argv[7:] == ["fp32"] else torch.bfloat16
    torch.set_num_threads(threads)
    model = FluxTransformer2DModel.from_pretrained(folder, torch_dtype=dtype).eval()
    rows, columns = height // 16, width // 16
    ids = torch.zeros(rows, columns, 3)
    ids[..., 1] += torch.arange(rows)[:, None]
    ids[..., 2] += torch.arange(columns)[None]
    inputs = dict(
        hidden_states=torch.randn(1, rows * columns, 64).to(dtype),
        encoder_hidden_states=torch.randn(1, text, 4096).to(dtype),
        pooled_projections=torch.randn(1, 768).to(dtype),
        timestep=torch.tensor([0.75]).to(dtype),
        img_ids=ids.reshape(-1, 3), txt_ids=torch.zeros(text, 3), return_dict=False)

    def step():
        with torch.inference_mode():
            model(**inputs)

    start = time.perf_counter()
    step()
    first = time.perf_counter() - start
    print(json.dumps({"program": "diffusers", "first_s": first,
                      "step_s": timed_runs(repeats, step)}))


if __name__ == "__main__":
    main()
