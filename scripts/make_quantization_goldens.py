#!/usr/bin/env python3
"""Writes tests/quantization/goldens.json: packed weights, and what the formats' own libraries make
of them (gguf-py, PyTorch and bitsandbytes, all on the CPU).

    python3 -m venv /tmp/quantization-venv && . /tmp/quantization-venv/bin/activate
    pip install gguf torch bitsandbytes
    scripts/make_quantization_goldens.py

Results are kept as hashes of their bits (FNV-1a, 64 bits; every NaN counts as the same one): of the
fp32 values, and of these rounded to bf16 and fp16 by PyTorch.
"""

import importlib.metadata
import json
import struct
from pathlib import Path

import bitsandbytes
import bitsandbytes.functional as bnb
import gguf
import numpy as np
import torch

BLOCK_TYPES = [
    "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0",
    "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS",
]  # fmt: skip
# Where a block has fp16 numbers.
HALVES = {
    "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0],
    "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208],
    "IQ4_NL": [0], "IQ4_XS": [0],
}  # fmt: skip
# Zeros, ones, the largest, the least above 0, denormals' ends, infinities, NaN.
EXTREMES = [
    0x0000, 0x8000, 0x3C00, 0xBC00, 0x7BFF, 0xFBFF, 0x0001, 0x8001, 0x03FF, 0x0400,
    0x7C00, 0xFC00, 0x7E00,
]  # fmt: skip


def fnv(data):
    value = 0xCBF29CE484222325
    for byte in data:
        value = ((value ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return f"{value:016x}"


def hashes(values):
    """Of fp32 values: [fp32, bf16, fp16]."""
    values = torch.as_tensor(np.ascontiguousarray(values)).flatten()
    assert values.dtype == torch.float32
    result = []
    for dtype, bits, nan in [
        (torch.float32, torch.int32, 0x7FC00000),
        (torch.bfloat16, torch.int16, 0x7FC0),
        (torch.float16, torch.int16, 0x7E00),
    ]:
        rounded = values.to(dtype).view(bits).clone()
        rounded[values.isnan()] = nan
        result.append(fnv(rounded.numpy().tobytes()))
    return result


def blocks_of(name, random):
    _, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]]
    counting = np.arange(size, dtype=np.uint8)
    contents = [
        np.zeros(size, np.uint8),
        np.full(size, 0xFF, np.uint8),
        counting * 17,
        random.integers(0, 256, size, np.uint8),
    ]
    blocks = [random.integers(0, 256, size, np.uint8) for _ in range(6)]
    for i, half in enumerate(EXTREMES):
        for j in range(2):
            block = contents[(2 * i + j) % len(contents)].copy()
            for k, offset in enumerate(HALVES[name]):
                other = half if k == 0 else EXTREMES[(i * 5 + j) % len(EXTREMES)]
                block[offset : offset + 2] = np.frombuffer(struct.pack("<H", other), np.uint8)
            blocks.append(block)
    for _ in range(10):  # scales as files have them
        block = random.integers(0, 256, size, np.uint8)
        for offset in HALVES[name]:
            scale = np.float16(random.normal() * 0.01)
            block[offset : offset + 2] = np.frombuffer(scale.tobytes(), np.uint8)
        blocks.append(block)
    return blocks


def block_goldens(random):
    result = []
    for name in BLOCK_TYPES:
        for block in blocks_of(name, random):
            with np.errstate(all="ignore"):
                values = gguf.quants.dequantize(block, gguf.GGMLQuantizationType[name])
            result.append([name, block.tobytes().hex(), *hashes(values)])
    return result


def float8_goldens(random):
    codes = np.arange(256, dtype=np.uint8)
    scales = np.concatenate([[1, 0.5, -3.7e-3, 448, 0, np.inf], random.normal(size=4)])
    result = []
    for name, dtype in [("F8_E4M3", torch.float8_e4m3fn), ("F8_E5M2", torch.float8_e5m2)]:
        values = torch.from_numpy(codes).view(dtype).float()
        result.append([name, "", *hashes(values)])
        for scale in scales.astype(np.float32):
            scaled = values * torch.tensor(scale)
            result.append([name, scale.tobytes().hex(), *hashes(scaled)])
    return result


def int8_goldens(random):
    """Rows of all 256 codes, a scale for each."""
    scales = np.concatenate([[1, 127, 0, 3e-39], np.exp(random.normal(size=28) * 2)])
    scales = torch.from_numpy(scales.astype(np.float32))
    codes = torch.arange(256).to(torch.uint8).view(torch.int8).repeat(len(scales), 1)
    values = bnb.int8_vectorwise_dequant(codes, scales)
    return [[s.numpy().tobytes().hex(), *hashes(v)] for s, v in zip(scales, values)]


