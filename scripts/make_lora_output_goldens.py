#!/usr/bin/env python3
"""Writes down what the tiny pipeline of goldens/a computes with LoRAs in it.

    pip install -r scripts/requirements-goldens.txt peft==0.21.2 einops toml
    pip install --no-deps lycoris-lora==4.1.3
    scripts/make_lora_output_goldens.py tests/goldens/lora

outputs.safetensors has CASE.noise_pred (the transformer's), CASE.pooled_prompt_embeds (CLIP's) and
CASE.prompt_embeds (T5's), all in fp32 and for the inputs that goldens/a has; CASE.strengths are the
LoRAs' weights. diffusers' pipeline reads the files of tests/lora/goldens (make_lora_goldens.py).
What it does not read goes another way: peft alone for T5, LoHa and LoKr, the LyCORIS library for
files in its own format. The LoRAs that are only needed here are written beside the outputs.
"""

import inspect
import json
import sys
import types
from pathlib import Path

import lycoris.functional as lycoris
import torch
from diffusers import FluxPipeline, FluxTransformer2DModel
from diffusers.loaders import lora_conversion_utils as converters
from diffusers.loaders import lora_pipeline
from lycoris.functional.general import weight_decompose
from peft import LoHaConfig, LoKrConfig, LoraConfig, get_peft_model
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file

TESTS = Path(__file__).resolve().parent.parent / "tests"
MODEL = TESTS / "goldens/a/model"
LORAS = TESTS / "lora/goldens"

generator = torch.Generator().manual_seed(13)
inputs = load_file(TESTS / "goldens/a/goldens.safetensors")
outputs = {}


def random(*shape):
    return torch.randn(*shape, generator=generator)


def use_tiny_converters():
    """diffusers' converters, with the model's sizes in place of those that they know by heart."""
    source = inspect.getsource(converters)
    for large, tiny in (("[3072, 3072, 3072, 12288]", "[20, 20, 20, 80]"),
                        ("inner_dim = 3072", "inner_dim = 20"),
                        ("num_layers = 19", "num_layers = 1"),
                        ("num_single_layers = 38", "num_single_layers = 1"),
                        ("range(19)", "range(1)"), ("range(38)", "range(1)")):
        assert large in source, large
        source = source.replace(large, tiny)
    module = types.ModuleType(converters.__name__)
    module.__package__ = converters.__package__
    exec(source, vars(module))
    for name in [name for name in vars(lora_pipeline) if name.startswith("_convert_")]:
        setattr(lora_pipeline, name, getattr(module, name))
    convert = lora_pipeline._convert_kohya_flux_lora_to_diffusers

    def with_prefix(state_dict):
        """It forgets it for layers outside of the blocks, and what has none is passed over."""
        return {key if key.startswith(("transformer.", "text_encoder.")) else f"transformer.{key}":
                value for key, value in convert(state_dict).items()}

    lora_pipeline._convert_kohya_flux_lora_to_diffusers = with_prefix


def load_pipeline():
    return FluxPipeline.from_pretrained(MODEL, dtype=torch.float32, local_files_only=True)


def load_transformer():
    return FluxTransformer2DModel.from_pretrained(MODEL / "transformer", dtype=torch.float32)


def position_ids(text_len, height, width):
    ids = torch.zeros(text_len + height * width, 3)
    ids[text_len:, 1] = torch.arange(height).repeat_interleave(width)
    ids[text_len:, 2] = torch.arange(width).repeat(height)
    return ids


@torch.no_grad()
def record_transformer(case, transformer):
    embeds = inputs["fp32.prompt_embeds"]
    ids = position_ids(embeds.shape[1], 2, 3)
    outputs[f"{case}.noise_pred"] = transformer(
        hidden_states=inputs["fp32.noise"], encoder_hidden_states=embeds,
        pooled_projections=inputs["fp32.pooled_prompt_embeds"],
        timestep=inputs["fp32.timesteps"][:1] / 1000, txt_ids=ids[:embeds.shape[1]],
        img_ids=ids[embeds.shape[1]:], return_dict=False)[0]


@torch.no_grad()
def record_clip(case, clip):
    outputs[f"{case}.pooled_prompt_embeds"] = clip(inputs["fp32.clip_input_ids"]).pooler_output


def of_diffusers(case, **strengths):
    """What the pipeline makes of files, each with its strength."""
    pipeline = load_pipeline()
    adapters = []
    for name in strengths:
        folder = LORAS if (LORAS / f"{name}.safetensors").exists() else FOLDER
        adapters.append(f"adapter{len(adapters)}")
        pipeline.load_lora_weights(folder, weight_name=f"{name}.safetensors",
                                   adapter_name=adapters[-1])
    pipeline.set_adapters(adapters, list(strengths.values()))
    outputs[f"{case}.strengths"] = torch.tensor(list(strengths.values()))
    record_transformer(case, pipeline.transformer)
    if any(getattr(module, "lora_A", None) for module in pipeline.text_encoder.modules()):
        record_clip(case, pipeline.text_encoder)


