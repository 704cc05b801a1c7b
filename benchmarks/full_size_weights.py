"""A FLUX.1 folder of true size with random bf16 weights, for measuring memory and reading.

    full_size_weights.py SOURCE TARGET [--part all|transformer|text] [--double N] [--single N]
                         [--t5-layers N] [--check]

SOURCE has the configs, tokenizers and index files of the real model, no weights (the folder
../shared/flux1/schnell beside the checkout). TARGET gets all of it and the weights, 34 GB; what is
there and whole is kept. --part transformer and --part text write that part at its true depth and
the other with one layer of each kind, for less disk. Needs nothing but Python's library.

The numbers come from one block of normal values, laid end to end from another place for every
tensor: as far as speed, memory and the range of activations go, that is as good as new ones.
"""
import argparse
import array
import hashlib
import json
import os
import random
import shutil
import statistics
import struct
import sys
from pathlib import Path

BLOCK = 4_194_301  # values; a prime, so that the rows of no matrix fall on each other
CHUNK = 1 << 22  # bytes per write
MARK = ".complete"
SPARE = 2 << 30  # bytes of disk left free


# --- what a tensor is filled with: a standard deviation, or "one" and "zero" --------------------


class Tensors:
    """Names, shapes and fillings of one component, in the order of declaration."""

    def __init__(self):
        self.of = {}

    def add(self, name, shape, fill):
        assert name not in self.of, name
        self.of[name] = (tuple(shape), fill)

    def linear(self, name, inputs, outputs, std, bias=True):
        self.add(name + ".weight", (outputs, inputs), std)
        if bias:
            self.add(name + ".bias", (outputs,), "zero")

    def norm(self, name, width, bias=True):
        self.add(name + ".weight", (width,), "one")
        if bias:
            self.add(name + ".bias", (width,), "zero")

    def conv(self, name, inputs, outputs, kernel):
        self.add(name + ".weight", (outputs, inputs, kernel, kernel),
                 (inputs * kernel * kernel) ** -0.5)
        self.add(name + ".bias", (outputs,), "zero")

    def bytes(self):
        return sum(2 * count(shape) for shape, _ in self.of.values())


def count(shape):
    n = 1
    for size in shape:
        n *= size
    return n


def transformer_tensors(config):
    # Small gates: a block adds some hundredths of what is there, so 57 of them stay in range, yet
    # each one shows in the result.
    linear, modulation = 0.02, 0.01
    t = Tensors()
    head = config["attention_head_dim"]
    width = config["num_attention_heads"] * head
    t.linear("x_embedder", config["in_channels"], width, linear)
    t.linear("context_embedder", config["joint_attention_dim"], width, linear)
    embedders = {"timestep_embedder": 256, "text_embedder": config["pooled_projection_dim"]}
    if config["guidance_embeds"]:
        embedders["guidance_embedder"] = 256
    for name, inputs in embedders.items():
        t.linear(f"time_text_embed.{name}.linear_1", inputs, width, linear)
        t.linear(f"time_text_embed.{name}.linear_2", width, width, linear)
    for i in range(config["num_layers"]):
        block = f"transformer_blocks.{i}"
        for norm in ("norm1", "norm1_context"):
            t.linear(f"{block}.{norm}.linear", width, 6 * width, modulation)
        for name in ("to_q", "to_k", "to_v", "add_q_proj", "add_k_proj", "add_v_proj", "to_out.0",
                     "to_add_out"):
            t.linear(f"{block}.attn.{name}", width, width, linear)
        for name in ("norm_q", "norm_k", "norm_added_q", "norm_added_k"):
            t.norm(f"{block}.attn.{name}", head, bias=False)
        for name in ("ff", "ff_context"):
            t.linear(f"{block}.{name}.net.0.proj", width, 4 * width, linear)
            t.linear(f"{block}.{name}.net.2", 4 * width, width, linear)
    for i in range(config["num_single_layers"]):
        block = f"single_transformer_blocks.{i}"
        t.linear(f"{block}.norm.linear", width, 3 * width, modulation)
        for name in ("to_q", "to_k", "to_v"):
            t.linear(f"{block}.attn.{name}", width, width, linear)
        for name in ("norm_q", "norm_k"):
            t.norm(f"{block}.attn.{name}", head, bias=False)
        t.linear(f"{block}.proj_mlp", width, 4 * width, linear)
        t.linear(f"{block}.proj_out", 5 * width, width, linear)
    t.linear("norm_out.linear", width, 2 * width, modulation)
    t.linear("proj_out", width, config["in_channels"], linear)
    return t