def codes4_goldens(random):
    result = []
    for kind in ["nf4", "fp4"]:
        for block in [32, 64, 256]:
            for double in [False, True]:
                rows, columns = 12, 256
                weight = torch.from_numpy(random.normal(size=(rows, columns)).astype(np.float32))
                weight *= torch.exp(torch.arange(rows) - 4.0)[:, None]
                weight[3] = 0
                packed, state = bnb.quantize_4bit(
                    weight, blocksize=block, compress_statistics=double, quant_type=kind
                )
                if block == 64:  # every byte, whatever the weights
                    packed = torch.arange(packed.numel()).to(torch.uint8).reshape(packed.shape)
                values = bnb.dequantize_4bit(packed, state)
                golden = {
                    "kind": kind,
                    "block": block,
                    "codes": packed.numpy().tobytes().hex(),
                    "code": state.code.numpy().tobytes().hex(),
                    "absmax": state.absmax.numpy().tobytes().hex(),
                    "hashes": hashes(values),
                }
                if double:
                    golden["nested_code"] = state.state2.code.numpy().tobytes().hex()
                    golden["nested_absmax"] = state.state2.absmax.numpy().tobytes().hex()
                    golden["nested_block"] = state.state2.blocksize
                    golden["nested_offset"] = state.offset.numpy().tobytes().hex()
                result.append(golden)
    return result


def mixed(x):
    x = x * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def test_tensor(kind, count):
    """As tests/quantization/test_tensors.h makes it."""
    index = np.arange(count, dtype=np.uint64) * np.uint64(2)
    a, b = mixed(index + np.uint64(1)), mixed(index + np.uint64(2))
    parts = [(a >> np.uint64(16 * i)) & np.uint64(0xFFFF) for i in range(4)]
    values = (sum(part.astype(np.int64) for part in parts) - 131070) / 65536
    if kind == "heavy-tailed":
        b = b | np.uint64(0x100)
        values = values * (b & (~b + np.uint64(1))).astype(np.float64)
    elif kind == "outliers":
        values = np.where(b % np.uint64(128) == 0, values * 32, values)
    elif kind == "near-constant":
        values = 1 + values / 64
    elif kind == "zeros":
        values = values * 0
    return (values / 32).astype(np.float32)


def error_goldens():
    """What gguf-py's quantisers leave: [type, tensor, root of the mean square of the error]."""
    result = []
    for name in ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"]:
        kind = gguf.GGMLQuantizationType[name]
        for tensor in ["bell", "heavy-tailed", "outliers", "near-constant", "zeros"]:
            values = test_tensor(tensor, 65536)
            packed = gguf.quants.quantize(values.reshape(64, -1), kind)
            found = gguf.quants.dequantize(packed, kind).flatten().astype(np.float64)
            result.append([name, tensor, float(np.sqrt(np.mean((found - values) ** 2)))])
    return result


def float8_cast_golden(random):
    """fp32 values, clamped to what e4m3fn holds, and the codes PyTorch gives them: all numbers, what
    lies in the middle of two, what lies next to that, and others."""
    numbers = torch.arange(127).to(torch.uint8).view(torch.float8_e4m3fn).float().numpy()
    middles = (numbers[1:] + numbers[:-1]) / 2
    near = [np.nextafter(middles, np.float32(d)) for d in (0, 1000)]
    others = random.normal(size=200).astype(np.float32) * 50
    more = np.array([500, 1e9, np.inf, 1e-30, 0], np.float32)
    values = np.concatenate([numbers, middles, *near, others, more]).astype(np.float32)
    values = np.concatenate([values, -values])
    codes = torch.from_numpy(values).clamp(-448, 448).to(torch.float8_e4m3fn).view(torch.uint8)
    return {"values": values.tobytes().hex(), "codes": codes.numpy().tobytes().hex()}


def lines(items):
    return "[\n" + ",\n".join(json.dumps(item, separators=(",", ":")) for item in items) + "\n]"


def main():
    random = np.random.default_rng(2024)
    parts = {
        "made_with": json.dumps(
            {
                "gguf": importlib.metadata.version("gguf"),
                "torch": torch.__version__,
                "bitsandbytes": bitsandbytes.__version__,
            }
        ),
        "blocks": lines(block_goldens(random)),
        "float8": lines(float8_goldens(random)),
        "int8": lines(int8_goldens(random)),
        "codes4": lines(codes4_goldens(random)),
        "errors": lines(error_goldens()),
        "float8_cast": json.dumps(float8_cast_golden(random)),
    }
    path = Path(__file__).parents[1] / "tests" / "quantization" / "goldens.json"
    text = "{\n" + ",\n".join(f'"{key}": {value}' for key, value in parts.items()) + "\n}\n"
    path.write_text(text)
    print(f"{path}: {len(text)} bytes")


if __name__ == "__main__":
    main()
