#!/usr/bin/env python3
"""Writes LoRA files in the formats people have, and what diffusers and peft make of them.

    scripts/make_lora_goldens.py tests/lora/goldens      # with the packages of make_goldens.py, peft

NAME.safetensors is a LoRA for the tiny pipeline of goldens/a (one block of each kind). In
NAME_expected.safetensors, "COMPONENT.LAYER.up" and ".down" are what diffusers' converter makes of it,
".bias" a bias of up; or ".delta" is what peft adds to the weight. The converters know the sizes of
FLUX.1 by heart; they run here with the tiny pipeline's instead, otherwise unchanged.
"""

import inspect
import json
import sys
from pathlib import Path

import torch
from diffusers import FluxTransformer2DModel
from diffusers.loaders import lora_conversion_utils as converters
from diffusers.loaders.lora_pipeline import FluxLoraLoaderMixin
from diffusers.utils.state_dict_utils import convert_state_dict_to_peft
from peft import LoraConfig, set_peft_model_state_dict
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file

DIM, MLP, TEXT, POOLED, IN = 20, 80, 24, 16, 64
RANK = 2
MODEL = Path(__file__).parent.parent / "tests/goldens/a/model"

generator = torch.Generator().manual_seed(12)


def random(*shape):
    return torch.randn(*shape, generator=generator)


def tiny(function):
    """A converter, with the numbers of FLUX.1 in its source replaced."""
    source = inspect.getsource(function)
    for old, new in (("[3072, 3072, 3072, 12288]", f"[{DIM}, {DIM}, {DIM}, {MLP}]"),
                     ("inner_dim = 3072", f"inner_dim = {DIM}"),
                     ("num_layers = 19", "num_layers = 1"),
                     ("num_single_layers = 38", "num_single_layers = 1"),
                     ("range(19)", "range(1)"), ("range(38)", "range(1)")):
        source = source.replace(old, new)
    scope = dict(vars(converters))
    exec(source, scope)
    return scope[function.__name__]


# Layer -> (out, in).
BLOCKS = {
    "double_blocks.0.img_attn.qkv": (3 * DIM, DIM), "double_blocks.0.txt_attn.qkv": (3 * DIM, DIM),
    "double_blocks.0.img_attn.proj": (DIM, DIM), "double_blocks.0.txt_attn.proj": (DIM, DIM),
    "double_blocks.0.img_mlp.0": (MLP, DIM), "double_blocks.0.img_mlp.2": (DIM, MLP),
    "double_blocks.0.txt_mlp.0": (MLP, DIM), "double_blocks.0.txt_mlp.2": (DIM, MLP),
    "double_blocks.0.img_mod.lin": (6 * DIM, DIM), "double_blocks.0.txt_mod.lin": (6 * DIM, DIM),
    "single_blocks.0.linear1": (3 * DIM + MLP, DIM), "single_blocks.0.linear2": (DIM, DIM + MLP),
    "single_blocks.0.modulation.lin": (3 * DIM, DIM),
}
EMBEDDERS = {
    "img_in": (DIM, IN), "txt_in": (DIM, TEXT),
    "time_in.in_layer": (DIM, 256), "time_in.out_layer": (DIM, DIM),
    "vector_in.in_layer": (DIM, POOLED), "vector_in.out_layer": (DIM, DIM),
    "guidance_in.in_layer": (DIM, 256), "guidance_in.out_layer": (DIM, DIM),
}
FINAL = {"final_layer.linear": (IN, DIM), "final_layer.adaLN_modulation.1": (2 * DIM, DIM)}
CLIP = {f"text_model.encoder.layers.0.{name}": (16, 16)
        for name in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj",
                     "self_attn.out_proj")}
CLIP |= {"text_model.encoder.layers.0.mlp.fc1": (40, 16),
         "text_model.encoder.layers.0.mlp.fc2": (16, 40)}


