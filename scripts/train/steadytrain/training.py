"""What every training script shares: arguments, progress, checkpoints, moving average, Muon."""

import argparse
import math
import os
import random
import time
from pathlib import Path

import torch


def arguments(description, minutes):
    parser = argparse.ArgumentParser(description=description)
    limit = parser.add_mutually_exclusive_group()
    limit.add_argument("--minutes", type=float, default=minutes, help="train so long (%(default)s)")
    limit.add_argument("--samples", type=int, help="train on so many samples instead")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoint and result")
    parser.add_argument("--resume", action="store_true", help="go on from OUT/checkpoint.pt")
    parser.add_argument("--save-every", type=float, default=5, help="minutes between checkpoints")
    parser.add_argument("--words", type=Path, help="the list of things (scripts/train/words.txt)")
    return parser


def prepare(args):
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    return random.Random(args.seed)


def clock():
    """Seconds of processor time, so that a run on a shared or stopped machine gets its due."""
    return time.process_time()


# Without instructions for bf16 a processor's products in it are some fifty times slower.
HAS_BF16 = torch.cpu._is_avx512_bf16_supported()


def autocast():
    return torch.autocast("cpu", torch.bfloat16, enabled=HAS_BF16)


class Ema:
    """An exponential moving average of parameters, quick at first."""

    def __init__(self, parameters, decay, warmup):
        self.parameters, self.decay, self.warmup = list(parameters), decay, warmup
        self.averages = [p.detach().clone() for p in self.parameters]

    @torch.no_grad()
    def update(self, step):
        decay = min(self.decay, 1 - 1 / (1 + step * self.warmup))
        torch._foreach_lerp_(self.averages, [p.data for p in self.parameters], 1 - decay)

    def swap(self):
        """Exchanges parameters and averages; call twice to get back."""
        for i, parameter in enumerate(self.parameters):
            parameter.data, self.averages[i] = self.averages[i], parameter.data


def orthogonalize(matrix):
    """Newton-Schulz iteration: nearly the orthogonal factor of `matrix`."""
    x = matrix.bfloat16() if HAS_BF16 else matrix
    wide = x if x.shape[0] <= x.shape[1] else x.T
    wide = wide / (wide.norm() + 1e-7)
    for _ in range(5):
        gram = wide @ wide.T
        wide = 3.4445 * wide + (-4.775 * gram + 2.0315 * (gram @ gram)) @ wide
    return (wide if x.shape[0] <= x.shape[1] else wide.T).float()


class Muon:
    """Momentum whose update is orthogonalised; for weights of two or more dimensions."""

    def __init__(self, parameters, lr, momentum=0.95):
        self.parameters, self.lr, self.momentum = list(parameters), lr, momentum
        self.buffers = [torch.zeros_like(p) for p in self.parameters]

    @torch.no_grad()
    def step(self, scale):
        for parameter, buffer in zip(self.parameters, self.buffers):
            buffer.lerp_(parameter.grad, 1 - self.momentum)
            update = parameter.grad.lerp(buffer, self.momentum).flatten(1)
            gain = math.sqrt(max(1, update.shape[0] / update.shape[1]))
            update = orthogonalize(update).view_as(parameter)
            parameter.add_(update, alpha=-self.lr * scale * gain)


class Run:
    """Counts time and samples over restarts, and keeps the checkpoint.

    State is a dict of things with state_dict(), or of plain values in `extra`.
    """

    def __init__(self, args, rng, model, optimizer, ema, muon=None):
        self.args, self.rng, self.model, self.optimizer = args, rng, model, optimizer
        self.ema, self.muon = ema, muon
        self.file = args.out / "checkpoint.pt"
        self.step = self.seen = 0
        self.spent = 0.0  # seconds of processor time in earlier runs
        self.losses = []
        if args.resume:
            self._load()
        self.start = self.saved = self.logged = clock()

    def seconds(self):
        return self.spent + clock() - self.start

    def progress(self):
        """The part done, from 0 to 1."""
        if self.args.samples:
            return min(1.0, self.seen / self.args.samples)
        return min(1.0, self.seconds() / (60 * self.args.minutes))

    def schedule(self, constant_part, floor=0.02, warmup=40):
        """Learning rate factor: warm-up, constant, then cosine to `floor`."""
        rise = min(1.0, (self.step + 1) / warmup)
        fall = max(0.0, (self.progress() - constant_part) / (1 - constant_part))
        return rise * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * fall)))

    def set_rate(self, lr):
        for group in self.optimizer.param_groups:
            group["lr"] = lr

    def advance(self, samples, loss, note=lambda: ""):
        self.step += 1
        self.seen += samples
        self.losses.append(loss)
        if not math.isfinite(loss):
            raise SystemExit(f"step {self.step}: the loss is {loss}; lower the learning rate")
        if clock() - self.logged > 30:
            self.logged = clock()
            mean = sum(self.losses) / len(self.losses)
            self.losses = []
            print(
                f"{self.seconds():.0f} s, step {self.step}, {self.seen} samples, "
                f"loss {mean:.4f} {note()}",
                flush=True,
            )
        if clock() - self.saved > 60 * self.args.save_every:
            self.save()

    def save(self):
        self.saved = clock()
        state = dict(
            model=self.model.state_dict(),
            optimizer=self.optimizer.state_dict(),
            ema=self.ema.averages,
            muon=self.muon.buffers if self.muon else None,
            rng=self.rng.getstate(),
            torch_rng=torch.get_rng_state(),
            step=self.step,
            seen=self.seen,
            seconds=self.seconds(),
        )
        temporary = self.file.with_suffix(".tmp")
        torch.save(state, temporary)
        os.replace(temporary, self.file)

    def _load(self):
        if not self.file.exists():
            raise SystemExit(f"--resume: {self.file} does not exist")
        # weights_only=False: the file holds the state of random.Random; it is our own.
        state = torch.load(self.file, weights_only=False)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.ema.averages = state["ema"]
        if self.muon:
            self.muon.buffers = state["muon"]
        self.rng.setstate(state["rng"])
        torch.set_rng_state(state["torch_rng"])
        self.step, self.seen, self.spent = state["step"], state["seen"], state["seconds"]
        print(f"resumed at step {self.step}, {self.seen} samples, {self.spent:.0f} s")
