"""The checks: one model in every format."""

import json

import numpy
import torch
from safetensors.torch import load_file

from formats import names, packed
from formats.models import cast, prefixed, values_of
from formats.program import REQUEST

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def check_names(program, model) -> None:
    """Our own renaming is right, say diffusers' converters."""
    ours = model.tensors("transformer")
    back = names.transformer_to_diffusers(names.transformer_to_bfl(ours))
    wrong = names.same_tensors(ours, back)
    program.tell(not wrong, "names/transformer", wrong or "diffusers' converter undoes ours")
    ours = model.tensors("vae")
    config = json.loads((model.base / "vae" / "config.json").read_text())
    wrong = names.same_tensors(ours, names.vae_to_diffusers(names.vae_to_bfl(ours), config))
    program.tell(not wrong, "names/vae", wrong or "diffusers' converter undoes ours")


def check_diffusers(program, model, guidance: float) -> None:
    """diffusers' own picture of the base."""
    from diffusers import FluxPipeline

    pipeline = FluxPipeline.from_pretrained(model.base, dtype=torch.float32, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    expected = pipeline(
        REQUEST["prompt"],
        width=REQUEST["width"],
        height=REQUEST["height"],
        num_inference_steps=REQUEST["steps"],
        guidance_scale=guidance,
        max_sequence_length=REQUEST["max_sequence_length"],
        generator=torch.Generator("cpu").manual_seed(REQUEST["seed"]),
    ).images[0]
    expected = numpy.array(expected.convert("RGB")).astype(int)
    found = model.folder_picture(program, model.base)
    program.compare(f"diffusers' own picture (std {expected.std():.0f})", found, "", expected, 2)


def check_folders(program, model) -> None:
    everything = ("text_encoder", "text_encoder_2", "transformer", "vae")
    for name, dtype in DTYPES.items():
        folder = model.variant(name, {c: cast(model.tensors(c), dtype) for c in everything})
        expected = model.folder_picture(program, folder)
        # Sharded by transformers' and diffusers' own classes.
        from diffusers import FluxTransformer2DModel
        from transformers import T5EncoderModel

        sharded = model.variant(f"{name}-sharded", {})
        for component, kind in (
            ("transformer", FluxTransformer2DModel),
            ("text_encoder_2", T5EncoderModel),
        ):
            (sharded / component).unlink()
            module = kind.from_pretrained(folder / component, dtype=dtype)
            module.to(dtype).save_pretrained(sharded / component, max_shard_size="4MB")
        for component in ("vae", "text_encoder"):
            (sharded / component).unlink()
            (sharded / component).symlink_to(folder / component)
        if not list((sharded / "transformer").glob("*-of-*")):
            raise RuntimeError("transformer is not sharded")
        program.check(f"folder/{name} sharded", ["-m", sharded], expected)


def all_in_one(model, dtype, transformer=None, t5=None) -> dict:
    """As ComfyUI saves checkpoints."""
    clip = model.tensors("text_encoder")
    width = next(iter(clip.values())).shape[1]
    t5_names = t5 or cast(model.tensors("text_encoder_2"), dtype)
    return {
        **prefixed(
            "model.diffusion_model.",
            transformer or cast(names.transformer_to_bfl(model.tensors("transformer")), dtype),
        ),
        **prefixed("text_encoders.clip_l.transformer.", cast(clip, dtype)),
        "text_encoders.clip_l.transformer.text_projection.weight": torch.eye(width).to(dtype),
        "text_encoders.clip_l.logit_scale": torch.tensor(4.6),
        **prefixed("text_encoders.t5xxl.transformer.", t5_names),
        "text_encoders.t5xxl.logit_scale": torch.tensor(4.6),
        **prefixed("vae.", cast(names.vae_to_bfl(model.tensors("vae")), dtype)),
    }


def check_unquantised(program, model) -> None:
    transformer = model.tensors("transformer")
    bfl = names.transformer_to_bfl(transformer)
    for name, dtype in DTYPES.items():
        folder = model.variant(f"transformer-{name}", {"transformer": cast(transformer, dtype)})
        expected = model.folder_picture(program, folder)
        for what, tensors in (
            ("diffusers names", transformer),
            ("bfl names", bfl),
            ("model.diffusion_model.", prefixed("model.diffusion_model.", bfl)),
            ("diffusion_model.", prefixed("diffusion_model.", bfl)),
            ("transformer.", prefixed("transformer.", transformer)),
            (
                "norm.weight for norm.scale",
                {n.replace("_norm.scale", "_norm.weight"): t for n, t in bfl.items()},
            ),
        ):
            if name != "bf16" and what not in ("bfl names", "diffusers names"):
                continue
            file = model.file(
                f"{what.rstrip('.').replace(' ', '-')}-{name}.safetensors", cast(tensors, dtype)
            )
            program.check(f"file/{name} {what}", ["-m", file, *model.parts()], expected)

        everything = ("text_encoder", "text_encoder_2", "transformer", "vae")
        folder = model.variant(name, {c: cast(model.tensors(c), dtype) for c in everything})
        file = model.file(f"all-in-one-{name}.safetensors", all_in_one(model, dtype))
        program.check(
            f"file/{name} all in one",
            ["-m", file, "--tokenizers", model.base],
            model.folder_picture(program, folder),
        )
        program.check(
            f"file/{name} all in one, parts of it named",
            ["-m", file, "--vae", file, "--t5", file, "--tokenizers", model.base],
            model.folder_picture(program, folder),
        )


def check_parts(program, model) -> None:
    """Parts as files of their own."""
    base = model.folder_picture(program, model.base)
    vae = model.file("ae.safetensors", names.vae_to_bfl(model.tensors("vae")))
    whole = ["-m", model.base]
    program.check("part/vae in bfl names", [*whole, "--vae", vae], base)
    vae = model.file("vae-diffusers.safetensors", model.tensors("vae"))
    program.check("part/vae in diffusers' names", [*whole, "--vae", vae], base)
    decoder = {
        n: t for n, t in names.vae_to_bfl(model.tensors("vae")).items() if n.startswith("decoder.")
    }
    program.check(
        "part/vae, decoder only",
        [*whole, "--vae", model.file("decoder.safetensors", decoder)],
        base,
    )

    clip = model.tensors("text_encoder")
    plain = {n.removeprefix("text_model."): t for n, t in clip.items()}
    width = next(iter(clip.values())).shape[1]
    full = {
        **prefixed("text_model.", plain),
        "text_model.embeddings.position_ids": torch.arange(77)[None],
        "text_projection.weight": torch.eye(width),
        "logit_scale": torch.tensor(4.6),
    }
    for what, tensors in (("plain", plain), ("full", full)):
        file = model.file(f"clip_l-{what}.safetensors", tensors)
        program.check(f"part/clip {what}", [*whole, "--clip-l", file], base)

    t5 = model.tensors("text_encoder_2")
    shared = t5.get("shared.weight", t5.get("encoder.embed_tokens.weight"))
    blocks = {n: t for n, t in t5.items() if n.startswith("encoder.") and "embed_tokens" not in n}
    for what, tensors in (
        ("shared", {"shared.weight": shared, **blocks}),
        ("embed_tokens", {"encoder.embed_tokens.weight": shared, **blocks}),
        (
            "both, and a decoder",
            {
                "shared.weight": shared,
                "encoder.embed_tokens.weight": shared,
                "decoder.block.0.layer.0.SelfAttention.q.weight": torch.ones(2, 2),
                "lm_head.weight": torch.ones(2, 2),
                **blocks,
            },
        ),
    ):
        file = model.file(f"t5-{what.split(',')[0]}.safetensors", tensors)
        program.check(f"part/t5 {what}", [*whole, "--t5", file], base)


def check_t5(program, model) -> None:
    """T5 quantised: as GGUF in llama.cpp's names, and as ComfyUI's files."""
    tensors = model.tensors("text_encoder_2")
    llama = names.t5_to_llama(tensors)
    back = {new: old for old, new in zip(tensors, llama)}

    def check(name, file, values, most):
        ours = {back.get(n, n): t for n, t in values.items()}
        folder = model.variant("t5-" + name.replace(" ", "-"), {"text_encoder_2": ours})
        expected = model.folder_picture(program, folder)
        program.check(f"t5/{name}", ["-m", model.base, "--t5", file], expected, most)

    for kind in [*packed.GGUF_PLAIN, *packed.GGUF_QUANTISED, *packed.GGUF_RANDOM]:
        file = model.root / "files" / f"t5-{kind}.gguf"
        values = packed.write_gguf(file, "t5encoder", llama, kind)
        # The bias table of attention is [buckets, heads]: converters keep it in F32 or F16.
        check(f"gguf {kind}", file, values, 0 if kind in packed.GGUF_PLAIN else 1)

    def is_small(name):
        return "relative_attention_bias" in name

    for name, pack in (
        ("fp8 e4m3fn", packed.fp8(packed.E4M3)),
        ("fp8 scaled", packed.fp8_scaled(packed.E4M3)),
        ("nf4", packed.bnb4("nf4", True)),
    ):
        stored, values = packed.pack_matrices(tensors, pack, keep=is_small)
        if name == "fp8 scaled":
            stored["scaled_fp8"] = torch.zeros(0, dtype=packed.E4M3)
        check(name, model.file(f"t5-{name.replace(' ', '-')}.safetensors", stored), values, 1)


def quantised_reference(program, model, name, values, is_bfl=True, **options):
    values = values_of(values)
    ours = names.transformer_to_diffusers(values) if is_bfl else values
    folder = model.variant(f"values-{name}", {"transformer": ours})
    return model.folder_picture(program, folder, **options)


def check_gguf(program, model) -> None:
    bfl = names.transformer_to_bfl(model.tensors("transformer"))
    for kind in [*packed.GGUF_PLAIN, *packed.GGUF_QUANTISED, *packed.GGUF_RANDOM]:
        file = model.root / "files" / f"flux-{kind}.gguf"
        file.parent.mkdir(exist_ok=True)
        values = packed.write_gguf(file, "flux", bfl, kind)
        expected = quantised_reference(program, model, f"gguf-{kind}", values)
        program.check(
            f"gguf/{kind}",
            ["-m", file, *model.parts()],
            expected,
            0 if kind in packed.GGUF_PLAIN else 1,
        )
    # diffusers' names, as some converters write
    file = model.root / "files" / "flux-diffusers-Q8_0.gguf"
    values = packed.write_gguf(file, "flux", model.tensors("transformer"), "Q8_0", ends="BF16")
    expected = quantised_reference(program, model, "gguf-diffusers", values, is_bfl=False)
    program.check("gguf/Q8_0 in diffusers' names", ["-m", file, *model.parts()], expected, 1)


def is_end(name: str) -> bool:
    return not name.startswith(("double_blocks.", "single_blocks."))


def check_fp8(program, model) -> None:
    bfl = names.transformer_to_bfl(model.tensors("transformer"))
    marker = {"scaled_fp8": torch.zeros(2, dtype=packed.E4M3)}
    for name, pack, more, keep in (
        ("e4m3fn", packed.fp8(packed.E4M3), {}, None),
        ("e5m2", packed.fp8(packed.E5M2), {}, None),
        ("e4m3fn scaled", packed.fp8_scaled(packed.E4M3), marker, is_end),
        ("e5m2 scaled", packed.fp8_scaled(packed.E5M2), marker, None),
        ("e4m3fn scaled, new names", packed.fp8_scaled(packed.E4M3, "new"), {}, is_end),
        ("e4m3fn scaled by rows", packed.fp8_scaled(packed.E4M3, "rows"), {}, None),
    ):
        stored, values = packed.pack_matrices(bfl, pack, keep=keep or (lambda name: False))
        short = name.replace(" ", "-").replace(",", "")
        file = model.file(f"fp8-{short}.safetensors", {**stored, **more})
        expected = quantised_reference(program, model, f"fp8-{short}", values)
        program.check(f"fp8/{name}", ["-m", file, *model.parts()], expected, 1)
    for dtype, name in ((packed.E4M3, "e4m3fn"), (packed.E5M2, "e5m2")):
        stored = cast(bfl, dtype)  # biases and norms too
        file = model.file(f"fp8-all-{name}.safetensors", stored)
        expected = quantised_reference(program, model, f"fp8-all-{name}", stored)
        program.check(
            f"fp8/{name}, biases and norms too", ["-m", file, *model.parts()], expected, 1
        )


def check_mixed_files(program, model) -> None:
    """All-in-one files whose parts are packed in different ways, as people share them."""
    bfl = names.transformer_to_bfl(model.tensors("transformer"))
    t5 = model.tensors("text_encoder_2")
    plain8 = {"transformer": cast(bfl, packed.E4M3), "t5": cast(t5, packed.E4M3)}
    scaled = packed.pack_matrices(bfl, packed.fp8_scaled(packed.E4M3), keep=is_end)
    scaled_t5 = packed.pack_matrices(
        t5, packed.fp8_scaled(packed.E4M3), keep=lambda name: "relative_attention" in name
    )
    nf4 = packed.pack_matrices(bfl, packed.bnb4("nf4", False), other=torch.float16)
    marker = {"scaled_fp8": torch.zeros(0, dtype=packed.E4M3)}
    cases = {  # what the file has of transformer and T5, and the values these stand for
        "fp8": (plain8["transformer"], plain8["t5"], plain8["transformer"], plain8["t5"]),
        "fp8 scaled": (
            {**scaled[0], **marker},
            {**scaled_t5[0], **marker},
            scaled[1],
            scaled_t5[1],
        ),
        "nf4 and fp8": (nf4[0], plain8["t5"], nf4[1], plain8["t5"]),
    }
    for name, (transformer, encoder, values, encoder_values) in cases.items():
        short = name.replace(" ", "-")
        file = model.file(
            f"all-in-one-{short}.safetensors",
            all_in_one(model, torch.bfloat16, transformer, encoder),
        )
        folder = model.variant(
            f"values-all-in-one-{short}",
            {
                "transformer": names.transformer_to_diffusers(values_of(values)),
                "text_encoder_2": values_of(encoder_values),
                "text_encoder": cast(model.tensors("text_encoder"), torch.bfloat16),
                "vae": cast(model.tensors("vae"), torch.bfloat16),
            },
        )
        program.check(
            f"all in one/{name}",
            ["-m", file, "--tokenizers", model.base],
            model.folder_picture(program, folder),
            1,
        )


def check_bitsandbytes(program, model) -> None:
    bfl = names.transformer_to_bfl(model.tensors("transformer"))
    for name, pack in (
        ("nf4", packed.bnb4("nf4", False)),
        ("nf4 nested", packed.bnb4("nf4", True)),
        ("fp4", packed.bnb4("fp4", False)),
        ("fp4 nested", packed.bnb4("fp4", True)),
        ("int8", packed.llm_int8),
    ):
        short = name.replace(" ", "-")
        stored, values = packed.pack_matrices(bfl, pack)
        file = model.file(f"bnb-{short}.safetensors", stored)
        expected = quantised_reference(program, model, f"bnb-{short}", values)
        program.check(f"bnb/{name}, file in bfl names", ["-m", file, *model.parts()], expected, 1)
        check_saved_by_libraries(program, model, name, short)


def bnb_config(name: str, kind):
    if name == "int8":
        return kind(load_in_8bit=True)
    return kind(
        load_in_4bit=True,
        bnb_4bit_quant_type=name.split()[0],
        bnb_4bit_use_double_quant="nested" in name,
        bnb_4bit_compute_dtype=torch.float32,
    )


def quantised_module(component, name, folder):
    """The library's own model, quantised when loaded. diffusers wants a GPU for that, but only
    asks whether there is one: bitsandbytes quantises on the CPU as well."""
    import diffusers
    import transformers
    from diffusers.quantizers.bitsandbytes import bnb_quantizer

    for kind in (bnb_quantizer.BnB4BitDiffusersQuantizer, bnb_quantizer.BnB8BitDiffusersQuantizer):
        kind.validate_environment = lambda self, *args, **kwargs: None
        kind.update_device_map = lambda self, device_map: {"": "cpu"}
    library, kind = {
        "transformer": (diffusers, diffusers.FluxTransformer2DModel),
        "text_encoder_2": (transformers, transformers.T5EncoderModel),
    }[component]
    return kind.from_pretrained(
        folder,
        quantization_config=bnb_config(name, library.BitsAndBytesConfig),
        dtype=torch.float32,
    )


def check_saved_by_libraries(program, model, name, short) -> None:
    """Folders that diffusers and transformers saved with `quantization_config`."""
    folder = model.variant(f"bnb-{short}-saved", {})
    replaced = {}
    for component in ("transformer", "text_encoder_2"):
        module = quantised_module(component, name, model.base / component)
        (folder / component).unlink()
        module.save_pretrained(folder / component)
        stored = {}
        for file in sorted((folder / component).glob("*.safetensors")):
            stored.update(load_file(file))
        if not any(tensor.dtype in (torch.int8, torch.uint8) for tensor in stored.values()):
            raise RuntimeError(f"{component} was not quantised")
        replaced[component] = packed.unpack_bnb_file(stored)
    reference = model.variant(f"values-bnb-{short}-saved", replaced)
    program.check(
        f"bnb/{name}, folder saved by diffusers",
        ["-m", folder],
        model.folder_picture(program, reference),
        1,
    )


def check_dev_files(program, model) -> None:
    transformer = model.tensors("transformer")
    bfl = names.transformer_to_bfl(transformer)
    folder = model.variant("bf16", {"transformer": cast(transformer, torch.bfloat16)})
    file = model.file("dev-bf16.safetensors", cast(bfl, torch.bfloat16))
    program.check(
        "dev/bfl names", ["-m", file, *model.parts()], model.folder_picture(program, folder)
    )
    file = model.root / "files" / "dev-Q8_0.gguf"
    values = packed.write_gguf(file, "flux", bfl, "Q8_0", ends="BF16")
    program.check(
        "dev/gguf Q8_0",
        ["-m", file, *model.parts()],
        quantised_reference(program, model, "dev-Q8_0", values),
        1,
    )
    everything = ("text_encoder", "text_encoder_2", "transformer", "vae")
    folder = model.variant(
        "all-bf16", {c: cast(model.tensors(c), torch.bfloat16) for c in everything}
    )
    file = model.file("dev-all-in-one.safetensors", all_in_one(model, torch.bfloat16))
    program.check(
        "dev/all in one",
        ["-m", file, "--tokenizers", model.base],
        model.folder_picture(program, folder),
    )
