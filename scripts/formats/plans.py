"""What plans say of packed weights, and that no plan changes a picture."""

import json
import re

import torch
from safetensors.torch import load_file

from formats import models, names, packed
from formats.models import cast
from formats.program import REQUEST
from formats.sources import quantised_reference


def packed_files(model, which=None) -> dict:
    """Name -> (the transformer's file, the values it stands for in BFL names)."""
    bfl = names.transformer_to_bfl(model.tensors("transformer"))
    files = {}

    def wanted(name):
        return which is None or name in which

    for name, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        if wanted(name):
            stored = cast(bfl, dtype)
            files[name] = (model.file(f"{name}.safetensors", stored), stored)
    for kind in ("Q8_0", "Q5_1", "Q4_0", "Q2_K", "Q4_K", "Q6_K", "IQ4_XS"):
        if wanted(kind):
            path = model.root / "files" / f"{kind}.gguf"
            path.parent.mkdir(parents=True, exist_ok=True)
            files[kind] = (path, packed.write_gguf(path, "flux", bfl, kind, ends="BF16"))
    for name, pack in (
        ("fp8", packed.fp8(packed.E4M3)),
        ("fp8-scaled", packed.fp8_scaled(packed.E4M3)),
        ("nf4", packed.bnb4("nf4", True)),
        ("fp4", packed.bnb4("fp4", False)),
        ("int8", packed.llm_int8),
    ):
        if wanted(name):
            stored, values = packed.pack_matrices(bfl, pack)
            files[name] = (model.file(f"{name}.safetensors", stored), values)
    if wanted("fp8-all"):
        stored = cast(bfl, packed.E4M3)
        files["fp8-all"] = (model.file("fp8-all.safetensors", stored), stored)
    return files


def check_bf16(program, model) -> None:
    """Computed in bf16 and fp16: the values rounded to these are the folder's, so the pictures are
    the same; where a product's last bit differs that spreads, so the limit is that of parity.py."""
    for name, (file, values) in packed_files(model).items():
        for dtype in ("bf16", "fp16"):
            expected = quantised_reference(program, model, name, values, dtype=dtype)
            program.check(
                f"{dtype}/{name}", ["-m", file, *model.parts()], expected, 255, mean=3, dtype=dtype
            )


def plan(program, file_options, *more) -> tuple:
    result = program.run(*("plan", *file_options, *program.request(), "--json", *more))
    try:
        return result.returncode, json.loads(result.stdout), result.stderr.strip()
    except ValueError:
        return result.returncode, {}, result.stderr.strip()


def least_ram(program, options, dtype="fp32") -> int:
    """The smallest --max-ram that the program itself proposes, in MiB."""
    code, _, text = plan(program, options, "--dtype", dtype, "--max-ram", "1MiB")
    found = re.search(r"([0-9.]+) (MiB|GiB) of RAM would do", text)
    if code != 4 or not found:
        raise RuntimeError(f"no proposal in: {text}")
    size = float(found[1]) * (1024 if found[2] == "GiB" else 1)
    return int(size) + 1


def check_streaming(program, model) -> None:
    """Pictures made with weights that are read from the file in every step."""
    large = models.Model(model.root.parent / "large", models.LARGE, 3)
    cases = {name: ["-m", file, *large.parts()] for name, (file, _) in packed_files(large).items()}
    t5 = names.t5_to_llama(large.tensors("text_encoder_2"))
    path = large.root / "files" / "t5-Q4_K.gguf"
    packed.write_gguf(path, "t5encoder", t5, "Q4_K")
    cases["t5 Q4_K"] = ["-m", large.base, "--t5", path]
    for name, options in cases.items():
        expected, error = program.picture(f"resident-{name}", options)
        if error:
            program.tell(False, f"streaming/{name}", error)
            continue
        least = least_ram(program, options)
        for ram in (least, least + 16):
            _, found, _ = plan(program, options, "--dtype", "fp32", "--max-ram", f"{ram}MiB")
            streamed = sum(
                weights["units"]["disk"]["count"]
                for phase in found["phases"]
                for weights in phase["weights"]
            )
            if streamed == 0 and ram == least:
                program.tell(False, f"streaming/{name} at {ram} MiB", "the plan streams nothing")
            program.check(
                f"streaming/{name} at {ram} MiB, {streamed} units read",
                ["--max-ram", f"{ram}MiB", *options],
                expected,
            )


ROW = re.compile(
    r"^(encode|modulate|denoise|decode|total)\s+[0-9.]+\s+([0-9.]+) (MiB|GiB)\s+"
    r"([0-9.]+) (MiB|GiB)\s+([+-]?[0-9.]+)%",
    re.M,
)


def measured(program, options, *more) -> dict:
    """Phase -> (predicted MiB, measured MiB) of a picture made with -v."""
    output = program.pictures / "measured.png"
    result = program.run(
        *("generate", *options, *program.request(), "--no-cache", "-v"),
        *("-o", output, *more, "--", REQUEST["prompt"]),
    )
    text = result.stdout + result.stderr
    factor = {"MiB": 1, "GiB": 1024}
    rows = {
        row[0]: (float(row[3]) * factor[row[4]], float(row[1]) * factor[row[2]])
        for row in ROW.findall(text)
    }
    if "total" not in rows:
        raise RuntimeError(f"no table in: {text}")
    return rows


def bytes_of_files(options) -> int:
    """Without the VAE's encoder, which is not read."""
    total = 0
    for path in {options[i + 1] for i in range(0, len(options), 2) if options[i] != "--tokenizers"}:
        for file in [path] if path.is_file() else path.rglob("*.safetensors"):
            total += file.stat().st_size
            if path.name == "vae":
                total -= sum(t.nbytes for n, t in load_file(file).items() if "encoder." in n)
    return total


def check_plans(program, model) -> None:
    """Bytes in the files, and the peak of RAM; a plan must not promise too little."""
    wide = models.Model(model.root.parent / "wide", models.WIDE, 4)
    which = ("bf16", "Q8_0", "Q4_K", "fp8-scaled", "nf4", "int8")
    for name, (file, _) in packed_files(wide, which).items():
        options = ["-m", file, *wide.parts()]
        for dtype in ("fp32", "bf16"):
            check_plan(program, f"plan/{name} in {dtype}", options, dtype)


def check_plan(program, name, options, dtype) -> None:
    _, found, error = plan(program, options, "--dtype", dtype)
    if not found:
        program.tell(False, name, error)
        return
    stored, files = found["disk_bytes"], bytes_of_files(options)
    # The rest of a file is its header, of about a hundred bytes a tensor.
    program.tell(
        0.997 * files <= stored <= files,
        f"{name}, bytes of the files",
        f"{stored} of {files} ({100 * (stored / files - 1):+.2f} %)",
    )
    least = f"{least_ram(program, options, dtype)}MiB"
    for what, more in (("no limit", []), (f"--max-ram {least}", ["--max-ram", least])):
        try:
            rows = measured(program, options, "--dtype", dtype, *more)
        except RuntimeError as error:
            program.tell(False, f"{name}, {what}", str(error))
            continue
        text = ", ".join(
            f"{phase} {100 * (taken / expected - 1):+.1f}%"
            for phase, (expected, taken) in rows.items()
        )
        expected, taken = rows["total"]
        # What the process has of its own is a share of these small peaks, and is not the same in
        # every run.
        ok = -0.15 <= taken / expected - 1 <= 0.03
        program.tell(ok, f"{name}, {what}", f"{expected:.0f} MiB: {text}")
