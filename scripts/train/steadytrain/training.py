"""What every training script shares: arguments, progress, checkpoints, moving average, Muon."""

import argparse
import copy
import json
import math
import os
import random
import shutil
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file


LOG_INTERVAL = 15  # seconds


def arguments(description, minutes):
    parser = argparse.ArgumentParser(description=description)
    limit = parser.add_mutually_exclusive_group()
    limit.add_argument("--minutes", type=float, default=minutes, help="train so long (%(default)s)")
    limit.add_argument("--samples", type=int, help="train on so many samples instead")
    parser.add_argument("--stop-after", type=float, metavar="MINUTES",
                        help="save and stop after so much of it; --resume goes on")  # fmt: skip
    parser.add_argument("--clock", choices=["processor", "wall"],
                        help="whose minutes (default: the processor's on a CPU, else the wall's)"
                        )  # fmt: skip
    parser.add_argument("--device", default="auto", help="cpu, cuda, or what there is (auto)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoint and result")
    parser.add_argument("--resume", action="store_true", help="go on from OUT/checkpoint.pt")
    parser.add_argument("--save-every", type=float, default=5, help="minutes between checkpoints")
    parser.add_argument("--words", type=Path, help="a list of things (default: all)")
    return parser


def prepare(args):
    """Sets args.device and the generators."""
    if args.device == "auto":
        args.device = "cuda" if torch.cuda.is_available() else "cpu"
    args.device = torch.device(args.device)
    if args.device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
        torch.backends.cuda.enable_cudnn_sdp(False)
    if not args.clock:
        args.clock = "processor" if args.device.type == "cpu" else "wall"
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    return random.Random(args.seed)


# Without instructions for bf16 a processor's products in it are some fifty times slower.
HAS_BF16 = torch.cpu._is_avx512_bf16_supported()


def computes_in_bf16(device):
    return device.type == "cuda" or HAS_BF16


def autocast(device):
    return torch.autocast(device.type, torch.bfloat16, enabled=computes_in_bf16(device))


def save_whole(model, folder):
    """As model.save_pretrained, but config.json is there only once the weights are."""
    temporary = folder / "unfinished"
    model.save_pretrained(temporary)
    for file in sorted(temporary.iterdir(), key=lambda file: file.name == "config.json"):
        os.replace(file, folder / file.name)
    shutil.rmtree(temporary)


class WholeModel:
    """A model that computes with its own weights, in bf16 where the processor has it."""

    def __init__(self, model):
        self.model, self.parameters = model, list(model.parameters())

    def __call__(self, tokens, *others):
        self.model.zero_grad()
        with autocast(tokens.device):
            return self.model(tokens, *others)

    def take_gradients(self):
        pass

    def take_weights(self):
        pass


class HalfCopy:
    """A copy of a model in bf16, which a GPU computes with, while the optimizer changes the original:
    half the traffic of autocast, which keeps what is between the products in fp32."""

    def __init__(self, model):
        self.parameters = list(model.parameters())
        self.model = copy.deepcopy(model).bfloat16()
        self.copies = list(self.model.parameters())
        for parameter in self.parameters:
            parameter.grad = torch.zeros_like(parameter)

    def __call__(self, tokens, *others):
        return self.model(tokens.bfloat16(), *others)

    @torch.no_grad()
    def take_gradients(self):
        gradients = [p.grad for p in self.parameters]
        torch._foreach_copy_(gradients, [p.grad for p in self.copies])
        self.model.zero_grad()

    @torch.no_grad()
    def take_weights(self):
        torch._foreach_copy_(self.copies, [p.data for p in self.parameters])


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


