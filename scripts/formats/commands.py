"""Every command with single files and named parts, not `generate` alone."""

import json
import shutil

from formats.found import Files, fresh
from formats.program import PROMPT, REQUEST
from formats.sources import quantised_reference


def check_commands(program, model) -> None:
    files = Files(model)
    expected = quantised_reference(program, model, "commands", files.gguf_values)
    root = fresh(model.root / "commands")
    one = ["-m", files.gguf, *model.parts()]

    def done(name, *arguments, says=""):
        result = program.run(*arguments)
        said = (result.stderr.strip() or result.stdout.strip())[:300]
        ok = result.returncode == 0 and says in result.stdout + result.stderr
        program.tell(ok, name, "done" if ok else f"exit {result.returncode}: {said}")
        return ok

    def compare(name, file):
        import numpy
        from PIL import Image

        found = numpy.array(Image.open(file).convert("RGB")).astype(int)
        program.compare(name, found, "", expected, 1)

    small = [*program.request(), "--dtype", "fp32"]
    prompts = root / "prompts.txt"
    prompts.write_text(PROMPT + "\n")
    out = root / "batch"
    if done(
        "commands/batch",
        "batch",
        prompts,
        *one,
        *small,
        "-s",
        REQUEST["seed"],
        "--no-cache",
        "-q",
        "-o",
        out,
    ):
        pictures = sorted(out.rglob("*.png"))
        program.tell(len(pictures) == 1, "commands/batch wrote", f"{len(pictures)} pictures")
        compare("commands/batch, its picture", pictures[0])

    embeds = root / "embeds.safetensors"
    encode = [
        *("--max-sequence-length", REQUEST["max_sequence_length"], "--device", "cpu"),
        *("--threads", 1, "--dtype", "fp32"),
    ]
    if done("commands/encode", "encode", PROMPT, *one, *encode, "-q", "-o", embeds):
        picture = root / "embeds.png"
        if done(
            "commands/--prompt-embeds",
            "generate",
            *one,
            *small,
            "-s",
            REQUEST["seed"],
            "--prompt-embeds",
            embeds,
            "-q",
            "-o",
            picture,
        ):
            compare("commands/--prompt-embeds, its picture", picture)
        # What has the embeddings needs neither encoders nor tokenizers.
        lonely = fresh(root / "lonely")
        shutil.copy(files.gguf, lonely)
        done(
            "commands/--prompt-embeds without encoders",
            "generate",
            "-m",
            lonely / "flux.gguf",
            "--vae",
            files.vae,
            *small,
            "--prompt-embeds",
            embeds,
            "-q",
            "-o",
            picture,
        )

    picture = root / "first.png"
    if done(
        "commands/generate",
        "generate",
        *one,
        *small,
        "-s",
        REQUEST["seed"],
        "--no-cache",
        "-q",
        "-o",
        picture,
        "--",
        PROMPT,
    ):
        again = root / "again.png"
        if done(
            "commands/--from with parts",
            "generate",
            "--from",
            picture,
            *one,
            "--threads",
            1,
            "--no-cache",
            "-q",
            "-o",
            again,
        ):
            compare("commands/--from with parts, its picture", again)
    beside = fresh(root / "beside")
    for file in (files.gguf, files.vae, files.clip, files.t5):
        shutil.copy(file, beside)
    files.tokenizers(beside)
    flux = beside / "flux.gguf"
    if done(
        "commands/generate, parts beside",
        "generate",
        "-m",
        flux,
        *small,
        "-s",
        REQUEST["seed"],
        "--no-cache",
        "-q",
        "-o",
        picture,
        "--",
        PROMPT,
    ):
        again = root / "alone.png"
        if done(
            "commands/--from alone",
            "generate",
            "--from",
            picture,
            "--threads",
            1,
            "--no-cache",
            "-q",
            "-o",
            again,
        ):
            compare("commands/--from alone, its picture", again)

    cached = [*one, *small, "-s", REQUEST["seed"], "-q", "-o", root / "cached.png", "--", PROMPT]
    done("commands/cache, kept", "generate", *cached)
    done("commands/cache, found", "generate", *cached)
    compare("commands/cache, its picture", root / "cached.png")

    for file, says in (
        (files.gguf, "FLUX.1-schnell"),
        (files.flux, "FLUX.1-schnell"),
        (files.vae, "VAE"),
        (files.t5, "T5"),
        (files.lora, "LoRA"),
    ):
        done(f"commands/inspect {file.name}", "inspect", file, says=says)
    result = program.run("doctor", "-m", flux, "--json")
    program.tell(
        "damaged" not in result.stdout and "not a folder" not in result.stdout,
        "commands/doctor",
        result.stdout.strip()[-200:].replace("\n", " "),
    )
    result = program.run("plan", *one, *small, "--json")
    found = json.loads(result.stdout or "{}")
    program.tell(
        result.returncode == 0, "commands/plan", str(found.get("workload", {}).get("stored_dtypes"))
    )
