"""Weight files that are cut off, altered, of other dtypes and shapes, or no files at all."""

import json
import os
import pickle
import struct

from .case import BAD_INPUT, IO, Case, rng

COMPONENTS = {
    "text_encoder": "model.safetensors",
    "text_encoder_2": "model.safetensors",
    "transformer": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
}
# Tensors that a checkpoint may have or lack: damage to their names goes unnoticed, rightly.
OPTIONAL = ("encoder.", "quant_conv.", "__metadata__")
CUTS, FLIPS, OVERWRITES = 7, 6, 2  # random damages of every component


def read(path):
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def write(path, header, body):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


def first_tensor(header, component):
    """A tensor that the model needs."""
    skipped = OPTIONAL if component == "vae" else OPTIONAL[2:]
    return next(name for name in sorted(header) if not name.startswith(skipped))


def edit(component, change):
    """change(header, name of a needed tensor, body) may give other (header, body)."""
    def damage(model):
        path = model / component / COMPONENTS[component]
        header, body = read(path)
        result = change(header, first_tensor(header, component), body)
        write(path, *(result or (header, body)))
    return damage


def put(component, data):
    return lambda model: (model / component / COMPONENTS[component]).write_bytes(data)


def truncation(component, data, i):
    """Three cuts in the first kilobyte, where the header is, the others anywhere."""
    size = rng("cut", component, i).randrange(1, 1024 if i < 3 else len(data))
    return Case(f"{component}: cut to {size} bytes", BAD_INPUT,
                (component, COMPONENTS[component]), damage=put(component, data[:size]))


def flipped_header(component, data, i):
    """One byte of the header's JSON, in an entry that the model needs, becomes another one."""
    header, _ = read_bytes(data)
    text = data[8 : 8 + struct.unpack("<Q", data[:8])[0]]
    random = rng("flip", component, i)
    needed = [n for n in sorted(header)
              if not n.startswith(OPTIONAL if component == "vae" else OPTIONAL[2:])]
    name = random.choice(needed)
    start = text.index(json.dumps(name).encode())
    at = random.randrange(start, text.index(b"}", start))
    new = random.choice([b for b in range(256) if b != text[at]])
    altered = data[: 8 + at] + bytes([new]) + data[9 + at :]
    return Case(f"{component}: header byte {at} is {new}", BAD_INPUT,
                (component, COMPONENTS[component]), damage=put(component, altered))


def read_bytes(data):
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def overwritten_header(component, data, i):
    """Forty random bytes in the header."""
    random = rng("overwrite", component, i)
    at = random.randrange(8, struct.unpack("<Q", data[:8])[0] - 40)
    noise = random.randbytes(40)
    return Case(f"{component}: noise at byte {at}", BAD_INPUT, (component, COMPONENTS[component]),
                damage=put(component, data[:at] + noise + data[at + 40 :]))


def set_entry(**values):
    def change(header, name, body):
        header[name].update(values)
    return change


