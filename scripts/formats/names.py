"""From diffusers' and transformers' names of tensors to those of other programs.

Each direction that steadyflux reads is written down here a second time, from the published files
and not from src/weights, and checked with diffusers' own converters where these exist.
"""

import re
import types

import torch

TOP = {
    "img_in": "x_embedder",
    "txt_in": "context_embedder",
    "time_in.in_layer": "time_text_embed.timestep_embedder.linear_1",
    "time_in.out_layer": "time_text_embed.timestep_embedder.linear_2",
    "vector_in.in_layer": "time_text_embed.text_embedder.linear_1",
    "vector_in.out_layer": "time_text_embed.text_embedder.linear_2",
    "guidance_in.in_layer": "time_text_embed.guidance_embedder.linear_1",
    "guidance_in.out_layer": "time_text_embed.guidance_embedder.linear_2",
    "final_layer.linear": "proj_out",
}
DOUBLE = {
    "img_mod.lin": ["norm1.linear"],
    "txt_mod.lin": ["norm1_context.linear"],
    "img_attn.qkv": ["attn.to_q", "attn.to_k", "attn.to_v"],
    "txt_attn.qkv": ["attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"],
    "img_attn.norm.query_norm": ["attn.norm_q"],
    "img_attn.norm.key_norm": ["attn.norm_k"],
    "txt_attn.norm.query_norm": ["attn.norm_added_q"],
    "txt_attn.norm.key_norm": ["attn.norm_added_k"],
    "img_attn.proj": ["attn.to_out.0"],
    "txt_attn.proj": ["attn.to_add_out"],
    "img_mlp.0": ["ff.net.0.proj"],
    "img_mlp.2": ["ff.net.2"],
    "txt_mlp.0": ["ff_context.net.0.proj"],
    "txt_mlp.2": ["ff_context.net.2"],
}
SINGLE = {
    "modulation.lin": ["norm.linear"],
    "linear1": ["attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"],
    "linear2": ["proj_out"],
    "norm.query_norm": ["attn.norm_q"],
    "norm.key_norm": ["attn.norm_k"],
}


def transformer_to_bfl(tensors: dict) -> dict:
    """Black Forest Labs' names, with fused qkv and linear1, and shift before scale at the end."""
    rest, result = dict(tensors), {}

    def move(stored, parts, front):
        for leaf in ("weight", "bias"):
            names = [f"{front}{part}.{leaf}" for part in parts]
            if names[0] not in rest:
                continue
            as_stored = "scale" if stored.endswith("_norm") else leaf
            result[f"{stored}.{as_stored}"] = torch.cat([rest.pop(name) for name in names])

    for stored, ours in TOP.items():
        move(stored, [ours], "")
    for kind, table in (("double", DOUBLE), ("single", SINGLE)):
        ours = "transformer_blocks" if kind == "double" else "single_transformer_blocks"
        count = len({name.split(".")[1] for name in rest if name.startswith(ours + ".")})
        for i in range(count):
            for stored, parts in table.items():
                move(f"{kind}_blocks.{i}.{stored}", parts, f"{ours}.{i}.")
    for leaf in ("weight", "bias"):
        scale, shift = rest.pop(f"norm_out.linear.{leaf}").chunk(2)
        result[f"final_layer.adaLN_modulation.1.{leaf}"] = torch.cat([shift, scale])
    if rest:
        raise ValueError(f"names not known: {sorted(rest)}")
    return result


def transformer_to_diffusers(tensors: dict) -> dict:
    """diffusers' converter, whose width of 3072 is put right for tiny models."""
    from diffusers.loaders import single_file_utils

    convert = single_file_utils.convert_flux_transformer_checkpoint_to_diffusers
    width = tensors["img_in.bias"].numel()
    constants = tuple(width if c == 3072 else c for c in convert.__code__.co_consts)
    code = convert.__code__.replace(co_consts=constants)
    return types.FunctionType(code, convert.__globals__)(dict(tensors))


VAE_RULES = [
    (r"down_blocks\.(\d+)\.resnets\.(\d+)\.", r"down.\1.block.\2."),
    (r"down_blocks\.(\d+)\.downsamplers\.0\.", r"down.\1.downsample."),
    (r"up_blocks\.(\d+)\.resnets\.(\d+)\.", r"up.\1.block.\2."),
    (r"up_blocks\.(\d+)\.upsamplers\.0\.", r"up.\1.upsample."),
    (r"mid_block\.resnets\.0\.", "mid.block_1."),
    (r"mid_block\.resnets\.1\.", "mid.block_2."),
    (r"mid_block\.attentions\.0\.group_norm\.", "mid.attn_1.norm."),
    (r"mid_block\.attentions\.0\.to_([qkv])\.", r"mid.attn_1.\1."),
    (r"mid_block\.attentions\.0\.to_out\.0\.", "mid.attn_1.proj_out."),
    (r"conv_shortcut\.", "nin_shortcut."),
    (r"conv_norm_out\.", "norm_out."),
]


def vae_to_bfl(tensors: dict) -> dict:
    blocks = 1 + max(int(n.split(".")[2]) for n in tensors if n.startswith("decoder.up_blocks."))
    result = {}
    for name, tensor in tensors.items():
        for pattern, stored in VAE_RULES:
            name = re.sub(pattern, stored, name)
        name = re.sub(r"\.up\.(\d+)\.", lambda m: f".up.{blocks - 1 - int(m[1])}.", name)
        if re.search(r"mid\.attn_1\.(q|k|v|proj_out)\.weight", name):
            tensor = tensor[:, :, None, None]
        result[name] = tensor
    return result


def vae_to_diffusers(tensors: dict, config: dict) -> dict:
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    return convert_ldm_vae_checkpoint(dict(tensors), config)


T5_BLOCK = {
    "layer.0.SelfAttention.q": "attn_q",
    "layer.0.SelfAttention.k": "attn_k",
    "layer.0.SelfAttention.v": "attn_v",
    "layer.0.SelfAttention.o": "attn_o",
    "layer.0.SelfAttention.relative_attention_bias": "attn_rel_b",
    "layer.0.layer_norm": "attn_norm",
    "layer.1.DenseReluDense.wi_0": "ffn_gate",
    "layer.1.DenseReluDense.wi_1": "ffn_up",
    "layer.1.DenseReluDense.wo": "ffn_down",
    "layer.1.layer_norm": "ffn_norm",
}


def t5_to_llama(tensors: dict) -> dict:
    result = {}
    for name, tensor in tensors.items():
        block = re.fullmatch(r"encoder\.block\.(\d+)\.(.+)\.weight", name)
        if block:
            result[f"enc.blk.{block[1]}.{T5_BLOCK[block[2]]}.weight"] = tensor
        elif name == "encoder.final_layer_norm.weight":
            result["enc.output_norm.weight"] = tensor
        else:
            result["token_embd.weight"] = tensor
    return result


def same_tensors(a: dict, b: dict) -> str:
    """What differs, or ""."""
    if a.keys() != b.keys():
        return f"other names: {sorted(a.keys() ^ b.keys())[:4]}"
    for name in a:
        if a[name].shape != b[name].shape or not torch.equal(a[name], b[name]):
            return f"other values: {name}"
    return ""
