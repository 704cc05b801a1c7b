"""Models of FLUX.1's other variants, made of the goldens' model b: the same tensors but for
x_embedder.weight, which has more columns (goldens/variants). For tests and for
scripts/make_variant_goldens.py."""

import json
import pathlib
import shutil

from weight_files import read_safetensors, write_safetensors

GOLDENS = pathlib.Path(__file__).resolve().parents[1] / "goldens"
CLASSES = {"kontext": "FluxKontextPipeline", "fill": "FluxFillPipeline",
           "control": "FluxControlPipeline"}


def change_json(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def make_variant(kind, root, goldens=GOLDENS / "variants"):
    """Writes a model folder of this kind."""
    shutil.copytree(GOLDENS / "b/model", root)
    change_json(root / "model_index.json", _class_name=CLASSES[kind])
    if kind == "kontext":
        return root
    own = read_safetensors(goldens / f"{kind}-x_embedder.safetensors")
    (in_channels,) = {shape[1] for _, shape, _ in own.values()}
    change_json(root / "transformer/config.json", in_channels=in_channels, out_channels=64)
    for shard in (root / "transformer").glob("*.safetensors"):
        tensors = read_safetensors(shard)
        replaced = {name: own[name] for name in own if name in tensors}
        if replaced:
            write_safetensors(shard, {**tensors, **replaced}, {"format": "pt"})
    return root
