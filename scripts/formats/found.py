"""Where files are found and what is not taken for a model: nothing may be guessed silently."""

import json
import os
import shutil
from pathlib import Path

import numpy
import torch

from formats import names, packed
from formats.models import save
from formats.sources import all_in_one, quantised_reference

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def snapshot(cache: Path, repository: str) -> Path:
    """The folder of a repository in a hub cache."""
    folder = cache / ("models--" + repository.replace("/", "--"))
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(COMMIT)
    (folder / "snapshots" / COMMIT).mkdir(parents=True)
    return folder / "snapshots" / COMMIT


def link_all(source: Path, to: Path, *without) -> None:
    for entry in source.iterdir():
        if entry.name not in without:
            (to / entry.name).symlink_to(entry.resolve())


class Files:
    """Files that the checks put in places."""

    def __init__(self, model):
        self.base = model.base
        bfl = names.transformer_to_bfl(model.tensors("transformer"))
        self.bfl = bfl
        self.flux = model.file("found/flux.safetensors", bfl)
        self.gguf = model.root / "files" / "found" / "flux.gguf"
        self.gguf_values = packed.write_gguf(self.gguf, "flux", bfl, "Q8_0")
        self.vae = model.file("found/ae.safetensors", names.vae_to_bfl(model.tensors("vae")))
        self.clip = model.file("found/clip_l.safetensors", model.tensors("text_encoder"))
        self.t5 = model.file("found/t5xxl.safetensors", model.tensors("text_encoder_2"))
        self.lora = model.file(
            "found/lora.safetensors",
            {
                "transformer.transformer_blocks.0.attn.to_q.lora_A.weight": torch.zeros(4, 256),
                "transformer.transformer_blocks.0.attn.to_q.lora_B.weight": torch.zeros(256, 4),
            },
        )
        self.kohya = model.file(
            "found/kohya.safetensors",
            {
                "lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight": torch.zeros(4, 256),
                "lora_unet_double_blocks_0_img_attn_qkv.lora_up.weight": torch.zeros(768, 4),
                "lora_unet_double_blocks_0_img_attn_qkv.alpha": torch.tensor(4.0),
            },
        )
        self.sd_vae = model.file(
            "found/sd-vae.safetensors",
            {
                "decoder.conv_in.weight": torch.zeros(64, 4, 3, 3),
                "decoder.up.0.block.0.conv1.weight": torch.zeros(64, 64, 3, 3),
                "post_quant_conv.weight": torch.zeros(4, 4, 1, 1),
            },
        )

    def tokenizers(self, to: Path) -> None:
        for name in ("tokenizer", "tokenizer_2"):
            (to / name).symlink_to(self.base / name)


