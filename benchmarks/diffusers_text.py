"""The peer of text_bench: T5 encodings with transformers, one JSON line.

Use: diffusers_text.py MODEL_FOLDER TEXT_TOKENS REPEATS THREADS [bf16|fp32]
0 REPEATS are turns (turns.py).
"""
import json
import sys

import torch
from transformers import T5EncoderModel

from turns import timed_runs


def main():
    tokens, repeats, threads = (int(v) for v in sys.argv[2:5])
    dtype = torch.float32 if sys.argv[5:] == ["fp32"] else torch.bfloat16
    torch.set_num_threads(threads)
    model = T5EncoderModel.from_pretrained(sys.argv[1], subfolder="text_encoder_2",
                                           torch_dtype=dtype).eval()
    ids = torch.arange(2, tokens + 2)[None]

    def encode():
        with torch.inference_mode():
            model(ids)

    encode()
    print(json.dumps({"seconds": timed_runs(repeats, encode)}))


if __name__ == "__main__":
    main()
