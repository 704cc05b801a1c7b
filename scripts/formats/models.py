"""Tiny FLUX.1 models as diffusers folders, and folders that differ from them in some components.

Their shapes obey what single files cannot tell, as FLUX.1's do: axes of 1/8, 7/16 and 7/16 of a
head, CLIP heads of 64, 32 norm groups. Rows are of 256 values and more, which K-quants want.
"""

import dataclasses
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from tiny_pipeline import Shape, make_pipeline

SCHNELL = Shape(
    num_attention_heads=8,
    axes_dims_rope=(4, 14, 14),
    clip_hidden_size=256,
    clip_heads=4,
    clip_intermediate_size=512,
    clip_prefix=True,
    t5_d_model=256,
    t5_heads=4,
    t5_d_kv=64,
    t5_d_ff=512,
    block_out_channels=(32, 32, 64, 64),
    norm_num_groups=32,
    tokenizers="real",
)
DEV = dataclasses.replace(SCHNELL, guidance_embeds=True, shift=3.0, use_dynamic_shifting=True)
# More weights than what a process holds anyway, in many units.
LARGE = dataclasses.replace(
    SCHNELL, num_attention_heads=16, num_layers=5, num_single_layers=5, t5_layers=8
)
# Wide, so that a matrix that is being unpacked shows in the peaks.
WIDE = dataclasses.replace(SCHNELL, num_attention_heads=48, num_layers=1, num_single_layers=1)

WEIGHTS = {
    "text_encoder": "model.safetensors",
    "text_encoder_2": "model.safetensors",
    "transformer": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
}


def contiguous(tensors: dict) -> dict:
    return {name: tensor.clone().contiguous() for name, tensor in tensors.items()}


def save(tensors: dict, file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(contiguous(tensors), file, metadata={"format": "pt"})
    return file


def cast(tensors: dict, dtype) -> dict:
    return {name: tensor.to(dtype) for name, tensor in tensors.items()}


def prefixed(prefix: str, tensors: dict) -> dict:
    return {prefix + name: tensor for name, tensor in tensors.items()}


class Model:
    def __init__(self, root: Path, shape: Shape, seed: int):
        self.root = root
        self.base = root / "base"
        if not self.base.exists():
            make_pipeline(self.base, shape, seed)
        self.pictures = {}  # of folders, made once

    def tensors(self, component: str) -> dict:
        return load_file(self.base / component / WEIGHTS[component])

    def parts(self, *without) -> list:
        """The options that name everything beside the transformer."""
        options = {
            "--vae": self.base / "vae",
            "--clip-l": self.base / "text_encoder",
            "--t5": self.base / "text_encoder_2",
            "--tokenizers": self.base,
        }
        return [x for name, path in options.items() if name not in without for x in (name, path)]

    def variant(self, name: str, replaced: dict) -> Path:
        """A folder like the base, with other weights in some components."""
        folder = self.root / "folders" / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for entry in self.base.iterdir():
            if entry.name in replaced:
                (folder / entry.name).mkdir()
                shutil.copyfile(entry / "config.json", folder / entry.name / "config.json")
                save(replaced[entry.name], folder / entry.name / WEIGHTS[entry.name])
            else:
                (folder / entry.name).symlink_to(entry.resolve())
        return folder

    def file(self, name: str, tensors: dict) -> Path:
        return save(tensors, self.root / "files" / name)

    def folder_picture(self, program, folder: Path, **options):
        key = (folder, options.get("dtype", "fp32"))
        if key not in self.pictures:
            found, error = program.picture(
                f"reference-{self.root.name}-{folder.name}", ["-m", folder], **options
            )
            if error:
                raise RuntimeError(f"{folder}: {error}")
            self.pictures[key] = found
        return self.pictures[key]


def values_of(tensors: dict) -> dict:
    return cast(tensors, torch.float32)
