"""Writes the weights of a FLUX.1 folder in the diffusers layout as the single files that
stable-diffusion.cpp takes: the transformer under the names of BFL's release, the others as are.

Use: single_files.py MODEL TARGET     writes TARGET/{flux,clip_l,t5xxl,vae}.safetensors

Rows are copied, never computed with: joining matrices along their rows is joining their bytes.
"""
import json
import struct
import sys
from pathlib import Path

FILES = {"transformer": "flux", "text_encoder": "clip_l", "text_encoder_2": "t5xxl", "vae": "vae"}
BLOCK = 1 << 24
SHARED = {
    "time_text_embed.timestep_embedder.linear_1": "time_in.in_layer",
    "time_text_embed.timestep_embedder.linear_2": "time_in.out_layer",
    "time_text_embed.text_embedder.linear_1": "vector_in.in_layer",
    "time_text_embed.text_embedder.linear_2": "vector_in.out_layer",
    "time_text_embed.guidance_embedder.linear_1": "guidance_in.in_layer",
    "time_text_embed.guidance_embedder.linear_2": "guidance_in.out_layer",
    "context_embedder": "txt_in", "x_embedder": "img_in", "proj_out": "final_layer.linear"}
DOUBLE = {
    ("norm1.linear",): "img_mod.lin", ("norm1_context.linear",): "txt_mod.lin",
    ("attn.to_q", "attn.to_k", "attn.to_v"): "img_attn.qkv",
    ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"): "txt_attn.qkv",
    ("attn.to_out.0",): "img_attn.proj", ("attn.to_add_out",): "txt_attn.proj",
    ("ff.net.0.proj",): "img_mlp.0", ("ff.net.2",): "img_mlp.2",
    ("ff_context.net.0.proj",): "txt_mlp.0", ("ff_context.net.2",): "txt_mlp.2"}
DOUBLE_NORMS = {"attn.norm_q": "img_attn.norm.query_norm", "attn.norm_k": "img_attn.norm.key_norm",
                "attn.norm_added_q": "txt_attn.norm.query_norm",
                "attn.norm_added_k": "txt_attn.norm.key_norm"}
SINGLE = {("norm.linear",): "modulation.lin", ("proj_out",): "linear2",
          ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"): "linear1"}
SINGLE_NORMS = {"attn.norm_q": "norm.query_norm", "attn.norm_k": "norm.key_norm"}


class Source:
    """The tensors of a folder: dtype, shape, and where their bytes lie."""

    def __init__(self, folder):
        self.tensors = {}
        for path in sorted(Path(folder).glob("*.safetensors")):
            with open(path, "rb") as file:
                length = struct.unpack("<Q", file.read(8))[0]
                header = json.loads(file.read(length))
            header.pop("__metadata__", None)
            for name, tensor in header.items():
                begin, end = tensor["data_offsets"]
                self.tensors[name] = (tensor["dtype"], tensor["shape"],
                                      [(path, 8 + length + begin, end - begin)])

    def take(self, names):
        """Tensors joined along their rows."""
        taken = [self.tensors.pop(name) for name in names]
        shape = [sum(t[1][0] for t in taken), *taken[0][1][1:]]
        return taken[0][0], shape, [piece for t in taken for piece in t[2]]


def swap_halves(tensor):
    dtype, shape, [(path, begin, size)] = tensor
    return dtype, shape, [(path, begin + size // 2, size // 2), (path, begin, size // 2)]


def in_names_of_bfl(source):
    names = {}
    blocks = {name.rsplit(".", 1)[0]: None for name in source.tensors}

    def count(kind):
        return len({name.split(".")[1] for name in blocks if name.startswith(kind + ".")})

    def linears(table, old, new):
        for parts, target in table.items():
            for kind in ("weight", "bias"):
                names[f"{new}{target}.{kind}"] = source.take(f"{old}{p}.{kind}" for p in parts)

    linears({(old,): new for old, new in SHARED.items() if old in blocks}, "", "")
    for kind in ("weight", "bias"):  # diffusers has (scale, shift) here, BFL (shift, scale)
        names[f"final_layer.adaLN_modulation.1.{kind}"] = swap_halves(
            source.take([f"norm_out.linear.{kind}"]))
    for kind, target, table, norms in (
            ("transformer_blocks", "double_blocks", DOUBLE, DOUBLE_NORMS),
            ("single_transformer_blocks", "single_blocks", SINGLE, SINGLE_NORMS)):
        for i in range(count(kind)):
            linears(table, f"{kind}.{i}.", f"{target}.{i}.")
            for old, new in norms.items():
                names[f"{target}.{i}.{new}.scale"] = source.take([f"{kind}.{i}.{old}.weight"])
    if source.tensors:
        sys.exit(f"not understood: {sorted(source.tensors)}")
    return names


def write(tensors, target):
    header, offset = {}, 0
    for name, (dtype, shape, pieces) in tensors.items():
        size = sum(piece[2] for piece in pieces)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(target, "wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for _, _, pieces in tensors.values():
            for path, begin, size in pieces:
                with open(path, "rb") as file:
                    file.seek(begin)
                    while size > 0:
                        data = file.read(min(size, BLOCK))
                        if not data:
                            sys.exit(f"{path}: ended early")
                        out.write(data)
                        size -= len(data)


def write_all(model, target):
    """The four files, by the names of FILES."""
    written = {}
    for folder, name in FILES.items():
        source = Source(Path(model) / folder)
        tensors = in_names_of_bfl(source) if folder == "transformer" else source.tensors
        written[name] = Path(target) / f"{name}.safetensors"
        write(tensors, written[name])
    return written


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    Path(sys.argv[2]).mkdir(parents=True, exist_ok=True)
    write_all(sys.argv[1], sys.argv[2])
