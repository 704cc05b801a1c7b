"""The peer of text_bench: T5 encodings with transformers, one JSON line.

Use: diffusers_text.py MODEL_FOLDER TEXT_TOKENS REPEATS THREADS [bf16|fp32]
"""
import json
import sys
import time

import torch
from transformers import T5EncoderModel


def main():
    tokens, repeats, threads = (int(v) for v in sys.argv[2:5])
    dtype = torch.float32 if sys.argv[5:] == ["fp32"] else torch.bfloat16
    torch.set_num_threads(threads)
    model = T5EncoderModel.from_pretrained(sys.argv[1], subfolder="text_encoder_2",
                                           torch_dtype=dtype).eval()
    ids = torch.arange(2, tokens + 2)[None]
    seconds = []
    for _ in range(repeats + 1):  # the first one warms up
        start = time.perf_counter()
        with torch.inference_mode():
            model(ids)
        seconds.append(time.perf_counter() - start)
    print(json.dumps({"seconds": seconds[1:]}))


if __name__ == "__main__":
    main()