def write_dora():
    """As diffusers' training scripts write one."""
    transformer = load_transformer()
    layers = ["transformer_blocks.0.attn.to_q", "transformer_blocks.1.ff.net.2",
              "single_transformer_blocks.0.proj_mlp", "transformer_blocks.1.norm1.linear"]
    transformer.add_adapter(LoraConfig(r=2, lora_alpha=3, target_modules=layers, use_dora=True))
    state = get_peft_model_state_dict(transformer)
    state = {key: value * (1 + 0.3 * random(*value.shape)) if "magnitude" in key
             else 0.3 * random(*value.shape) for key, value in state.items()}
    config = transformer.peft_config["default"].to_dict()
    config["target_modules"] = sorted(config["target_modules"])
    FluxPipeline.save_lora_weights(
        FOLDER, transformer_lora_layers=state, weight_name="peft_dora.safetensors",
        transformer_lora_adapter_metadata=config)


def record_t5(case, t5, strength):
    outputs[f"{case}.strengths"] = torch.tensor([strength])
    with torch.no_grad():
        outputs[f"{case}.prompt_embeds"] = t5(inputs["fp32.t5_input_ids"])[0]


def set_strength(model, strength):
    for module in model.modules():
        if hasattr(module, "set_scale"):
            module.set_scale("default", strength)


def randomize(model, scale):
    state = {key: scale * random(*value.shape)
             for key, value in get_peft_model_state_dict(model).items()}
    set_peft_model_state_dict(model, state)
    return state


def of_peft_t5(case, strength):
    model = get_peft_model(load_pipeline().text_encoder_2,
                           LoraConfig(r=2, lora_alpha=2, target_modules=["q", "o", "wi_1", "wo"]))
    prefix = "base_model.model."
    state = {"text_encoder_2." + key.removeprefix(prefix): value
             for key, value in randomize(model, 0.5).items()}
    save_file(state, FOLDER / f"{case}.safetensors", {"format": "pt"})
    set_strength(model, strength)
    record_t5(case, model, strength)


def of_peft(case, config, strength):
    """A folder as peft's save_pretrained writes it."""
    model = get_peft_model(load_transformer(), config)
    randomize(model, 0.5)
    model.peft_config["default"].base_model_name_or_path = None
    model.peft_config["default"].target_modules = sorted(config.target_modules)
    model.save_pretrained(FOLDER / case)
    (FOLDER / case / "README.md").unlink()
    set_strength(model, strength)
    outputs[f"{case}.strengths"] = torch.tensor([strength])
    record_transformer(case, model)


# --- Files in the format of the LyCORIS library -------------------------------------------------