def t5_tensors(config):
    # T5's own initial values: queries are small because scores are not divided by sqrt(d_kv).
    t = Tensors()
    width, inner = config["d_model"], config["num_heads"] * config["d_kv"]
    wide = width ** -0.5
    t.add("shared.weight", (config["vocab_size"], width), 1.0)
    for i in range(config["num_layers"]):
        block = f"encoder.block.{i}.layer"
        attention = f"{block}.0.SelfAttention"
        t.linear(f"{attention}.q", width, inner, (width * config["d_kv"]) ** -0.5, bias=False)
        t.linear(f"{attention}.k", width, inner, wide, bias=False)
        t.linear(f"{attention}.v", width, inner, wide, bias=False)
        t.linear(f"{attention}.o", inner, width, inner ** -0.5, bias=False)
        if i == 0:
            t.add(f"{attention}.relative_attention_bias.weight",
                  (config["relative_attention_num_buckets"], config["num_heads"]), wide)
        t.norm(f"{block}.0.layer_norm", width, bias=False)
        for name in ("wi_0", "wi_1"):
            t.linear(f"{block}.1.DenseReluDense.{name}", width, config["d_ff"], wide, bias=False)
        t.linear(f"{block}.1.DenseReluDense.wo", config["d_ff"], width, config["d_ff"] ** -0.5,
                 bias=False)
        t.norm(f"{block}.1.layer_norm", width, bias=False)
    t.norm("encoder.final_layer_norm", width, bias=False)
    return t


def clip_tensors(config):
    t = Tensors()
    width, linear = config["hidden_size"], 0.02
    t.add("text_model.embeddings.token_embedding.weight", (config["vocab_size"], width), linear)
    t.add("text_model.embeddings.position_embedding.weight",
          (config["max_position_embeddings"], width), linear)
    for i in range(config["num_hidden_layers"]):
        layer = f"text_model.encoder.layers.{i}"
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            t.linear(f"{layer}.self_attn.{name}", width, width, linear)
        t.norm(f"{layer}.layer_norm1", width)
        t.norm(f"{layer}.layer_norm2", width)
        t.linear(f"{layer}.mlp.fc1", width, config["intermediate_size"], linear)
        t.linear(f"{layer}.mlp.fc2", config["intermediate_size"], width, linear)
    t.norm("text_model.final_layer_norm", width)
    return t


