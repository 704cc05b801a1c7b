#!/usr/bin/env python3
"""Writes what diffusers makes with its first block cache.

    scripts/make_step_cache_goldens.py tests/goldens/step_cache

It wants the packages of make_goldens.py. Models are those of goldens/a and goldens/b, in fp32 on
the CPU. manifest.json lists the pictures with the options they were made with and how many passes
through the blocks were whole and how many reused; tests/cli/step_cache_cases.py makes them again.
Passes that change the picture by about the threshold would be decided by rounding: there are none.
"""

import sys
from pathlib import Path

import torch
from diffusers import FirstBlockCacheConfig, FluxPipeline
from diffusers.hooks import first_block_cache
from goldens.picture_manifest import write_manifest

GOLDENS = Path(__file__).resolve().parent.parent / "tests/goldens"
PROMPT, SEED, GUIDANCE, TOKENS, WIDTH, HEIGHT = "a red apple", 11, 2.5, 24, 48, 32

# Options of steadyflux. Random weights change a picture more from step to step than others do.
CASES = [
    {"steps": 12, "cache-threshold": 0.5},
    {"steps": 20, "cache-threshold": 0.6},
    {"steps": 10, "cache-threshold": 0.6, "negative-prompt": "a lighthouse", "true-cfg-scale": 3},
]


class Decisions:
    """Counts what diffusers' hook decides."""

    def __init__(self, threshold):
        self.threshold, self.computed, self.reused = threshold, 0, 0

    def watch(self):
        hook = first_block_cache.FBCHeadBlockHook
        decide = hook._should_compute_remaining_blocks

        def watched(this, residual):
            state = this.state_manager.get_state()
            before = state.head_block_residual
            if before is not None:
                change = ((residual - before).abs().mean() / before.abs().mean()).item()
                assert abs(change / self.threshold - 1) > 0.002, f"{change} is too close"
            computes = decide(this, residual)
            self.computed += computes
            self.reused += not computes
            return computes

        hook._should_compute_remaining_blocks = watched
        return lambda: setattr(hook, "_should_compute_remaining_blocks", decide)


def draw(model, options):
    pipeline = FluxPipeline.from_pretrained(GOLDENS / model / "model", torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    threshold = options["cache-threshold"]
    pipeline.transformer.enable_cache(FirstBlockCacheConfig(threshold=threshold))
    inputs = {}
    if "negative-prompt" in options:
        inputs = {"negative_prompt": options["negative-prompt"],
                  "true_cfg_scale": options["true-cfg-scale"]}
    decisions = Decisions(threshold)
    restore = decisions.watch()
    picture = pipeline(prompt=PROMPT, width=WIDTH, height=HEIGHT,
                       num_inference_steps=options["steps"], guidance_scale=GUIDANCE,
                       max_sequence_length=TOKENS,
                       generator=torch.Generator().manual_seed(SEED), **inputs).images[0]
    restore()
    return picture, {"computed": decisions.computed, "reused": decisions.reused}


def main():
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    pictures = []
    for model in ("a", "b"):
        for number, options in enumerate(CASES, start=1):
            name = f"{model}-{number}.png"
            picture, passes = draw(model, options)
            picture.save(folder / name)
            pictures.append({"file": name, "model": model, "options": options, "passes": passes,
                             "guidance": GUIDANCE if model == "b" else None})
    write_manifest(folder, pictures, prompt=PROMPT, seed=SEED, max_sequence_length=TOKENS,
                   width=WIDTH, height=HEIGHT)


if __name__ == "__main__":
    main()