def factors(stem, kind, rows, columns, alpha):
    """Random tensors of one layer."""
    if kind == "loha":
        shapes = {"hada_w1_a": (rows, 2), "hada_w1_b": (2, columns),
                  "hada_w2_a": (rows, 2), "hada_w2_b": (2, columns)}
    elif kind == "lokr":
        shapes = {"lokr_w1": (2, 4), "lokr_w2_a": (rows // 2, 3), "lokr_w2_b": (3, columns // 4)}
    elif kind == "lokr_both":
        shapes = {"lokr_w1_a": (4, 2), "lokr_w1_b": (2, 5),
                  "lokr_w2_a": (rows // 4, 2), "lokr_w2_b": (2, columns // 5)}
    elif kind == "lokr_whole":
        shapes = {"lokr_w1": (5, 2), "lokr_w2": (rows // 5, columns // 2)}
    elif kind == "lora":
        shapes = {"lora_down.weight": (2, columns), "lora_up.weight": (rows, 2)}
    else:
        shapes = {"diff": (rows, columns), "diff_b": (rows,)}
    tensors = {f"{stem}.{name}": 0.4 * random(*shape) for name, shape in shapes.items()}
    if kind != "full":
        tensors[f"{stem}.alpha"] = torch.tensor(alpha)
    return tensors


def change_of(tensors, stem):
    """The library's difference of a weight; 0 without one."""
    def get(name):
        return tensors.get(f"{stem}.{name}")
    alpha = float(get("alpha")) if get("alpha") is not None else None
    if get("hada_w1_a") is not None:
        return lycoris.loha.diff_weight(get("hada_w1_b"), get("hada_w1_a"), get("hada_w2_b"),
                                        get("hada_w2_a"), None, None, gamma=alpha / 2)
    if get("lokr_w1") is not None or get("lokr_w1_a") is not None:
        parts = [get("lokr_" + part) for part in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b")]
        # Divides by the rank itself; two whole matrices have none, and alpha counts for nothing.
        return lycoris.lokr.diff_weight(*parts, None, gamma=alpha)
    if get("lora_up.weight") is not None:
        return lycoris.locon.diff_weight(get("lora_down.weight"), get("lora_up.weight"), None,
                                         gamma=alpha / 2)
    return get("diff")


BLOCK, SINGLE = "transformer_blocks.0.", "single_transformer_blocks.0."
QKV = [BLOCK + "attn." + name for name in ("to_q", "to_k", "to_v")]
LINEAR1 = [SINGLE + name for name in ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")]
# Name in the file -> kind, the layers that are fused in it, DoRA's magnitudes.
LYCORIS = {
    "double_blocks_0_img_attn_qkv": ("loha", QKV, None),
    "double_blocks_0_txt_mlp_0": ("loha", [BLOCK + "ff_context.net.0.proj"], "rows"),
    "double_blocks_0_img_mlp_2": ("lokr", [BLOCK + "ff.net.2"], "columns"),
    "single_blocks_0_linear1": ("lokr", LINEAR1, None),
    "single_blocks_0_modulation_lin": ("lokr_both", [SINGLE + "norm.linear"], None),
    "double_blocks_0_img_mod_lin": ("lokr_whole", [BLOCK + "norm1.linear"], None),
    "double_blocks_0_txt_attn_proj": ("full", [BLOCK + "attn.to_add_out"], None),
    "double_blocks_0_txt_attn_qkv": (
        "lora", [BLOCK + f"attn.add_{name}_proj" for name in "qkv"], "rows"),
    "double_blocks_1_img_mlp_2": ("lora", ["transformer_blocks.1.ff.net.2"], "columns"),
    "final_layer_linear": ("lora", ["proj_out"], None),
}
NORMS = {"double_blocks_0_img_attn_norm_query_norm": BLOCK + "attn.norm_q",
         "single_blocks_0_norm_key_norm": SINGLE + "attn.norm_k"}


@torch.no_grad()
def of_lycoris(case):
    """One file with every kind. Strength 1, beside which DoRA means something else there."""
    transformer = load_transformer()
    tensors = {}
    for name, (kind, layers, dora) in LYCORIS.items():
        modules = [transformer.get_submodule(layer) for layer in layers]
        weight = torch.cat([module.weight for module in modules])
        stem = "lora_unet_" + name
        tensors |= factors(stem, kind, *weight.shape, 1.5)
        changed = weight + change_of(tensors, stem)
        if dora:
            norms = changed.norm(dim=1 if dora == "rows" else 0, keepdim=True)
            scale = tensors[f"{stem}.dora_scale"] = norms * (1 + 0.3 * random(*norms.shape))
            changed = weight_decompose(changed, scale, 1, wd_on_out=dora == "rows")
        bias = tensors.get(f"{stem}.diff_b")
        for module, rows in zip(modules, changed.split([m.weight.shape[0] for m in modules])):
            module.weight.copy_(rows)
            if bias is not None:
                module.bias += bias
    for name, layer in NORMS.items():
        tensors[f"lora_unet_{name}.w_norm"] = 0.4 * random(10)
        transformer.get_submodule(layer).weight += tensors[f"lora_unet_{name}.w_norm"]
    save_file(tensors, FOLDER / f"{case}.safetensors")
    outputs[f"{case}.strengths"] = torch.tensor([1.0])
    record_transformer(case, transformer)


def main():
    FOLDER.mkdir(parents=True, exist_ok=True)
    use_tiny_converters()
    write_dora()
    record_transformer("none", load_transformer())
    for name in ("kohya", "kohya_split", "comfyui", "onetrainer", "xlabs", "fal_kontext",
                 "diffusers", "peft", "peft_rslora"):
        of_diffusers(name, **{name: 0.2})
    of_diffusers("peft_dora", peft_dora=0.7)
    of_diffusers("two", kohya=0.8, fal_kontext=-0.5)
    of_diffusers("dora_and_lora", peft_dora=0.8, peft=-0.5)
    of_peft_t5("peft_t5", 0.5)
    layers = ["transformer_blocks.0.attn.to_q", "single_transformer_blocks.0.proj_mlp",
              "x_embedder"]
    of_peft("peft_loha", LoHaConfig(r=2, alpha=3, target_modules=layers), 0.6)
    of_peft("peft_lokr", LoKrConfig(r=2, alpha=3, target_modules=layers, decompose_both=True,
                                    rank_pattern={"x_embedder": 16}), 0.6)
    of_lycoris("lycoris")
    save_file({key: value.contiguous() for key, value in outputs.items()},
              FOLDER / "outputs.safetensors")
    difference = {key: float((value - outputs["none.noise_pred"]).abs().max())
                  for key, value in outputs.items() if key.endswith(".noise_pred")}
    print(json.dumps(difference, indent=1))


FOLDER = Path(sys.argv[1])
main()