def orthogonalize(matrices):
    """Newton-Schulz iteration on [n, rows, columns]: nearly their orthogonal factors."""
    x = matrices.bfloat16() if computes_in_bf16(matrices.device) else matrices
    wide = x if x.shape[1] <= x.shape[2] else x.mT
    wide = wide / (wide.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = wide @ wide.mT
        wide = 3.4445 * wide + (-4.775 * gram + 2.0315 * (gram @ gram)) @ wide
    return (wide if x.shape[1] <= x.shape[2] else wide.mT).float()


class Muon:
    """Momentum whose update is orthogonalised; for weights of two or more dimensions. Those of one
    shape go together."""

    def __init__(self, parameters, lr, momentum=0.95):
        self.parameters, self.lr, self.momentum = list(parameters), lr, momentum
        self.buffers = [torch.zeros_like(p) for p in self.parameters]
        self.groups = {}
        for number, parameter in enumerate(self.parameters):
            self.groups.setdefault(parameter.flatten(1).shape, []).append(number)

    @torch.no_grad()
    def step(self, scale):
        gradients = [p.grad for p in self.parameters]
        torch._foreach_lerp_(self.buffers, gradients, 1 - self.momentum)
        updates = torch._foreach_lerp(gradients, self.buffers, self.momentum)
        for (rows, columns), numbers in self.groups.items():
            together = orthogonalize(torch.stack([updates[i].flatten(1) for i in numbers]))
            factor = -self.lr * scale * math.sqrt(max(1, rows / columns))
            parameters = [self.parameters[i].data for i in numbers]
            changes = [u.view_as(p) for u, p in zip(together, parameters)]
            torch._foreach_add_(parameters, changes, alpha=factor)


class Run:
    """Counts time and samples over restarts, and keeps the checkpoint.

    Time is that of the processor on a CPU, so that a run on a shared or stopped machine gets its
    due, and that of the clock on a GPU, which is lent by it.
    """

    def __init__(self, args, rng, model, optimizer, ema, muon=None):
        self.args, self.rng, self.model, self.optimizer = args, rng, model, optimizer
        self.ema, self.muon = ema, muon
        self.clock = time.process_time if args.clock == "processor" else time.monotonic
        self.file = args.out / "checkpoint.pt"
        self.step = self.seen = 0
        self.spent = 0.0  # seconds in earlier runs
        self.losses = []
        self.about = None  # what state.json says of the model, beside its averages; None: only checkpoints
        if args.resume:
            self._load()
        self.started_at_step = self.step
        self.restart_clock()

    def restart_clock(self):
        """What was prepared before the first step does not count."""
        self.start = self.saved = self.logged = self.clock()

    def seconds(self):
        return self.spent + self.clock() - self.start

    def progress(self):
        """The part done, from 0 to 1."""
        if self.args.samples:
            return min(1.0, self.seen / self.args.samples)
        return min(1.0, self.seconds() / (60 * self.args.minutes))

    def going_on(self):
        stop = self.args.stop_after
        if stop is not None and self.clock() - self.start > 60 * stop:
            return False
        return self.progress() < 1

    def schedule(self, constant_part, floor=0.02, warmup=40):
        """Learning rate factor: warm-up (after every start), constant, then cosine to `floor`."""
        rise = min(1.0, (self.step - self.started_at_step + 1) / warmup)
        fall = max(0.0, (self.progress() - constant_part) / (1 - constant_part))
        return rise * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * fall)))

    def set_rate(self, lr):
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], torch.Tensor):  # a recorded step reads it
                group["lr"].fill_(lr)
            else:
                group["lr"] = lr

    def advance(self, samples, loss, note=lambda: ""):
        """`loss` is a tensor: it is read when something is printed, for a GPU not to wait."""
        self.step += 1
        self.seen += samples
        self.losses.append(loss.detach().clone())
        if self.clock() - self.logged > LOG_INTERVAL:
            self.logged = self.clock()
            mean = torch.stack(self.losses).mean().item()
            self.losses = []
            if not math.isfinite(mean):
                raise SystemExit(f"step {self.step}: the loss is {mean}; lower the learning rate")
            print(
                f"{self.seconds():.0f} s, step {self.step}, {self.seen} samples, "
                f"loss {mean:.4f} {note()}",
                flush=True,
            )
        if self.clock() - self.saved > 60 * self.args.save_every:
            self.save()

    def save(self):
        self.saved = self.clock()
        state = dict(
            model=self.model.state_dict(),
            optimizer=self.optimizer.state_dict(),
            ema=self.ema.averages,
            muon=self.muon.buffers if self.muon else None,
            rng=self.rng.getstate(),
            torch_rng=torch.get_rng_state(),
            cuda_rng=torch.cuda.get_rng_state() if self.args.device.type == "cuda" else None,
            **self._counters(),
        )
        temporary = self.file.with_suffix(".tmp")
        torch.save(state, temporary)
        os.replace(temporary, self.file)
        if self.about is not None:
            self._save_small()

    def _counters(self):
        return dict(step=self.step, seen=self.seen, seconds=self.seconds())

    def _save_small(self):
        """The averages in bf16 and the counters, small enough to keep: --resume goes on from
        them too, with a fresh optimizer."""
        self.ema.swap()
        weights = {n: t.bfloat16().cpu().contiguous() for n, t in self.model.state_dict().items()}
        self.ema.swap()
        save_file(weights, self.args.out / "ema.safetensors")
        text = json.dumps(self._counters() | self.about, indent=1)
        (self.args.out / "state.json").write_text(text + "\n")

    def _load(self):
        if self.file.exists():
            # weights_only=False: the file holds the state of random.Random; it is our own.
            state = torch.load(self.file, map_location="cpu", weights_only=False)
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            for average, saved in zip(self.ema.averages, state["ema"]):
                average.copy_(saved)
            if self.muon:
                for buffer, saved in zip(self.muon.buffers, state["muon"]):
                    buffer.copy_(saved)
            self.rng.setstate(state["rng"])
            torch.set_rng_state(state["torch_rng"])
            if state.get("cuda_rng") is not None and self.args.device.type == "cuda":
                torch.cuda.set_rng_state(state["cuda_rng"])
        elif (self.args.out / "ema.safetensors").exists():
            state = json.loads((self.args.out / "state.json").read_text())
            self.model.load_state_dict(load_file(self.args.out / "ema.safetensors"))
            self.ema.averages = [p.detach().clone() for p in self.ema.parameters]
            self.rng.seed(f"{self.args.seed} {state['step']}")
            torch.manual_seed(self.args.seed + state["step"])
        else:
            raise SystemExit(f"--resume: neither {self.file} nor ema.safetensors exists there")
        self.step, self.seen, self.spent = state["step"], state["seen"], state["seconds"]
        print(f"resumed at step {self.step}, {self.seen} samples, {self.spent:.0f} s")