def vae_tensors(config):
    t = Tensors()
    widths = config["block_out_channels"]
    latent, layers = config["latent_channels"], config["layers_per_block"]

    def resnet(name, inputs, outputs):
        t.norm(f"{name}.norm1", inputs)
        t.conv(f"{name}.conv1", inputs, outputs, 3)
        t.norm(f"{name}.norm2", outputs)
        t.conv(f"{name}.conv2", outputs, outputs, 3)
        if inputs != outputs:
            t.conv(f"{name}.conv_shortcut", inputs, outputs, 1)

    def middle(name, width):
        for i in range(2):
            resnet(f"{name}.resnets.{i}", width, width)
        t.norm(f"{name}.attentions.0.group_norm", width)
        for projection in ("to_q", "to_k", "to_v", "to_out.0"):
            t.linear(f"{name}.attentions.0.{projection}", width, width, width ** -0.5)

    t.conv("encoder.conv_in", config["in_channels"], widths[0], 3)
    inputs = widths[0]
    for i, outputs in enumerate(widths):
        block = f"encoder.down_blocks.{i}"
        for j in range(layers):
            resnet(f"{block}.resnets.{j}", inputs if j == 0 else outputs, outputs)
        if i + 1 < len(widths):
            t.conv(f"{block}.downsamplers.0.conv", outputs, outputs, 3)
        inputs = outputs
    middle("encoder.mid_block", inputs)
    t.norm("encoder.conv_norm_out", inputs)
    t.conv("encoder.conv_out", inputs, 2 * latent, 3)

    inputs = widths[-1]
    t.conv("decoder.conv_in", latent, inputs, 3)
    middle("decoder.mid_block", inputs)
    for i, outputs in enumerate(reversed(widths)):
        block = f"decoder.up_blocks.{i}"
        for j in range(layers + 1):
            resnet(f"{block}.resnets.{j}", inputs if j == 0 else outputs, outputs)
        if i + 1 < len(widths):
            t.conv(f"{block}.upsamplers.0.conv", outputs, outputs, 3)
        inputs = outputs
    t.norm("decoder.conv_norm_out", inputs)
    t.conv("decoder.conv_out", inputs, config["out_channels"], 3)
    if config["use_quant_conv"]:
        t.conv("quant_conv", 2 * latent, 2 * latent, 1)
    if config["use_post_quant_conv"]:
        t.conv("post_quant_conv", latent, latent, 1)
    return t


# component: declaration, name of its files without ending
COMPONENTS = {
    "transformer": (transformer_tensors, "diffusion_pytorch_model"),
    "text_encoder_2": (t5_tensors, "model"),
    "text_encoder": (clip_tensors, "model"),
    "vae": (vae_tensors, "diffusion_pytorch_model"),
}


# --- writing ------------------------------------------------------------------------------------


