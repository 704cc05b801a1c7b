"""How stable-diffusion.cpp is run beside steadyflux: its single files and its command line.

It always uses 256 tokens of T5, and computes on the CPU with weights in memory of its own.
"""
from single_files import FILES, write_all

TEXT_TOKENS = 256


def single_files(model, work):
    """{part: file} of a folder in the diffusers layout, written into `work` unless they are there."""
    files = {name: work / f"{name}.safetensors" for name in FILES.values()}
    if not all(path.exists() for path in files.values()):
        unfinished = work / "unfinished"
        unfinished.mkdir(parents=True, exist_ok=True)
        write_all(model, unfinished)
        for path in files.values():
            (unfinished / path.name).replace(path)
        unfinished.rmdir()
    return files


def command(program, files, prompt, width, height, steps, seed, threads, picture):
    return [program, "-M", "img_gen", "--diffusion-model", files["flux"], "--vae", files["vae"],
            "--clip_l", files["clip_l"], "--t5xxl", files["t5xxl"], "-p", prompt, "--cfg-scale",
            "1.0", "--sampling-method", "euler", "--steps", steps, "-W", width, "-H", height, "-s",
            seed, "-t", threads, "-o", picture]