def pairs(layers, prefix, down=".lora_A.weight", up=".lora_B.weight", alpha=None, flat=False,
          rank=RANK):
    tensors = {}
    for layer, (rows, columns) in layers.items():
        stem = prefix + (layer.replace(".", "_") if flat else layer)
        tensors[stem + down] = random(rank, columns)
        tensors[stem + up] = random(rows, rank)
        if alpha is not None:
            tensors[stem + ".alpha"] = torch.tensor(alpha)
    return tensors


def kohya(layers, prefix, alpha=None, **options):
    return pairs(layers, prefix, ".lora_down.weight", ".lora_up.weight", alpha, True, **options)


def expected_of(state_dict):
    """Our names for what a converter returned."""
    expected = {}
    text = {k: v for k, v in state_dict.items() if k.startswith("text_encoder.")}
    image = {k: v for k, v in state_dict.items() if k not in text}
    peft_text = (convert_state_dict_to_peft(text)
                 if any("lora_linear_layer" in key or ".lora." in key for key in text) else text)
    for key, value in {**image, **peft_text}.items():
        if not key.startswith("text_encoder."):
            key = "transformer." + key.removeprefix("transformer.")
        key = key.replace("text_encoder.text_model.", "text_encoder.")
        for ending, ours in ((".lora_A.weight", ".down"), (".lora_B.weight", ".up"),
                             (".lora_B.bias", ".bias")):
            if key.endswith(ending):
                expected[key.removesuffix(ending) + ours] = value.float().contiguous().clone()
    return expected


def write(folder, name, tensors, expected, metadata=None):
    save_file({k: v.contiguous() for k, v in tensors.items()}, folder / f"{name}.safetensors",
              {"format": "pt", **(metadata or {})})
    save_file(expected, folder / f"{name}_expected.safetensors")
    print(f"{name}: {len(tensors)} tensors, {len(expected)} expected")


def converted(folder, name, tensors, converter):
    copies = {key: value.clone() for key, value in tensors.items()}  # some are scaled in place
    expected = expected_of(tiny(converter)(copies))
    if name == "control":
        # Here diffusers swaps the halves of lora_A along the rank, too, but not those of lora_B.
        down = "transformer.norm_out.linear.down"
        expected[down] = converters.swap_scale_shift(expected[down])
    write(folder, name, tensors, expected)


def sparse_qkv():
    """What sd-scripts saves when it trained q, k, v (and the MLP) apart."""
    tensors = {}
    for layer, sizes in (("double_blocks_0_img_attn_qkv", [DIM] * 3),
                         ("single_blocks_0_linear1", [DIM] * 3 + [MLP])):
        stem = f"lora_unet_{layer}"
        tensors[stem + ".lora_down.weight"] = random(RANK * len(sizes), DIM)
        tensors[stem + ".lora_up.weight"] = torch.block_diag(*[random(n, RANK) for n in sizes])
        tensors[stem + ".alpha"] = torch.tensor(4.0)
    return tensors


def xlabs():
    single = {"single_blocks.0.processor.qkv_lora": (3 * DIM, DIM),
              "single_blocks.0.processor.proj_lora": (DIM, DIM + MLP)}
    double = {f"double_blocks.0.processor.{layer}_lora{stream}": (rows, DIM)
              for layer, rows in (("qkv", 3 * DIM), ("proj", DIM)) for stream in (1, 2)}
    return pairs({**double, **single}, "", ".down.weight", ".up.weight")


def onetrainer():
    layers = {f"transformer_blocks.0.attn.{name}": (DIM, DIM)
              for name in ("to_q", "to_k", "to_v", "add_q_proj", "add_k_proj", "add_v_proj",
                           "to_out.0", "to_add_out")}
    layers |= {f"single_transformer_blocks.0.attn.{name}": (DIM, DIM)
               for name in ("to_q", "to_k", "to_v")}
    layers |= {"x_embedder": (DIM, IN), "context_embedder": (DIM, TEXT),
               "norm_out.linear": (2 * DIM, DIM), "proj_out": (IN, DIM),
               "time_text_embed.timestep_embedder.linear_1": (DIM, 256),
               "time_text_embed.text_embedder.linear_2": (DIM, DIM)}
    return {**kohya(layers, "lora_transformer_", 1.0), **kohya(CLIP, "lora_te1_", 1.0)}


