#!/usr/bin/env python3
"""Writes small GGUF files with the gguf package, and what its reader finds in them.

    python3 -m venv /tmp/gguf-venv && . /tmp/gguf-venv/bin/activate
    pip install gguf==0.19.0
    scripts/make_gguf_golden.py tests/goldens/gguf      # the committed ones

reader.gguf has every type of metadata, nested arrays among them, every type of tensor that
steadyflux reads, an alignment of its own and a tensor that was reshaped; reader.json says what it
holds: metadata, and tensors with dtype, shape and data (hexadecimal). written.gguf is what
tests/weights/gguf_writer_test.cpp writes as well, byte for byte.

    scripts/make_gguf_golden.py --check FILE...         # opens files with the package's reader
"""

import argparse
import json
from pathlib import Path

import gguf
import numpy as np

TYPES = ("F32 F16 BF16 F64 I8 I16 I32 I64 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K "
         "IQ4_NL IQ4_XS").split()
ORIGINAL = "comfy.gguf.orig_shape."


def add_metadata(writer):
    """Adds an entry of each type; returns them as JSON would have them."""
    scalars = {
        "uint8": 2**8 - 1, "int8": -(2**7), "uint16": 2**16 - 1, "int16": -(2**15),
        "uint32": 2**32 - 1, "int32": -(2**31), "uint64": 2**64 - 1, "int64": -(2**63),
        "float32": float(np.float32(0.1)), "float64": 0.1, "bool": True, "string": "a cat, \u732b"}
    for kind, value in scalars.items():
        getattr(writer, f"add_{kind}")(f"test.{kind}", value)
    arrays = {"int32s": [1, -2, 3], "float32s": [0.5, -1.5], "bools": [True, False],
              "strings": ["", "\u00e9", "a\0b"], "nested": [[1, 2], [3]],
              "deeper": [[["a"], ["b", "c"]], [["d"]]]}
    for name, value in arrays.items():
        writer.add_array(f"test.{name}", value)
    writer.add_array("test.bytes", bytes([0, 127, 255]))
    writer.add_key_value("test.int64s", [2**40, -1], gguf.GGUFValueType.ARRAY,
                         sub_type=gguf.GGUFValueType.INT64)
    expected = {f"test.{name}": value for name, value in (scalars | arrays).items()}
    return expected | {"test.bytes": [0, 127, 255], "test.int64s": [2**40, -1]}


def random_bytes(rng, kind, shape):
    """As rows of bytes, which is how the package takes types that numpy does not have."""
    block, size = gguf.GGML_QUANT_SIZES[kind]
    return rng.integers(0, 256, (*shape[:-1], shape[-1] // block * size), dtype=np.uint8)


def make_reader(path):
    rng = np.random.default_rng(1)
    writer = gguf.GGUFWriter(path, "flux")
    metadata = {"general.architecture": "flux", "general.alignment": 64}
    writer.add_custom_alignment(64)
    metadata |= add_metadata(writer)
    metadata[ORIGINAL + "reshaped"] = [16, 4, 2, 2]
    writer.add_array(ORIGINAL + "reshaped", metadata[ORIGINAL + "reshaped"])
    for name in TYPES:
        kind = gguf.GGMLQuantizationType[name]
        block, _ = gguf.GGML_QUANT_SIZES[kind]
        shape = (2, 3) if block == 1 else (2, block)
        writer.add_tensor(f"blocks.{name}.weight", random_bytes(rng, kind, shape), raw_dtype=kind)
    writer.add_tensor("four", np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4))
    writer.add_tensor("bias", np.arange(5, dtype=np.float16))
    writer.add_tensor("reshaped", np.arange(256, dtype=np.int8).reshape(1, 256))
    finish(writer)

    tensors = {}
    for tensor in gguf.GGUFReader(path).tensors:
        shape = [int(side) for side in reversed(tensor.shape)]
        tensors[tensor.name] = {"dtype": tensor.tensor_type.name,
                                "shape": metadata.get(ORIGINAL + tensor.name, shape),
                                "data": tensor.data.tobytes().hex()}
    path.with_suffix(".json").write_text(
        json.dumps({"metadata": metadata, "tensors": tensors}, indent=1) + "\n")


def make_written(path):
    writer = gguf.GGUFWriter(path, "flux")
    writer.add_uint8("test.uint8", 200)
    writer.add_int8("test.int8", -100)
    writer.add_uint16("test.uint16", 40000)
    writer.add_int16("test.int16", -30000)
    writer.add_uint32("general.quantization_version", 2)
    writer.add_int32("test.int32", -5)
    writer.add_uint64("test.uint64", 2**63)
    writer.add_int64("test.int64", -(2**62))
    writer.add_float32("test.float32", 0.1)
    writer.add_float64("test.float64", 0.1)
    writer.add_bool("test.bool", True)
    writer.add_string("test.string", "a cat, \u732b")
    writer.add_array("test.int32s", [16, 4, 2, 2])
    writer.add_array("test.float32s", [0.1, -1.0])
    writer.add_array("test.strings", ["a", "\u00e9"])
    for name, kind, shape in (("a", "Q8_0", (2, 64)), ("b.weight", "F16", (3, 5)),
                              ("c", "Q4_K", (2, 1, 256)), ("d", "F32", (1,)), ("e", "BF16", (2, 3))):
        kind = gguf.GGMLQuantizationType[kind]
        data = np.zeros_like(random_bytes(np.random.default_rng(1), kind, shape))
        data[...] = (np.arange(data.size) * 7 + 1).astype(np.uint8).reshape(data.shape)
        writer.add_tensor(name, data, raw_dtype=kind)
    finish(writer)


def finish(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def check(path):
    reader = gguf.GGUFReader(path)
    for field in reader.fields.values():
        print(field.name, [kind.name for kind in field.types], field.contents())
    for tensor in reader.tensors:
        print(tensor.name, tensor.tensor_type.name, tensor.shape.tolist(), tensor.n_bytes)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("paths", nargs="+", type=Path)
    arguments = parser.parse_args()
    for path in arguments.paths:
        if arguments.check:
            check(path)
        else:
            path.mkdir(parents=True, exist_ok=True)
            make_reader(path / "reader.gguf")
            make_written(path / "written.gguf")


if __name__ == "__main__":
    main()