class Values:
    """bf16 values of any standard deviation, as views of bytes."""

    def __init__(self):
        self.draws = array.array("H", random.Random(0).randbytes(2 * BLOCK))
        normal = statistics.NormalDist()
        self.normals = [normal.inv_cdf((i + 0.5) / 65536) for i in range(65536)]
        self.blocks = {}

    def block(self, fill):
        if fill not in self.blocks:
            if fill in ("zero", "one"):
                values = array.array("H", [0x3F80 if fill == "one" else 0]) * (CHUNK // 2)
            else:
                bits = [struct.unpack("<I", struct.pack("<f", v * fill))[0] for v in self.normals]
                table = [(b + 0x8000) >> 16 for b in bits]
                values = array.array("H", map(table.__getitem__, self.draws))
            if sys.byteorder == "big":
                values.byteswap()
            self.blocks[fill] = memoryview(values).cast("B")
        return self.blocks[fill]

    def chunks(self, name, shape, fill):
        block = self.block(fill)
        left = 2 * count(shape)
        place = 2 * (int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little") % BLOCK)
        place %= len(block)
        while left > 0:
            size = min(left, CHUNK, len(block) - place)
            yield block[place:place + size]
            left -= size
            place = (place + size) % len(block)


def write_file(path, tensors, values):
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name in sorted(tensors):
        shape, _ = tensors[name]
        end = offset + 2 * count(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in sorted(tensors):
            for chunk in values.chunks(name, *tensors[name]):
                file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
        if hasattr(os, "posix_fadvise"):  # who measures reading wants it from the disk
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


class Component:
    def __init__(self, name, source, target, changes):
        declare, self.stem = COMPONENTS[name]
        self.source, self.target = source / name, target / name
        self.config = json.loads((self.source / "config.json").read_text())
        self.is_whole = all(self.config[key] == value for key, value in changes.items())
        self.config.update(changes)
        self.tensors = declare(self.config)
        index = self.source / f"{self.stem}.safetensors.index.json"
        self.index = json.loads(index.read_text()) if index.exists() else None
        text = json.dumps([self.config, list(self.tensors.of.items())])
        self.mark = hashlib.sha256(text.encode()).hexdigest()

    def check(self):
        """Against the published list of names and its total size."""
        if self.index is None or not self.is_whole:
            return
        names, listed = set(self.tensors.of), set(self.index["weight_map"])
        if names != listed:
            raise SystemExit(f"{self.source}: {len(names ^ listed)} names differ from the index, "
                             f"such as {min(names ^ listed)}")
        total = self.index["metadata"]["total_size"]
        if self.tensors.bytes() != total:
            raise SystemExit(f"{self.source}: {self.tensors.bytes()} bytes, the index has {total}")

    def is_there(self):
        mark = self.target / MARK
        return mark.exists() and mark.read_text() == self.mark

    def present_bytes(self):
        return sum(p.stat().st_size for p in self.target.glob("*.safetensors"))

    def remove(self):
        shutil.rmtree(self.target, ignore_errors=True)

    def write(self, values):
        self.target.mkdir(parents=True)
        for file in self.source.iterdir():
            if file.suffix != ".safetensors":
                shutil.copyfile(file, self.target / file.name)
        (self.target / "config.json").write_text(json.dumps(self.config, indent=2) + "\n")
        if self.index is None:
            write_file(self.target / f"{self.stem}.safetensors", self.tensors.of, values)
        else:
            weight_map = {n: f for n, f in self.index["weight_map"].items() if n in self.tensors.of}
            index = {"metadata": {"total_size": self.tensors.bytes()}, "weight_map": weight_map}
            (self.target / f"{self.stem}.safetensors.index.json").write_text(
                json.dumps(index, indent=2) + "\n")
            for file in sorted(set(weight_map.values())):
                part = {n: self.tensors.of[n] for n, f in weight_map.items() if f == file}
                write_file(self.target / file, part, values)
        (self.target / MARK).write_text(self.mark)


def copy_rest(source, target):
    target.mkdir(parents=True, exist_ok=True)
    for path in source.iterdir():
        if path.is_file():
            shutil.copyfile(path, target / path.name)
        elif path.name not in COMPONENTS:
            (target / path.name).mkdir(exist_ok=True)
            for file in path.iterdir():
                shutil.copyfile(file, target / path.name / file.name)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--part", choices=("all", "transformer", "text"), default="all")
    parser.add_argument("--double", type=int, metavar="N", help="double blocks")
    parser.add_argument("--single", type=int, metavar="N", help="single blocks")
    parser.add_argument("--t5-layers", type=int, metavar="N")
    parser.add_argument("--check", action="store_true", help="write nothing")
    options = parser.parse_args()
    if not (options.source / "transformer" / "config.json").exists():
        raise SystemExit(f"{options.source}: the configs and tokenizers of FLUX.1 are not there; "
                         "give the folder that has them (shared/flux1/schnell beside the checkout)")

    short = options.part == "text"
    depths = {"num_layers": options.double or (1 if short else None),
              "num_single_layers": options.single or (1 if short else None)}
    t5_layers = options.t5_layers or (1 if options.part == "transformer" else None)
    changes = {"transformer": {k: v for k, v in depths.items() if v},
               "text_encoder_2": {"num_layers": t5_layers} if t5_layers else {}}
    components = [Component(name, options.source, options.target, changes.get(name, {}))
                  for name in COMPONENTS]
    for component in components:
        component.check()
    missing = [c for c in components if not c.is_there()]
    wanted = sum(c.tensors.bytes() for c in missing)
    total = sum(c.tensors.bytes() for c in components)
    print(f"{options.target}: {total / 1e9:.2f} GB, {wanted / 1e9:.2f} GB to write", flush=True)
    if options.check:
        return
    copy_rest(options.source, options.target)
    free = shutil.disk_usage(options.target).free + sum(c.present_bytes() for c in missing)
    if wanted + SPARE > free:
        raise SystemExit(f"{options.target}: {free / 1e9:.1f} GB free, "
                         f"{(wanted + SPARE) / 1e9:.1f} GB needed; --part transformer and "
                         "--part text need less")
    for component in missing:
        component.remove()
    values = Values()
    for component in missing:
        component.write(values)
        print(f"{component.target}: {component.tensors.bytes() / 1e9:.2f} GB written", flush=True)


if __name__ == "__main__":
    main()
