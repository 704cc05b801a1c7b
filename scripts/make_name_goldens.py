#!/usr/bin/env python3
"""Writes down how the tensors of FLUX.1 are called, by asking the libraries that name them.

    python3 -m venv /tmp/goldens-venv && . /tmp/goldens-venv/bin/activate
    pip install -r scripts/requirements-goldens.txt gguf
    scripts/make_name_goldens.py tests/checkpoints/goldens

One file for each component, one line for each tensor, sorted:

    NAME SHAPE STORED[;STORED]

NAME and SHAPE (6144x3072) are those of diffusers (transformers for the text encoders). STORED is
the name elsewhere: BFL's for transformer and VAE, llama.cpp's for T5, with the prefix "text_model."
for CLIP. "name:2/7" is the third seventh of that tensor's rows; several follow each other. Blocks
are all alike: "N" stands for their number, and T5's first block, which has a tensor more, is
written out.

diffusers' own converter decides which rows go where: it is handed tensors whose values are their
row numbers. CLIP's pairs are by definition.
"""

import argparse
import re
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from diffusers.loaders import single_file_utils
from gguf import MODEL_ARCH, get_tensor_name_map
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, T5Config, T5EncoderModel

WIDTH = 3072


class AnyTensor(dict):
    """A BFL checkpoint that has whatever the converter asks for: a column of row numbers."""

    # What is cut into parts. All else has one row here.
    ROWS = {"qkv": 3 * WIDTH, "linear1": 7 * WIDTH, "adaLN_modulation.1": 2 * WIDTH}

    def __init__(self, blocks):
        super().__init__({f"{block}.none": None for block in blocks})
        self.made = {}

    def pop(self, name):
        module = name.rsplit(".", 1)[0]
        rows = next((n for end, n in self.ROWS.items() if module.endswith(end)), 1)
        base = (len(self.made) + 1) * 10**6
        self.made[base] = (name, rows)
        return torch.arange(base, base + rows, dtype=torch.int64)[:, None]


def rows_text(values, made):
    """Rows of several stored tensors -> "name" or "name:2/7;name:1/7"."""
    parts = []
    values = values[:, 0].tolist()
    start = 0
    while start < len(values):
        end = start + 1
        while end < len(values) and values[end] == values[end - 1] + 1:
            end += 1
        name, rows = made[values[start] // 10**6 * 10**6]
        first, count = values[start] % 10**6, end - start
        if count == rows:
            parts.append(name)
        else:
            shares = rows // WIDTH
            begin, last = first // WIDTH, (first + count) // WIDTH
            parts += [f"{name}:{share}/{shares}" for share in range(begin, last)]
        start = end
    return ";".join(parts)


def shapes(model):
    return {name: "x".join(map(str, value.shape)) for name, value in model.state_dict().items()}


def transformer():
    checkpoint = AnyTensor(["double_blocks.0", "single_blocks.0", "guidance_in"])
    convert = single_file_utils.convert_flux_transformer_checkpoint_to_diffusers
    converted = convert(checkpoint)
    with torch.device("meta"):
        model = FluxTransformer2DModel(num_layers=1, num_single_layers=1, guidance_embeds=True)
    for name, shape in shapes(model).items():
        stored = rows_text(converted.pop(name), checkpoint.made)
        yield name.replace("blocks.0.", "blocks.N."), shape, stored.replace("blocks.0.", "blocks.N.")
    assert not converted, list(converted)


def text_encoder():
    with torch.device("meta"):
        model = CLIPTextModelWithProjection(
            CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=1,
                           num_attention_heads=12))
    for name, shape in shapes(model).items():
        if name.startswith("text_model."):
            name = name.replace("layers.0.", "layers.N.")
            yield name.removeprefix("text_model."), shape, name


def text_encoder_2():
    with torch.device("meta"):
        model = T5EncoderModel(
            T5Config(vocab_size=32128, d_model=4096, d_kv=64, d_ff=10240, num_layers=2,
                     num_heads=64, feed_forward_proj="gated-gelu"))
    names = get_tensor_name_map(MODEL_ARCH.T5ENCODER, 2)
    for name, shape in shapes(model).items():
        if name == "encoder.embed_tokens.weight":
            continue
        stored = names.get_name(name, try_suffixes=(".weight",))
        yield name.replace("block.1.", "block.N."), shape, stored.replace("blk.1.", "blk.N.")


def bfl_vae_names():
    """BFL's names, from those of the modules of their autoencoder (two resnets, four scales)."""
    for half, stage, blocks, sampler in [("encoder", "down", 2, "downsample"),
                                         ("decoder", "up", 3, "upsample")]:
        modules = ["conv_in", "norm_out", "conv_out"]
        resnet = ["norm1", "conv1", "norm2", "conv2"]
        for block in ("block_1", "block_2"):
            modules += [f"mid.{block}.{part}" for part in resnet]
        modules += [f"mid.attn_1.{part}" for part in ("norm", "q", "k", "v", "proj_out")]
        for i in range(4):
            for j in range(blocks):
                # Where the width changes: from the one before on the way down, on the way up from
                # the one after.
                changes = j == 0 and i in ((1, 2) if half == "encoder" else (0, 1))
                parts = resnet + (["nin_shortcut"] if changes else [])
                modules += [f"{stage}.{i}.block.{j}.{part}" for part in parts]
            if i != (3 if half == "encoder" else 0):
                modules.append(f"{stage}.{i}.{sampler}.conv")
        for module in modules:
            for leaf in ("weight", "bias"):
                yield f"{half}.{module}.{leaf}"


def vae():
    with torch.device("meta"):
        model = AutoencoderKL(
            down_block_types=["DownEncoderBlock2D"] * 4, up_block_types=["UpDecoderBlock2D"] * 4,
            block_out_channels=[128, 256, 512, 512], layers_per_block=2, latent_channels=16,
            use_quant_conv=False, use_post_quant_conv=False)
    stored = list(bfl_vae_names())
    numbered = {name: torch.full((1, 1), float(i)) for i, name in enumerate(stored)}
    converted = single_file_utils.convert_ldm_vae_checkpoint(numbered, dict(model.config))
    for name, shape in shapes(model).items():
        yield name, shape, stored[int(converted.pop(name).flatten()[0])]
    assert not converted, list(converted)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    for component in (transformer, text_encoder, text_encoder_2, vae):
        lines = sorted(" ".join(line) for line in component())
        assert len(set(lines)) == len(lines)
        assert all(re.fullmatch(r"\S+ \S+ \S+", line) for line in lines)
        (folder / f"{component.__name__}.txt").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
