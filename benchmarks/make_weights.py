"""Random FLUX.1-schnell-shaped transformer of true width and little depth, for timing only.

Use: make_weights.py FOLDER [DOUBLE SINGLE]     writes FOLDER/{config.json,*.safetensors} in bf16
"""
import sys

import torch
from diffusers import FluxTransformer2DModel


def main():
    folder = sys.argv[1]
    double, single = (int(v) for v in sys.argv[2:4]) if len(sys.argv) > 3 else (2, 4)
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    model = FluxTransformer2DModel(
        num_layers=double, num_single_layers=single, attention_head_dim=128,
        num_attention_heads=24, joint_attention_dim=4096, pooled_projection_dim=768,
        guidance_embeds=False)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1 and name.endswith("weight"):
                parameter.fill_(1.0)  # RMSNorm
            else:
                parameter.normal_(0.0, 0.02)
    model.save_pretrained(folder)


if __name__ == "__main__":
    main()