def retyped(dtype, item_size):
    """The same number of elements in another dtype, with the offsets that belong to it."""
    def change(header, name, body):
        new_body = b""
        for key in sorted((k for k in header if k != "__metadata__"),
                          key=lambda k: header[k]["data_offsets"]):
            begin, end = header[key]["data_offsets"]
            data = body[begin:end]
            if key == name:
                data = bytes((end - begin) // 4 * item_size)
                header[key]["dtype"] = dtype
            header[key]["data_offsets"] = [len(new_body), len(new_body) + len(data)]
            new_body += data
        return header, new_body
    return change


def reshaped(header, name, body):
    shape = header[name]["shape"]
    header[name]["shape"] = [*shape, 1]


def renamed(header, name, body):
    header[f"{name}.old"] = header.pop(name)


def removed(header, name, body):
    """The tensor and its bytes."""
    begin, end = header.pop(name)["data_offsets"]
    for key, entry in header.items():
        if key != "__metadata__" and entry["data_offsets"][0] >= end:
            entry["data_offsets"] = [o - (end - begin) for o in entry["data_offsets"]]
    return header, body[:begin] + body[end:]


def added(header, name, body):
    header["lora.up.weight"] = {"dtype": "F32", "shape": [1],
                                "data_offsets": [len(body), len(body) + 4]}
    return header, body + bytes(4)


def evil_name(header, name, body):
    header["\x1b[31mred\nline"] = {"dtype": "F32", "shape": [1],
                                   "data_offsets": [len(body), len(body) + 4]}
    return header, body + bytes(4)


def overlapping(header, name, body):
    """The second tensor of the file begins within the first."""
    entries = sorted((e for k, e in header.items() if k != "__metadata__"),
                     key=lambda entry: entry["data_offsets"])
    entries[1]["data_offsets"] = [offset - 4 for offset in entries[1]["data_offsets"]]


def duplicated(header, name, body):
    text = json.dumps(header)
    return (text[:-1] + f', "{name}": {json.dumps(header[name])}}}').encode(), body


def trailing(header, name, body):
    return header, body + b"\0" * 100


def all_of(value):
    """Every weight of the component is this float."""
    return lambda header, name, body: (header, struct.pack("<f", value) * (len(body) // 4))


def sharded(component, change=lambda index: None, keep_shard=True):
    """The component as one shard and an index, the index altered by `change`."""
    def damage(model):
        folder = model / component
        path = folder / COMPONENTS[component]
        header, _ = read(path)
        shard = path.name.replace(".safetensors", "-00001-of-00001.safetensors")
        if keep_shard:
            path.rename(folder / shard)
        else:
            path.unlink()
        index = {"metadata": {"total_size": 1},
                 "weight_map": {name: shard for name in header if name != "__metadata__"}}
        text = change(index)
        (folder / f"{path.name}.index.json").write_text(
            json.dumps(index) if text is None else text)
    return damage


def point_all_to(shard):
    def change(index):
        index["weight_map"] = {name: shard for name in index["weight_map"]}
    return change


def with_map(value):
    def change(index):
        index["weight_map"] = value
    return change


def add_to_map(name):
    def change(index):
        index["weight_map"][name] = next(iter(index["weight_map"].values()))
    return change


def instead_of_file(component, make):
    def damage(model):
        path = model / component / COMPONENTS[component]
        path.unlink()
        make(path)
    return damage


def pickle_only(path):
    (path.parent / "pytorch_model.bin").write_bytes(pickle.dumps({"weight": [1.0]}))


def two_variants(path):
    for variant in ("fp16", "bf16"):
        path.with_name(path.name.replace(".safetensors", f".{variant}.safetensors")).write_bytes(b"")


def cases(model):
    found = []
    for component, file in COMPONENTS.items():
        data = (model / component / file).read_bytes()
        found += [truncation(component, data, i) for i in range(CUTS)]
        found += [flipped_header(component, data, i) for i in range(FLIPS)]
        found += [overwritten_header(component, data, i) for i in range(OVERWRITES)]
        found += per_component(component, file)
    return found + single_files() + shards() + not_files()


def per_component(component, file):
    where = (component, file)

    def case(name, change, *says):
        return Case(f"{component}: {name}", BAD_INPUT, (*where, *says),
                    damage=edit(component, change))
    return [
        case("a tensor renamed", renamed, "missing"),
        case("a tensor removed with its data", removed, "missing"),
        case("one tensor too many", added, "lora.up.weight", "no place"),
        case("dtype I32", retyped("I32", 4), "I32", "F32, F16 and BF16"),
        case("another rank", reshaped, "shape", "the config asks for"),
        Case(f"{component}: empty file", BAD_INPUT, (*where, "empty"), damage=put(component, b"")),
        Case(f"{component}: file missing", BAD_INPUT, (component, "no weights"),
             damage=instead_of_file(component, lambda path: None)),
        Case(f"{component}: header length 2^63", BAD_INPUT, (*where, "header length"),
             damage=put(component, struct.pack("<Q", 2**63) + bytes(1000))),
        Case(f"{component}: all weights NaN", BAD_INPUT, (component, "not finite"), late=True,
             damage=edit(component, all_of(float("nan")))),
    ]


def single_files():
    vae = ("vae/diffusion_pytorch_model.safetensors",)
    huge = 2**62

    def case(name, change, *says):
        return Case(f"weights: {name}", BAD_INPUT, (*vae, *says), damage=edit("vae", change))
    return [
        case("dtype U8", retyped("U8", 1), "U8"),
        case("dtype BOOL", retyped("BOOL", 1), "BOOL"),
        case("dtype I8", retyped("I8", 1), "I8"),
        case("dtype I64", retyped("I64", 8), "I64"),
        case("dtype unknown", set_entry(dtype="F4"), "unknown dtype 'F4'"),
        case("dtype is a number", set_entry(dtype=32), "dtype"),
        case("shape of huge sides", set_entry(shape=[huge, huge, huge]), "too large"),
        case("shape wraps around to 0", set_entry(shape=[2**32, 2**32]), "too large"),
        case("shape is negative", set_entry(shape=[-8]), "-8"),
        case("shape is fractional", set_entry(shape=[8.5]), "8.5"),
        case("shape is null", set_entry(shape=None), "shape"),
        case("shape has 17 sides", set_entry(shape=[1] * 17), "16"),
        case("shape with a zero", set_entry(shape=[0], data_offsets=[0, 0])),
        case("offsets backwards", set_entry(data_offsets=[32, 0]), "backwards"),
        case("offsets negative", set_entry(data_offsets=[-32, 0]), "data_offsets"),
        case("offsets 2^64", set_entry(data_offsets=[2**64, 2**64 + 32]), "data_offsets"),
        case("offsets near 2^64", set_entry(data_offsets=[2**64 - 33, 2**64 - 1])),
        case("offsets are strings", set_entry(data_offsets=["0", "32"]), "data_offsets"),
        case("one offset", set_entry(data_offsets=[0]), "data_offsets"),
        case("offsets overlap", overlapping, "overlap"),
        case("an entry is a number", lambda h, n, b: h.update({n: 5}), "expected an object"),
        case("an entry is empty", lambda h, n, b: h.update({n: {}}), "lacks"),
        case("a tensor given twice", duplicated, "twice"),
        case("bytes after the last tensor", trailing, "after the last tensor"),
        case("a tensor name with control characters", evil_name, "\\x1B"),
        case("metadata is a list", lambda h, n, b: h.update(__metadata__=[]), "__metadata__"),
        case("metadata holds a number", lambda h, n, b: h.update(__metadata__={"a": 1}), "'a'"),
        case("header is a list", lambda h, n, b: (b"[1, 2]", b), "expected an object"),
        case("header is empty", lambda h, n, b: (b"", b"")),
        case("header is {}", lambda h, n, b: (b"{}", b"")),
        case("header nests 100000 lists", lambda h, n, b: (b'{"a":' + b"[" * 100000, b), "nested"),
        case("header holds NaN", lambda h, n, b: (b'{"a": NaN}', b), "syntax error"),
        Case("weights: one infinite weight", BAD_INPUT, ("vae", "not finite"), late=True,
             damage=edit("vae", lambda h, n, b: (h, struct.pack("<f", float("inf")) + b[4:]))),
        Case("weights: header as long as the file says, minus one", BAD_INPUT, vae,
             damage=put("vae", struct.pack("<Q", 100) + b"{" * 99)),
        Case("weights: header length 99999999", BAD_INPUT, vae,
             damage=put("vae", struct.pack("<Q", 99999999) + b"{}")),
        Case("weights: 7 bytes", BAD_INPUT, (*vae, "7 bytes"), damage=put("vae", bytes(7))),
        Case("weights: 8 zero bytes", BAD_INPUT, vae, damage=put("vae", bytes(8))),
        Case("weights: a pickle under the name of a safetensors file", BAD_INPUT,
             (*vae, "pickled"), damage=put("vae", pickle.dumps([1.0] * 100))),
        Case("weights: a git-lfs pointer", BAD_INPUT, vae,
             damage=put("vae", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n")),
        Case("weights: a web page", BAD_INPUT, vae,
             damage=put("vae", b"<!DOCTYPE html><html><body>Not found</body></html>")),
        Case("weights: random bytes", BAD_INPUT, vae,
             damage=put("vae", rng("noise").randbytes(5000))),
    ]


def shards():
    index = "diffusion_pytorch_model.safetensors.index.json"
    file = "diffusion_pytorch_model-00001-of-00001.safetensors"

    def case(name, change, *says, keep_shard=True):
        return Case(f"index: {name}", BAD_INPUT, ("transformer", *says),
                    damage=sharded("transformer", change, keep_shard))

    def shortened(model):
        sharded("transformer")(model)
        path = model / "transformer" / file
        path.write_bytes(path.read_bytes()[:-1])
    return [
        case("shard missing", lambda i: None, file, "shard not found", keep_shard=False),
        case("names a tensor that no shard has", add_to_map("ghost.weight"), file, "ghost.weight"),
        case("lacks a tensor", lambda i: i["weight_map"].pop("proj_out.weight") and None,
             "proj_out.weight", "missing"),
        case("parent folder", point_all_to("../vae/diffusion_pytorch_model.safetensors"), index),
        case("absolute path", point_all_to("/etc/passwd.safetensors"), index, "/etc/passwd"),
        case("not a weight file", point_all_to("config.json"), index, "config.json"),
        case("shard name is empty", point_all_to(""), index),
        case("shard name is a number", point_all_to(7), index),
        case("shard name with a zero byte", point_all_to("a\0.safetensors"), index),
        case("shard is itself", point_all_to(index), index),
        case("weight_map is a list", with_map([]), index, "weight_map"),
        case("weight_map is empty", with_map({}), index, "weight_map"),
        case("weight_map missing", lambda i: i.pop("weight_map") and None, index, "weight_map"),
        case("not JSON", lambda i: "{weight_map", index, "JSON"),
        case("empty file", lambda i: "", index),
        Case("index: shard cut by one byte", BAD_INPUT, (file, "truncated"), damage=shortened),
    ]


def not_files():
    """What else may lie where the weights should be."""
    vae = ("vae/diffusion_pytorch_model.safetensors",)

    def case(name, make, *says, code=BAD_INPUT):
        return Case(f"weights are {name}", code, says, damage=instead_of_file("vae", make))
    found = [
        case("a folder", os.mkdir, *vae, "not a regular file"),
        case("a fifo", os.mkfifo, *vae, "not a regular file"),
        case("a dangling link", lambda p: os.symlink("nowhere", p), *vae, "not found"),
        case("a link to itself", lambda p: os.symlink(p.name, p), *vae, code=IO),
        case("/dev/zero", lambda p: os.symlink("/dev/zero", p), *vae, "not a regular file"),
        case("pickled", pickle_only, "vae/pytorch_model.bin", "pickled"),
        case("two variants", two_variants, "vae", "fp16", "bf16", "several variants"),
    ]
    if os.geteuid() != 0:  # root may read everything
        found.append(Case("weights are unreadable", IO, vae, damage=lambda m: os.chmod(
            m / "vae" / "diffusion_pytorch_model.safetensors", 0)))
    return found
