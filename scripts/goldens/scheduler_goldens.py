"""Writes tests/scheduler/goldens.json: schedules of diffusers' FlowMatchEulerDiscreteScheduler,
called the way FluxPipeline calls it, for the C++ scheduler to be compared with bit for bit; and
sampling_goldens.json: the same with sigmas and shifts of one's own, schedules of
DPMSolverMultistepScheduler, and what its steps make of numbers.

Floats are written as the hexadecimal bits of the float32, so nothing is lost in printing.

    python scripts/goldens/scheduler_goldens.py
"""

import json
from pathlib import Path

import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.flux.pipeline_flux import calculate_shift, retrieve_timesteps

FOLDER = Path(__file__).resolve().parents[2] / "tests" / "scheduler"
OUTPUT = FOLDER / "goldens.json"
SAMPLING_OUTPUT = FOLDER / "sampling_goldens.json"

CONFIGS = {
    "schnell": {"shift": 1.0},
    "static shift": {"shift": 3.0},
    "uneven static shift": {"shift": 1.7320508},
    "dev": {"shift": 3.0, "use_dynamic_shifting": True},
    "linear": {"use_dynamic_shifting": True, "time_shift_type": "linear"},
    "other lengths": {
        "use_dynamic_shifting": True,
        "base_shift": 0.3,
        "max_shift": 2.05,
        "base_image_seq_len": 64,
        "max_image_seq_len": 8192,
    },
    "terminal": {"use_dynamic_shifting": True, "shift_terminal": 0.1},
    "static terminal": {"shift": 2.5, "shift_terminal": 0.02},
    "no terminal": {"shift": 2.5, "shift_terminal": 0.0},
    "train timesteps": {"shift": 1.5, "num_train_timesteps": 777},
}
STEPS = [1, 2, 3, 4, 5, 7, 8, 13, 20, 28, 50, 99]
SEQ_LENS = [1, 16, 64, 255, 1024, 4096, 16384]


def bits(tensor):
    return " ".join(f"{word:08x}" for word in tensor.numpy().astype("<f4").view("<u4").tolist())


def schedule(config, steps, seq_len):
    scheduler = FlowMatchEulerDiscreteScheduler(**config)
    mu = calculate_shift(
        seq_len,
        scheduler.config.base_image_seq_len,
        scheduler.config.max_image_seq_len,
        scheduler.config.base_shift,
        scheduler.config.max_shift,
    )
    sigmas = np.linspace(1.0, 1 / steps, steps)
    retrieve_timesteps(scheduler, steps, "cpu", sigmas=sigmas, mu=mu)
    return {
        "steps": steps,
        "image_seq_len": seq_len,
        "mu": float(mu).hex(),
        "sigmas": bits(scheduler.sigmas),
        "timesteps": bits(scheduler.timesteps),
    }


def mu_of(config, seq_len):
    return calculate_shift(seq_len, config.base_image_seq_len, config.max_image_seq_len,
                           config.base_shift, config.max_shift)


def own_schedule(name, sigmas, shift, seq_len=1024):
    """Of an Euler scheduler: sigmas before the shift, a shift in place of its own, or neither."""
    config = dict(CONFIGS[name])
    if shift is not None:
        config.update(shift=shift, use_dynamic_shifting=False)
    scheduler = FlowMatchEulerDiscreteScheduler(**config)
    steps = len(sigmas) if sigmas else 5
    retrieve_timesteps(scheduler, steps, "cpu", mu=mu_of(scheduler.config, seq_len),
                       sigmas=sigmas or np.linspace(1.0, 1 / steps, steps))
    return {"config": CONFIGS[name], "scheduler": "euler", "steps": steps, "sigmas": sigmas or [],
            "shift": shift, "image_seq_len": seq_len, "expected_sigmas": bits(scheduler.sigmas),
            "expected_timesteps": bits(scheduler.timesteps)}


def dpm_schedule(name, steps, seq_len=1024):
    """With what five numbers become in each step, where the model says `velocity` of each."""
    config = CONFIGS[name]
    dynamic = config.get("use_dynamic_shifting", False)
    scheduler = DPMSolverMultistepScheduler(
        use_flow_sigmas=True, prediction_type="flow_prediction", use_dynamic_shifting=dynamic,
        flow_shift=config.get("shift", 1.0))
    mu = mu_of(FlowMatchEulerDiscreteScheduler(**config).config, seq_len)
    scheduler.set_timesteps(steps, mu=mu if dynamic else None)
    scheduler.set_begin_index(0)
    generator = torch.Generator().manual_seed(steps)
    sample = torch.randn(5, generator=generator)
    case = {"config": config, "scheduler": "dpmpp_2m", "steps": steps, "sigmas": [], "shift": None,
            "image_seq_len": seq_len, "expected_sigmas": bits(scheduler.sigmas),
            "expected_timesteps": bits(scheduler.timesteps.float()),
            "latents": [sample.tolist()], "velocities": []}
    for timestep in scheduler.timesteps:
        velocity = torch.randn(5, generator=generator)
        sample = scheduler.step(velocity, timestep, sample).prev_sample
        case["velocities"].append(velocity.tolist())
        case["latents"].append(sample.tolist())
    return case


def sampling_cases():
    sigmas = [1.0, 0.82, 0.5, 0.13]
    for name in ("schnell", "static shift", "dev", "linear"):
        yield own_schedule(name, sigmas, None)
        yield own_schedule(name, sigmas, 2.5)
        yield own_schedule(name, None, 0.7)
    yield own_schedule("dev", [0.9], None)
    for name in ("schnell", "static shift", "dev"):
        for steps in (1, 2, 3, 8, 20):
            yield dpm_schedule(name, steps)


def main():
    with open(SAMPLING_OUTPUT, "w") as file:
        json.dump(list(sampling_cases()), file, indent=1)
        file.write("\n")
    groups = []
    for name, config in CONFIGS.items():
        seq_lens = SEQ_LENS if config.get("use_dynamic_shifting") else [1024]
        cases = []
        for index, steps in enumerate(STEPS):
            if steps == 1 and config.get("shift_terminal"):
                continue  # 0 / 0 in diffusers
            # Every length with the two FLUX.1 step counts, one length with each other count.
            lengths = seq_lens if steps in (4, 28) else [seq_lens[index % len(seq_lens)]]
            cases += [schedule(config, steps, seq_len) for seq_len in lengths]
        groups.append({"name": name, "config": config, "cases": cases})
    with open(OUTPUT, "w") as file:
        json.dump(groups, file, indent=1)
        file.write("\n")
    print(f"{OUTPUT.name}: {sum(len(group['cases']) for group in groups)} schedules")


if __name__ == "__main__":
    main()