def control():
    tensors = pairs({**BLOCKS, **EMBEDDERS, **FINAL}, "")
    for key in [k for k in tensors if k.endswith(".lora_B.weight")]:
        tensors[key.replace(".weight", ".bias")] = random(tensors[key].shape[0])
    for stream in ("img", "txt"):
        for norm in ("query_norm", "key_norm"):
            tensors[f"double_blocks.0.{stream}_attn.norm.{norm}.scale"] = random(DIM // 2)
    for norm in ("query_norm", "key_norm"):
        tensors[f"single_blocks.0.norm.{norm}.scale"] = random(DIM // 2)
    return tensors


def peft_adapter(folder, name, **options):
    """A file as save_lora_weights writes it, and what peft adds to the weights."""
    transformer = FluxTransformer2DModel.from_pretrained(MODEL / "transformer")
    layers = ["transformer_blocks.0.attn.to_q", "transformer_blocks.1.attn.to_q",
              "single_transformer_blocks.0.proj_mlp", "x_embedder"]
    config = LoraConfig(r=RANK, target_modules=layers, **options)
    transformer.add_adapter(config)
    state = get_peft_model_state_dict(transformer)
    state = {key: random(*value.shape) for key, value in state.items()}
    set_peft_model_state_dict(transformer, state)
    fields = {key: list(value) if isinstance(value, set) else value
              for key, value in transformer.peft_config["default"].to_dict().items()}
    metadata = {f"transformer.{key}": value for key, value in fields.items()}
    expected = {f"transformer.{layer}.delta":
                transformer.get_submodule(layer).get_delta_weight("default").detach()
                for layer in layers}
    write(folder, name, {f"transformer.{k}": v for k, v in state.items()}, expected,
          {"lora_adapter_metadata": json.dumps(metadata, indent=2, sort_keys=True, default=str)})


def main():
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    flux_kohya = converters._convert_kohya_flux_lora_to_diffusers
    # diffusers forgets the alpha of the final layer, so that has none here.
    converted(folder, "kohya", {
        **kohya({**BLOCKS, **EMBEDDERS}, "lora_unet_", 1.0), **kohya(FINAL, "lora_unet_"),
        **kohya(CLIP, "lora_te1_", 3.0)}, flux_kohya)
    converted(folder, "kohya_split", sparse_qkv(), flux_kohya)
    converted(folder, "comfyui", {
        **pairs(BLOCKS, "diffusion_model.", ".lora_down.weight", ".lora_up.weight", 1.5),
        **pairs(CLIP, "text_encoders.clip_l.transformer.", ".lora_down.weight",
                ".lora_up.weight", 1.0)}, flux_kohya)
    converted(folder, "onetrainer", onetrainer(), flux_kohya)
    converted(folder, "xlabs", xlabs(), converters._convert_xlabs_flux_lora_to_diffusers)
    converted(folder, "control", control(),
              converters._convert_bfl_flux_control_lora_to_diffusers)
    fal = pairs({**BLOCKS, "final_layer.linear": (IN, DIM)}, "base_model.model.")
    converted(folder, "fal_kontext", fal, converters._convert_fal_kontext_lora_to_diffusers)

    old = {**pairs({"transformer_blocks.0.attn.to_q": (DIM, DIM), "proj_out": (IN, DIM)},
                   "transformer."),
           **pairs(CLIP, "text_encoder.", ".lora_linear_layer.down.weight",
                   ".lora_linear_layer.up.weight")}
    loaded = FluxLoraLoaderMixin.lora_state_dict(dict(old))
    write(folder, "diffusers", old, expected_of(loaded))

    peft_adapter(folder, "peft", lora_alpha=6, rank_pattern={"x_embedder": 3},
                 alpha_pattern={"x_embedder": 5, "transformer_blocks.1.attn.to_q": 1})
    peft_adapter(folder, "peft_rslora", lora_alpha=3, use_rslora=True)


main()