def check_found(program, model) -> None:
    files = Files(model)
    expected = model.folder_picture(program, model.base)
    root = fresh(model.root / "found")

    beside = fresh(root / "beside")
    for file in (files.flux, files.vae, files.clip, files.t5, files.lora, files.sd_vae):
        shutil.copy(file, beside)
    files.tokenizers(beside)
    flux = beside / "flux.safetensors"
    program.check("found/files beside, and others", ["-m", flux], expected)
    program.check("found/the file in a folder", ["-m", beside], expected)

    beside = fresh(root / "folders")
    link_all(files.base, beside, "transformer", "model_index.json", "scheduler")
    shutil.copy(files.flux, beside)
    program.check("found/diffusers folders beside", ["-m", beside / "flux.safetensors"], expected)

    # As the hub's repositories have it: the single file beside a whole diffusers model.
    both = beside = fresh(root / "both")
    link_all(files.base, beside)
    shutil.copy(files.flux, beside / "flux1.safetensors")
    program.check(
        "found/single file in a diffusers folder", ["-m", beside / "flux1.safetensors"], expected
    )
    program.check("found/that folder itself", ["-m", beside], expected)

    cache = fresh(root / "hub")
    link_all(files.base, snapshot(cache, "black-forest-labs/FLUX.1-schnell"))
    hub = {"HF_HUB_CACHE": str(cache)}
    alone = fresh(root / "alone")
    shutil.copy(files.flux, alone)
    program.check(
        "found/parts in the hub's cache",
        ["-m", alone / "flux.safetensors"],
        expected,
        environment=hub,
    )
    program.check(
        "found/hub id", ["-m", "black-forest-labs/FLUX.1-schnell"], expected, environment=hub
    )
    blobs = fresh(root / "blobs-hub")
    linked = snapshot(blobs, "org/flux")
    blob = linked.parent.parent / "blobs" / "4d7a2146"
    blob.parent.mkdir()
    shutil.copy(files.flux, blob)
    (linked / "flux.safetensors").symlink_to(Path("../../blobs/4d7a2146"))
    link_all(files.base, snapshot(blobs, "black-forest-labs/FLUX.1-schnell"))
    program.check(
        "found/hub file that is a link to a blob",
        ["-m", "org/flux/flux.safetensors"],
        expected,
        environment={"HF_HUB_CACHE": str(blobs)},
    )
    os.chdir(both)
    program.check("found/relative path", ["-m", "flux1.safetensors"], expected)

    quantised = quantised_reference(program, model, "found-gguf", files.gguf_values)
    gguf = snapshot(cache, "city96/FLUX.1-schnell-gguf")
    shutil.copy(files.gguf, gguf / "flux1-Q8_0.gguf")
    (gguf / "more").mkdir()
    shutil.copy(files.gguf, gguf / "more" / "flux1-Q8_0.gguf")
    for name in ("flux1-Q8_0.gguf", "more/flux1-Q8_0.gguf"):
        program.check(
            f"found/hub file {name}",
            ["-m", f"city96/FLUX.1-schnell-gguf/{name}"],
            quantised,
            1,
            environment=hub,
        )
    program.check(
        "found/hub id of a single file",
        ["-m", "city96/FLUX.1-schnell-gguf"],
        quantised,
        1,
        environment=hub,
    )

    comfy = fresh(root / "comfy" / "models")
    for folder in ("unet", "diffusion_models", "checkpoints", "vae", "clip", "text_encoders"):
        (comfy / folder).mkdir()
    shutil.copy(files.gguf, comfy / "unet")
    shutil.copy(files.flux, comfy / "diffusion_models")
    shutil.copy(files.vae, comfy / "vae")
    shutil.copy(files.sd_vae, comfy / "vae")
    shutil.copy(files.clip, comfy / "clip")
    shutil.copy(files.t5, comfy / "text_encoders")
    tokenizers = ["--tokenizers", files.base]
    program.check("found/comfyui unet", ["-m", comfy / "unet/flux.gguf", *tokenizers], quantised, 1)
    program.check(
        "found/comfyui diffusion_models",
        ["-m", comfy / "diffusion_models/flux.safetensors", *tokenizers],
        expected,
    )
    whole = save(all_in_one(model, torch.float32), comfy / "checkpoints" / "whole.safetensors")
    program.check(
        "found/comfyui checkpoints, tokenizers of the cache",
        ["-m", whole],
        expected,
        environment=hub,
    )
    program.check(
        "found/STEADYFLUX_MODEL", tokenizers, expected, environment={"STEADYFLUX_MODEL": str(whole)}
    )

    shutil.copy(files.t5, comfy / "text_encoders" / "t5xxl_fp8.safetensors")
    model_file = comfy / "unet/flux.gguf"
    program.check_refusal(
        "found/two T5",
        ["-m", model_file, *tokenizers],
        "--t5",
        "t5xxl_fp8.safetensors",
        "t5xxl.safetensors",
    )
    program.check(
        "found/two T5, one named", ["-m", model_file, *tokenizers, "--t5", files.t5], quantised, 1
    )
    shutil.copy(files.vae, comfy / "vae" / "other.safetensors")
    program.check_refusal(
        "found/two VAEs", ["-m", model_file, *tokenizers, "--t5", files.t5], "--vae"
    )
    shutil.copy(files.flux, comfy / "unet" / "flux.safetensors")
    program.check_refusal(
        "found/a folder with two models", ["-m", comfy / "unet"], "flux.gguf", "flux.safetensors"
    )

    check_foreign_parts(program, model, files, root, expected)


