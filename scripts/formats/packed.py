"""Quantised weights, packed and unpacked by the formats' own libraries: PyTorch for fp8,
bitsandbytes for NF4, FP4 and LLM.int8, gguf-py for GGUF's types.

Functions that pack take a module's weight and return what a file holds of it, by the end of the
name, and the fp32 values that this stands for.
"""

import json
import os

import numpy
import torch

E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2


def fp8(dtype):
    def pack(weight):
        packed = weight.to(dtype)
        return {"weight": packed}, packed.float()

    return pack


def fp8_scaled(dtype, style="old"):
    """ComfyUI's. old: `scale_weight`; bf16: the same with a scale [1] in bf16, as some scripts
    write; new: `weight_scale` and `comfy_quant`; rows: new, with a scale for each row."""

    def pack(weight):
        most = torch.finfo(dtype).max
        amax = weight.abs().amax(dim=1) if style == "rows" else weight.abs().amax()
        scale = (amax / most).float()
        if style == "bf16":
            scale = scale.bfloat16().float()
        broadcast = scale[:, None] if style == "rows" else scale
        packed = (weight / broadcast).to(dtype)
        parts = {"weight": packed}
        if style == "bf16":
            parts["scale_weight"] = scale.bfloat16().reshape(1)
        elif style == "old":
            parts["scale_weight"] = scale
            parts["scale_input"] = torch.tensor(1.0)
        else:
            name = {E4M3: "float8_e4m3fn", E5M2: "float8_e5m2"}[dtype]
            text = json.dumps({"format": name}).encode()
            parts["weight_scale"] = scale[:, None] if style == "rows" else scale
            parts["comfy_quant"] = torch.tensor(list(text), dtype=torch.uint8)
        return parts, packed.float() * broadcast

    return pack


def bnb_functional():
    """bitsandbytes looks for optional kernels when imported, and says so."""
    os.environ.setdefault("BITSANDBYTES_NOWELCOME", "1")
    import bitsandbytes.functional

    return bitsandbytes.functional


def bnb4(quant_type, nested):
    def pack(weight):
        bnb = bnb_functional()
        codes, state = bnb.quantize_4bit(
            weight.float().contiguous(), quant_type=quant_type, compress_statistics=nested
        )
        values = bnb.dequantize_4bit(codes, state)
        parts = {"weight": codes}
        for name, tensor in state.as_dict(packed=True).items():
            parts[f"weight.{name}"] = tensor
        return parts, values.float().reshape(weight.shape)

    return pack


def llm_int8(weight):
    bnb = bnb_functional()
    codes, scale, _ = bnb.int8_vectorwise_quant(weight.half())
    parts = {
        "weight": codes,
        "SCB": scale.float(),
        "weight_format": torch.tensor(0, dtype=torch.uint8),
    }
    return parts, bnb.int8_vectorwise_dequant(codes, scale.float())


def pack_matrices(tensors: dict, pack, keep=lambda name: False, other=torch.bfloat16) -> tuple:
    """A file's tensors and the values they stand for: matrices packed, the rest in `other`."""
    stored, values = {}, {}
    for name, tensor in tensors.items():
        module, _, leaf = name.rpartition(".")
        if leaf == "weight" and tensor.dim() == 2 and not keep(name):
            parts, unpacked = pack(tensor)
            for end, part in parts.items():
                stored[f"{module}.{end}"] = part
            values[name] = unpacked
        else:
            stored[name] = tensor.to(other)
            values[name] = stored[name].float()
    return stored, values


def unpack_bnb_file(stored: dict) -> dict:
    """What a file that diffusers or transformers saved with bitsandbytes stands for."""
    bnb = bnb_functional()
    values = {}
    for name, tensor in stored.items():
        module, _, leaf = name.rpartition(".")
        if ".weight." in name or leaf in ("SCB", "weight_format"):
            continue
        parts = {n: t for n, t in stored.items() if n.startswith(name + ".")}
        if parts:
            parts = {n.removeprefix(name + "."): t for n, t in parts.items()}
            state = bnb.QuantState.from_dict(parts, device=torch.device("cpu"))
            values[name] = bnb.dequantize_4bit(tensor, state).float()
        elif leaf == "weight" and f"{module}.SCB" in stored:
            values[name] = bnb.int8_vectorwise_dequant(tensor, stored[f"{module}.SCB"].float())
        else:
            values[name] = tensor.float()
    return values


# --- GGUF -------------------------------------------------------------------------------------

# gguf-py quantises these.
GGUF_QUANTISED = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"]
GGUF_PLAIN = ["F32", "F16", "BF16"]
# It only dequantises these: where a block has its scale and its minimum (fp16), and how many
# scales the minimum is so that values are around 0.
GGUF_RANDOM = {
    "Q2_K": (80, 82, 1.5),
    "Q3_K": (108, None, 0),
    "Q4_K": (0, 2, 7.5),
    "Q5_K": (0, 2, 15.5),
    "Q6_K": (208, None, 0),
    "IQ4_NL": (0, None, 0),
    "IQ4_XS": (0, None, 0),
}


def random_blocks(kind, shape, deviation: float, generator) -> numpy.ndarray:
    """Bytes of random blocks whose values have about that standard deviation."""
    import gguf

    values, size = gguf.GGML_QUANT_SIZES[kind]
    scale_at, least_at, least = GGUF_RANDOM[kind.name]
    blocks = generator.integers(0, 256, (shape[0], shape[1] // values, size), dtype=numpy.uint8)
    spread = generator.uniform(0.5, 1.5, blocks.shape[:2])

    def put(at, numbers):
        blocks[:, :, at : at + 2] = numbers.astype("<f2")[:, :, None].view(numpy.uint8)

    scale = 0.01
    for _ in range(3):  # fp16 rounds small scales, so more than once
        put(scale_at, scale * spread)
        if least_at is not None:
            put(least_at, least * scale * spread)
        data = blocks.reshape(shape[0], -1)
        scale *= deviation / gguf.quants.dequantize(data, kind).std()
    return data


def write_gguf(path, architecture, tensors: dict, type_name: str, ends="F16", seed=0) -> dict:
    """Matrices whose rows are whole blocks in that type, other matrices in `ends`, the rest in
    F32. Returns the values."""
    import gguf

    kind, end_kind = (gguf.GGMLQuantizationType[name] for name in (type_name, ends))
    generator = numpy.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(str(path), architecture)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_string("general.name", "tiny")
    values = {}
    for name, tensor in tensors.items():
        data = tensor.float().numpy()
        fits = data.ndim == 2 and data.shape[1] % gguf.GGML_QUANT_SIZES[kind][0] == 0
        now = kind if fits else end_kind if data.ndim == 2 else gguf.GGMLQuantizationType.F32
        if now.name in GGUF_RANDOM:
            data = random_blocks(now, data.shape, float(data.std()), generator)
        else:
            data = gguf.quants.quantize(numpy.ascontiguousarray(data), now)
        values[name] = torch.from_numpy(gguf.quants.dequantize(data, now).copy()).reshape(
            tensor.shape
        )
        writer.add_tensor(name, data, raw_dtype=now)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return values
