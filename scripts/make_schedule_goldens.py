#!/usr/bin/env python3
"""Writes what diffusers makes with other schedulers, noise levels and shifts than a model's own.

    scripts/make_schedule_goldens.py tests/goldens/schedules

It wants the packages of make_goldens.py. Models are those of goldens/a and goldens/b, in fp32 on
the CPU, the picture and the mask those of goldens/image_to_image. manifest.json lists the pictures
with the options they were made with; tests/cli/sampling_cases.py makes them again.

diffusers' Heun scheduler takes neither sigmas nor mu, so it is given those of the Euler scheduler
here and makes its own steps on them; and image to image would take its evaluations for steps, of
which it leaves some out, so it is told how many steps there are. The levels of ComfyUI and BFL are computed as these
programs do; everything behind them is diffusers.
"""

import math
import sys
from pathlib import Path

import torch
from diffusers import (DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler,
                       FlowMatchHeunDiscreteScheduler, FluxImg2ImgPipeline, FluxInpaintPipeline,
                       FluxPipeline)
from goldens.picture_manifest import write_manifest
from PIL import Image

GOLDENS = Path(__file__).resolve().parent.parent / "tests/goldens"
INPUTS = GOLDENS / "image_to_image"
PROMPT, SEED, GUIDANCE, TOKENS, WIDTH, HEIGHT = "a red apple", 11, 2.5, 24, 48, 32
SIGMAS = [1.0, 0.82, 0.5, 0.13]


class HeunOnEulersSigmas(FlowMatchHeunDiscreteScheduler):
    euler = None

    def set_timesteps(self, num_inference_steps=None, device=None, sigmas=None, mu=None):
        super().set_timesteps(len(sigmas))
        self.euler.set_timesteps(sigmas=sigmas, mu=mu)
        levels, times = self.euler.sigmas, self.euler.timesteps
        self.sigmas = torch.cat([levels[:1], levels[1:-1].repeat_interleave(2), levels[-1:]])
        self.timesteps = torch.cat([times[:1], times[1:].repeat_interleave(2)])


class DpmWithoutMu(DPMSolverMultistepScheduler):
    def set_timesteps(self, num_inference_steps=None, device=None, mu=None):
        super().set_timesteps(num_inference_steps, device)


class GivenLevels(FlowMatchEulerDiscreteScheduler):
    """Sigmas that are what they are: nothing shifts them."""

    levels = None

    def set_timesteps(self, num_inference_steps=None, device=None, sigmas=None, mu=None):
        self.sigmas = torch.tensor(self.levels, dtype=torch.float32)
        self.timesteps = self.sigmas[:-1] * 1000
        self.num_inference_steps = len(self.timesteps)
        self._step_index = self._begin_index = None


def comfyui_levels(steps, is_dev):
    size = 10000 if is_dev else 1000
    table = torch.arange(1, size + 1) / size
    if is_dev:
        table = math.exp(1.15) / (math.exp(1.15) + (1 / table - 1))
    return [float(table[-1 - int(i * (size / steps))]) for i in range(steps)] + [0.0]


def bfl_levels(steps, is_dev):
    levels = torch.linspace(1, 0, steps + 1)
    if is_dev:
        tokens = (WIDTH // 16) * (HEIGHT // 16)
        slope = (1.15 - 0.5) / (4096 - 256)
        mu = math.exp(slope * tokens + 0.5 - slope * 256)
        levels = mu / (mu + (1 / levels - 1))
    return levels.tolist()


def scheduler_for(options, own, is_dev):
    """diffusers' scheduler for these options of steadyflux; `own` is the model's."""
    config = dict(own.config)
    if "shift" in options:
        config.update(shift=options["shift"], use_dynamic_shifting=False)
    euler = FlowMatchEulerDiscreteScheduler.from_config(config)
    if "compat" in options:
        levels = comfyui_levels if options["compat"] == "comfyui" else bfl_levels
        given = GivenLevels.from_config(config)
        given.levels = levels(options["steps"], is_dev)
        return given
    if options.get("scheduler") == "heun":
        heun = HeunOnEulersSigmas()
        heun.euler = euler
        return heun
    if options.get("scheduler") == "dpmpp_2m":
        dynamic = config["use_dynamic_shifting"]
        kind = DPMSolverMultistepScheduler if dynamic else DpmWithoutMu
        return kind(use_flow_sigmas=True, prediction_type="flow_prediction",
                    flow_shift=config["shift"], use_dynamic_shifting=dynamic)
    return euler


# Options of steadyflux. 'image': image to image, with a mask where that is true.
CASES = [
    {"sigmas": SIGMAS},
    {"shift": 2.5, "steps": 4},
    {"sigmas": SIGMAS, "shift": 0.7},
    {"scheduler": "heun", "steps": 4},
    {"scheduler": "heun", "sigmas": SIGMAS, "shift": 2.5},
    {"scheduler": "heun", "steps": 5, "image": {"strength": 0.6, "mask": False}},
    {"scheduler": "heun", "steps": 5, "image": {"strength": 0.6, "mask": True}},
    {"scheduler": "dpmpp_2m", "steps": 6},
    {"scheduler": "dpmpp_2m", "steps": 4, "shift": 2.5},
    {"compat": "comfyui", "steps": 3},
    {"compat": "bfl", "steps": 3},
]
# What T5 pads to, where a program decides.
COMPAT_TOKENS = {"comfyui": (256, 256), "bfl": (256, 512)}  # schnell, dev


def draw(model, options):
    image = options.get("image")
    kind = FluxPipeline if not image else FluxInpaintPipeline if image["mask"] else \
        FluxImg2ImgPipeline
    pipeline = kind.from_pretrained(GOLDENS / model / "model", torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    is_dev = pipeline.transformer.config.guidance_embeds
    pipeline.scheduler = scheduler_for(options, pipeline.scheduler, is_dev)
    inputs = {}
    if image and options.get("scheduler") == "heun":
        of_evaluations = pipeline.get_timesteps
        pipeline.get_timesteps = lambda evaluations, strength, device: of_evaluations(
            (evaluations + 1) // 2, strength, device)
    if image:
        inputs = {"image": Image.open(INPUTS / "picture.png"), "strength": image["strength"]}
        if image["mask"]:
            inputs["mask_image"] = Image.open(INPUTS / "mask.png")
    steps = options.get("steps", len(SIGMAS))
    tokens = COMPAT_TOKENS[options["compat"]][is_dev] if "compat" in options else TOKENS
    if "sigmas" in options:
        inputs["sigmas"] = options["sigmas"]
    return pipeline(prompt=PROMPT, width=WIDTH, height=HEIGHT, num_inference_steps=steps,
                    guidance_scale=GUIDANCE, max_sequence_length=tokens,
                    generator=torch.Generator().manual_seed(SEED), **inputs).images[0]


def main():
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    pictures = []
    for model in ("a", "b"):
        for number, options in enumerate(CASES, start=1):
            name = f"{model}-{number}.png"
            draw(model, options).save(folder / name)
            pictures.append({"file": name, "model": model, "options": options,
                             "guidance": GUIDANCE if model == "b" else None})
    write_manifest(folder, pictures, prompt=PROMPT, seed=SEED, max_sequence_length=TOKENS,
                   width=WIDTH, height=HEIGHT)


if __name__ == "__main__":
    main()