def check_foreign_parts(program, model, files, root, expected) -> None:
    """Other pipelines in the hub's cache have components of the same shapes: SD3's VAE (other
    scaling), fine-tuned CLIPs. FLUX.1's are further down the alphabet."""
    cache = fresh(root / "foreign-hub")
    other = snapshot(cache, "aaa/stable-diffusion-3")
    (other / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusion3Pipeline"}))
    vae = {n: 0.9 * t for n, t in model.tensors("vae").items()}
    save(vae, other / "vae" / "diffusion_pytorch_model.safetensors")
    config = json.loads((files.base / "vae" / "config.json").read_text())
    config.update(scaling_factor=1.5305, shift_factor=0.0609)
    (other / "vae" / "config.json").write_text(json.dumps(config))
    clip = {n: 0.9 * t for n, t in model.tensors("text_encoder").items()}
    save(clip, other / "text_encoder" / "model.safetensors")
    shutil.copy(files.base / "text_encoder" / "config.json", other / "text_encoder")
    link_all(files.base, snapshot(cache, "black-forest-labs/FLUX.1-schnell"))
    alone = root / "alone" / "flux.safetensors"
    several = snapshot(cache, "aaa/text-encoders")
    for name in ("t5xxl_fp16", "t5xxl_fp8"):
        shutil.copy(files.t5, several / f"{name}.safetensors")
    program.check(
        "found/several T5 in another repository of the cache",
        ["-m", alone, *model.parts("--t5")],
        expected,
        environment={"HF_HUB_CACHE": str(cache)},
    )
    shutil.rmtree(cache / "models--aaa--text-encoders")
    program.check(
        "found/another pipeline in the cache is not taken",
        ["-m", alone],
        expected,
        environment={"HF_HUB_CACHE": str(cache)},
    )


def write_wrong_models(model) -> dict:
    """Name -> (file, what the message must say)."""
    zeros = torch.zeros

    def file(name, tensors):
        return model.file(f"wrong/{name}.safetensors", tensors)

    bfl = names.transformer_to_bfl(model.tensors("transformer"))
    sdxl = {
        "model.diffusion_model.input_blocks.0.0.weight": zeros(32, 4, 3, 3),
        "model.diffusion_model.label_emb.0.0.weight": zeros(8, 2816),
        "conditioner.embedders.0.transformer.text_model.embeddings.token_embedding.weight": zeros(
            8, 8
        ),
        "first_stage_model.decoder.conv_in.weight": zeros(8, 4, 3, 3),
    }
    sd1 = {
        "model.diffusion_model.input_blocks.0.0.weight": zeros(32, 4, 3, 3),
        "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": zeros(
            8, 768
        ),
        "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight": zeros(8, 8),
    }
    wide = {**bfl, "img_in.weight": zeros(256, 384)}
    control = {**bfl, "img_in.weight": zeros(256, 128)}
    flux2 = {**bfl, "double_stream_modulation_img.lin.weight": zeros(8, 8)}
    chroma = {n: t for n, t in bfl.items() if not n.startswith("vector_in.")}
    chroma["distilled_guidance_layer.in_proj.weight"] = zeros(8, 8)
    gap = {n: t for n, t in bfl.items() if not n.startswith("double_blocks.0.")}
    lacking = {n: t for n, t in bfl.items() if n != "double_blocks.1.txt_mlp.2.bias"}
    extra = {**bfl, "double_blocks.0.surprise.weight": zeros(2, 2)}
    stored, _ = packed.pack_matrices(bfl, packed.bnb4("nf4", True))
    headless = {n: t for n, t in stored.items() if n != "txt_in.weight.absmax"}
    quanto = {}
    for name, tensor in bfl.items():
        if tensor.dim() == 2:
            quanto[name + "._data"] = tensor.to(torch.int8)
            quanto[name + "._scale"] = zeros(tensor.shape[0], 1)
        else:
            quanto[name] = tensor
    int8 = {n: t.to(torch.int8) if t.dim() == 2 else t for n, t in bfl.items()}
    doubled = {**bfl, "img_in.scale_weight": torch.tensor(2.0)}
    nvfp4 = {}
    for name, tensor in bfl.items():
        nvfp4[name] = tensor
        if name.endswith("img_mlp.0.weight"):
            nvfp4[name] = zeros(tensor.shape[0], tensor.shape[1] // 2, dtype=torch.uint8)
            nvfp4[name.replace(".weight", ".weight_scale")] = zeros(
                tensor.shape[0], tensor.shape[1] // 16
            ).to(packed.E4M3)
            nvfp4[name.replace(".weight", ".weight_scale_2")] = torch.tensor(1.0)
    return {
        "SDXL": (file("sdxl", sdxl), "Stable Diffusion XL"),
        "SD 1.5": (file("sd1", sd1), "Stable Diffusion 1"),
        "VAE": (file("vae", names.vae_to_bfl(model.tensors("vae"))), "VAE"),
        "T5": (file("t5", model.tensors("text_encoder_2")), "T5"),
        "CLIP": (file("clip", model.tensors("text_encoder")), "CLIP"),
        "Fill": (file("fill", wide), "FLUX.1-Fill"),
        "Depth": (file("depth", control), "Depth"),
        "FLUX.2": (file("flux2", flux2), "FLUX.2"),
        "Chroma": (file("chroma", chroma), "Chroma"),
        "no first block": (file("gap", gap), ""),
        "a tensor lacking": (file("lacking", lacking), "ff_context.net.2.bias"),
        "a tensor more": (file("extra", extra), "surprise"),
        "nf4 without absmax": (file("absmax", headless), "absmax"),
        "quanto": (file("quanto", quanto), ""),
        "int8 without scales": (file("int8", int8), "I8"),
        "a scale beside plain weights": (file("doubled", doubled), "scale_weight"),
        "nvfp4": (file("nvfp4", nvfp4), ""),
        "unknown": (file("unknown", {"a": zeros(2)}), "unknown"),
    }


def write_damaged_files(model, files) -> dict:
    root = fresh(model.root / "files" / "damaged")

    def put(name, data):
        (root / name).write_bytes(data)
        return root / name

    checkpoint = root / "model.ckpt"
    torch.save({"state_dict": {"a": torch.zeros(2)}}, checkpoint)
    old = root / "old.pt"
    torch.save({"a": torch.zeros(2)}, old, _use_new_zipfile_serialization=False)
    renamed = root / "renamed.safetensors"
    shutil.copy(checkpoint, renamed)
    pointer = (
        b"version https://git-lfs.github.com/spec/v1\n"
        b"oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\n"
        b"size 23802932552\n"
    )
    import gguf

    llama = root / "llama.gguf"
    writer = gguf.GGUFWriter(str(llama), "llama")
    for name in ("token_embd.weight", "blk.0.attn_q.weight"):
        writer.add_tensor(name, numpy.zeros((32, 32), dtype=numpy.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    iq2 = root / "iq2.gguf"
    writer = gguf.GGUFWriter(str(iq2), "flux")
    kind = gguf.GGMLQuantizationType.IQ2_XXS
    data = numpy.zeros((4, gguf.GGML_QUANT_SIZES[kind][1]), dtype=numpy.uint8)
    writer.add_tensor("double_blocks.0.img_attn.qkv.weight", data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    half = files.flux.read_bytes()
    return {
        ".ckpt": (checkpoint, "pickle"),
        "an old .pt": (old, "pickle"),
        ".ckpt called .safetensors": (renamed, "pickle"),
        "an empty file": (put("empty.safetensors", b""), ""),
        "text": (put("text.safetensors", b"hello, this is no model\n" * 9), ""),
        "a Git LFS pointer": (put("lfs.safetensors", pointer), "Git LFS"),
        "half a file": (put("half.safetensors", half[: len(half) // 2]), "truncated"),
        "half a GGUF": (put("half.gguf", files.gguf.read_bytes()[:200000]), "truncated"),
        "a page of HTML": (put("page.safetensors", b"<!DOCTYPE html><html><body>404" * 9), ""),
        "a language model in GGUF": (llama, "language model"),
        "a GGUF type that is not read": (iq2, "IQ2_XXS"),
        "no such file": (root / "none.safetensors", "no such file"),
        "no such .ckpt": (root / "none.ckpt", "no such"),
    }


def check_wrong(program, model) -> None:
    files = Files(model)
    parts = model.parts()
    wrong = {**write_wrong_models(model), **write_damaged_files(model, files)}
    wrong["LoRA"] = (files.lora, "LoRA")
    wrong["LoRA in kohya's names"] = (files.kohya, "LoRA")
    wrong["a hub id that is not in the cache"] = ("org/name", "hf download org/name")
    wrong["a hub file that is not in the cache"] = (
        "org/name/a/flux.gguf",
        "hf download org/name a/flux.gguf",
    )
    for name, (file, part) in wrong.items():
        program.check_refusal(f"wrong/{name} as model", ["-m", file, *parts], str(file), part)
    for option, expects, given in (
        (
            "--vae",
            "VAE of FLUX.1",
            {
                "T5": files.t5,
                "transformer": files.flux,
                "an SD VAE": files.sd_vae,
                "LoRA": files.lora,
            },
        ),
        ("--t5", "T5 encoder", {"VAE": files.vae, "CLIP": files.clip}),
        ("--clip-l", "CLIP-L text encoder", {"T5": files.t5}),
    ):
        for name, file in given.items():
            for model_name, path in (("file", files.flux), ("folder", files.base)):
                program.check_refusal(
                    f"wrong/{name} as {option}, {model_name}",
                    ["-m", path, *model.parts(option), option, file],
                    str(file),
                    expects,
                )
    program.check_refusal(
        "wrong/--vae is not there",
        ["-m", files.flux, *model.parts("--vae"), "--vae", "/no/vae.safetensors"],
        "/no/vae.safetensors",
    )
    program.check_refusal(
        "wrong/--tokenizers has none",
        ["-m", files.flux, *model.parts("--tokenizers"), "--tokenizers", files.flux.parent],
        "tokenizer",
    )
    lonely = fresh(model.root / "lonely")
    shutil.copy(files.flux, lonely)
    flux = lonely / "flux.safetensors"
    program.check_refusal(
        "wrong/all parts missing",
        ["-m", flux],
        "hf download",
        "vae/*",
        "text_encoder/*",
        "text_encoder_2/*",
        "tokenizer/*",
        "--vae",
    )
    program.check_refusal(
        "wrong/T5 missing", ["-m", flux, *model.parts("--t5")], "hf download", "text_encoder_2/*"
    )
    program.check_refusal("wrong/an empty folder", ["-m", fresh(model.root / "empty")], "")
    t5_base = {n: torch.cat([t, t], dim=-1) for n, t in model.tensors("text_encoder_2").items()}
    file = model.file("wrong/t5-wide.safetensors", t5_base)
    program.check_refusal(
        "wrong/T5 of another width",
        ["-m", files.flux, *model.parts("--t5"), "--t5", file],
        "512",
        "256",
    )
    pipeline = fresh(model.root / "flux2")
    link_all(files.base, pipeline, "model_index.json")
    (pipeline / "model_index.json").write_text(json.dumps({"_class_name": "Flux2Pipeline"}))
    program.check_refusal("wrong/a folder of FLUX.2", ["-m", pipeline], "Flux2Pipeline")
