#!/usr/bin/env python3
"""Writes a tiny Control LoRA for the goldens' model b, a plain LoRA, and pictures that diffusers'
FluxControlPipeline makes with them.

    pip install -r scripts/requirements-goldens.txt peft==0.21.2
    scripts/make_control_lora_goldens.py tests/goldens/control_lora

control.safetensors is in diffusers' names: LoRAs with biases on the layers that
FLUX.1-Depth-dev-lora has them on, x_embedder among them with 128 columns, and the weights of the
norms of q and k. Layers that BFL fuses have one lora_A, so that tests can write the same in BFL's
names (diffusers' converter knows the size of FLUX.1 only). style.safetensors changes x_embedder as
it is in dev. In fp32 on the CPU; pictures that go in are those of goldens/variants.
tests/cli/control_lora_cases.py uses all this.
"""

import sys
from pathlib import Path

import torch
from diffusers import FluxControlPipeline
from goldens.picture_manifest import write_manifest
from PIL import Image
from safetensors.torch import save_file

REPOSITORY = Path(__file__).resolve().parent.parent
MODEL = REPOSITORY / "tests/goldens/b/model"
PICTURES = REPOSITORY / "tests/goldens/variants"
PROMPT, SEED, TOKENS, RANK = "a red apple", 11, 24, 2
# Width, height, steps, guidance, control image, LoRAs and their strengths.
CASES = [(48, 32, 4, 10.0, "depth.png", [("control", 1.0)]),
         (64, 32, 3, 30.0, "edges.png", [("control", 0.6)]),
         (48, 32, 3, 10.0, "depth.png", [("control", 0.85), ("style", 0.7)])]
EMBEDDERS = ["x_embedder", "context_embedder", "proj_out", "norm_out.linear",
             *(f"time_text_embed.{part}.linear_{n}" for n in (1, 2)
               for part in ("timestep_embedder", "guidance_embedder", "text_embedder"))]


def shared_down(layer):
    """Layers with the same answer have one lora_A."""
    block, _, module = layer.rpartition(".")
    if layer.startswith("single_") and module in ("to_q", "to_k", "to_v", "proj_mlp"):
        return block.removesuffix(".attn") + ".linear1"
    if module in ("to_q", "to_k", "to_v"):
        return block + ".qkv"
    return block + ".added_qkv" if module.startswith("add_") else layer


def make_loras(folder, transformer):
    generator = torch.Generator().manual_seed(41)

    def random(*shape, scale=1.0):
        return (scale * torch.randn(shape, generator=generator)).to(torch.bfloat16)

    control, style, downs = {}, {}, {}
    for name, module in transformer.named_modules():
        is_block = "transformer_blocks." in name
        if name.endswith(("norm_q", "norm_k", "norm_added_q", "norm_added_k")):
            control[f"transformer.{name}.weight"] = 1 + random(*module.weight.shape, scale=0.3)
        if not isinstance(module, torch.nn.Linear) or not (is_block or name in EMBEDDERS):
            continue
        out, columns = module.weight.shape
        if name == "x_embedder":
            columns *= 2
        down = downs.setdefault(shared_down(name), random(RANK, columns, scale=columns**-0.5))
        stem = f"transformer.{name}.lora_"
        control[stem + "A.weight"] = down.clone()
        control[stem + "B.weight"] = random(out, RANK, scale=0.3)
        control[stem + "B.bias"] = random(out, scale=0.1)
        if name == "x_embedder" or name.endswith("blocks.0.attn.to_q"):
            own = module.weight.shape[1]
            style[stem + "A.weight"] = random(RANK, own, scale=own**-0.5)
            style[stem + "B.weight"] = random(out, RANK)
    for name, tensors in (("control", control), ("style", style)):
        save_file(tensors, folder / f"{name}.safetensors")
        (folder / f"{name}.safetensors").chmod(0o644)


def draw(folder, width, height, steps, guidance, image, loras):
    pipeline = FluxControlPipeline.from_pretrained(MODEL, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    for name, _ in loras:
        pipeline.load_lora_weights(folder, weight_name=f"{name}.safetensors", adapter_name=name)
    pipeline.set_adapters([name for name, _ in loras], [strength for _, strength in loras])
    return pipeline(prompt=PROMPT, control_image=Image.open(PICTURES / image).convert("RGB"),
                    width=width, height=height, num_inference_steps=steps,
                    guidance_scale=guidance, max_sequence_length=TOKENS,
                    generator=torch.Generator().manual_seed(SEED)).images[0]


def main():
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    make_loras(folder, FluxControlPipeline.from_pretrained(MODEL).transformer)
    pictures = []
    for number, (width, height, steps, guidance, image, loras) in enumerate(CASES, start=1):
        name = f"control-{number}.png"
        draw(folder, width, height, steps, guidance, image, loras).save(folder / name)
        pictures.append({"file": name, "width": width, "height": height, "steps": steps,
                         "guidance": guidance, "control-image": image, "loras": loras})
    write_manifest(folder, pictures, with_pillow=True, prompt=PROMPT, seed=SEED,
                   max_sequence_length=TOKENS)


if __name__ == "__main__":
    main()
