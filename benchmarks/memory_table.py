"""What cards of different sizes get out of FLUX.1: memory from the program's own planner, seconds
a step from a simple model of a card, as Markdown tables. No card and no weights are needed.

Use: memory_table.py PROGRAM MODEL [--pairs 8:16,...] [--sizes 1024x1024,...] [--cards 8:18:12,...]
                     [--nvme GB/s] [--dtype bf16] [--skip-quantised]

Memory is planned, not measured; seconds are an estimate whose assumptions are printed with it.
"""
import argparse
import json
import pathlib
import subprocess
import sys

GIB = 2**30
BLOCK_BITS = {"q8_0": 8.5, "q4_k": 4.5}  # of a weight, scales included; bf16 has 16
TEXT_LEN = 512


class Card:
    """A class of cards: TFLOP/s that a step reaches in 16 bits, GB/s from RAM."""

    def __init__(self, text):
        gib, tflops, link = text.split(":")
        self.gib, self.tflops, self.link = int(gib), float(tflops), float(link)


def make_plan(arguments, size, vram, ram):
    width, height = size.split("x")
    command = [arguments.program, "plan", "--json", "-m", arguments.model, "--device", "cuda",
               "--max-vram", f"{vram}GiB", "--max-ram", f"{ram}GiB", "-W", width, "-H", height,
               "--dtype", arguments.dtype, "--max-sequence-length", str(TEXT_LEN)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode not in (0, 4):  # 4: it does not fit, and the plan says so
        sys.exit(f"{' '.join(command)}: {done.stderr.strip()}")
    return json.loads(done.stdout)


def step_flops(config, size):
    """Of one step, as benchmarks/step_bench.cpp counts them."""
    width, height = (int(side) for side in size.split("x"))
    d = config["num_attention_heads"] * config["attention_head_dim"]
    s = width // 16 * (height // 16) + TEXT_LEN
    linear = s * 12 * d * d  # per block: q, k, v, out (4), MLP (8)
    attention = 2 * s * s * d
    return 2 * (config["num_layers"] + config["num_single_layers"]) * (linear + attention)


def phase(plan, name):
    return next(p for p in plan["phases"] if p["name"] == name)


class Shares:
    """Bytes of the transformer while denoising, and what is moved in every step."""

    def __init__(self, resident, host, disk, buffers):
        self.resident, self.host, self.disk, self.buffers = resident, host, disk, buffers

    def share(self):
        return self.resident / (self.resident + self.host + self.disk)

    def moving(self, card, nvme):
        return self.host / card.link / 1e9 + self.disk / nvme / 1e9

    def seconds(self, flops, card, nvme):
        computing, moving = flops / card.tflops / 1e12, self.moving(card, nvme)
        # With one buffer nothing is fetched while it is computed with.
        return computing + moving if self.buffers == 1 else max(computing, moving)


def planned_shares(plan):
    weights = phase(plan, "denoise")["weights"][0]
    units = weights["units"]
    return Shares(units["resident"]["bytes"] + weights["fixed_bytes"], units["host"]["bytes"],
                  units["disk"]["bytes"], weights["buffers"])


def quantised_shares(plan, bits):
    """The planner's arithmetic with smaller weights, by bytes instead of whole units."""
    denoise, budget = phase(plan, "denoise"), plan["budget"]
    weights = denoise["weights"][0]
    units = weights["units"]
    smaller = bits / 16
    total = sum(units[place]["bytes"] for place in ("resident", "host", "disk")) * smaller
    fixed = weights["fixed_bytes"] * smaller
    buffers = 2 * weights["buffer_bytes"] * smaller
    room = (budget["vram"] - budget["device_context"] - denoise["device_activation_bytes"] - fixed)
    pinned = denoise["ram_peak_bytes"] - units["host"]["bytes"]  # what is in RAM besides
    if room >= total:
        return Shares(total + fixed, 0, 0, 0)
    resident = max(room - buffers, 0)
    host = min(total - resident, max(budget["ram"] - pinned, 0))
    return Shares(resident + fixed, host, total - resident - host, 2 if room >= buffers else 1)


def gib(value):
    return f"{value / GIB:.1f}"


def decoding(vae):
    if not vae["tiled"]:
        return "whole"
    return f"{vae['band_rows']} rows" + (", parked" if vae["parked_in_ram"] else "")


def print_assumptions(arguments, cards):
    print("Assumed: a step takes the longer of computing and moving, and their sum where there is "
          "room for one\nbuffer only; "
          f"the disk gives {arguments.nvme:g} GB/s; a card of so many GiB computes and gets from "
          "RAM\n")
    print("| card | " + " | ".join(str(card.gib) for card in cards) + " |")
    print("|---|" + "---|" * len(cards))
    print("| TFLOP/s | " + " | ".join(f"{card.tflops:g}" for card in cards) + " |")
    print("| GB/s | " + " | ".join(f"{card.link:g}" for card in cards) + " |")


def print_planned(rows, flops, nvme):
    print("| VRAM + RAM | VRAM peak | RAM peak | resident | from RAM | from disk | decoding | "
          "moving, s | computing, s | step, s |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for card, ram, plan in rows:
        label = f"| {card.gib} + {ram} "
        if not plan["fits"]:
            print(label + "| does not fit | | | | | | | | |")
            continue
        shares = planned_shares(plan)
        print(label + f"| {gib(plan['device_peak_bytes'])} | {gib(plan['ram_peak_bytes'])} "
              f"| {100 * shares.share():.0f} % | {gib(shares.host)} | {gib(shares.disk)} "
              f"| {decoding(plan['vae'])} | {shares.moving(card, nvme):.1f} "
              f"| {flops / card.tflops / 1e12:.1f} | {shares.seconds(flops, card, nvme):.1f} |")


def print_quantised(plans, flops, nvme):
    print("\n### Quantised, on paper\n\nThe same plans with smaller weights of the transformer, by "
          "arithmetic: resident share, seconds a step.\n")
    sizes = [size.replace("x", " x ") for size in plans]
    print("| VRAM + RAM | weights | " + " | ".join(sizes) + " |")
    print("|---|---|" + "---|" * len(plans))
    seen = set()
    for i, (card, ram, _) in enumerate(next(iter(plans.values()))):
        if card.gib in seen:  # more RAM changes little here
            continue
        seen.add(card.gib)
        for name, bits in BLOCK_BITS.items():
            cells = []
            for size, rows in plans.items():
                plan = rows[i][2]
                if not plan["fits"]:
                    cells.append("-")
                    continue
                shares = quantised_shares(plan, bits)
                cells.append(f"{100 * shares.share():.0f} %, "
                             f"{shares.seconds(flops[size], card, nvme):.1f} s")
            print(f"| {card.gib} + {ram} | {name} | " + " | ".join(cells) + " |")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("model")
    parser.add_argument("--pairs", help="GiB of VRAM:RAM",
                        default="2:4,2:8,4:8,4:16,6:8,6:16,8:8,8:16,12:16,16:16,24:32")
    parser.add_argument("--sizes", default="512x512,1024x1024,1072x1920,2048x2048")
    parser.add_argument("--cards", help="GiB:TFLOP/s:GB/s from RAM, one per GiB in --pairs",
                        default="2:8:12,4:8:12,6:8:12,8:18:12,12:15:24,16:26:12,24:42:24")
    parser.add_argument("--nvme", type=float, default=3, help="GB/s")
    parser.add_argument("--dtype", default="bf16")
    parser.add_argument("--skip-quantised", action="store_true")
    arguments = parser.parse_args()
    cards = {card.gib: card for card in map(Card, arguments.cards.split(","))}
    pairs = [tuple(map(int, pair.split(":"))) for pair in arguments.pairs.split(",")]
    for vram, _ in pairs:
        if vram not in cards:
            sys.exit(f"--cards has no card of {vram} GiB")
    config = json.loads((pathlib.Path(arguments.model) / "transformer/config.json").read_text())
    used = [cards[vram] for vram in sorted({vram for vram, _ in pairs})]
    print_assumptions(arguments, used)
    plans, flops = {}, {}
    for size in arguments.sizes.split(","):
        flops[size] = step_flops(config, size)
        plans[size] = [(cards[vram], ram, make_plan(arguments, size, vram, ram))
                       for vram, ram in pairs]
        print(f"\n### {size.replace('x', ' x ')}, {arguments.dtype}\n\n"
              f"{flops[size] / 1e12:.0f} TFLOP a step. GiB: the planner's peaks, and what comes "
              "from RAM and from disk in every step.\n")
        print_planned(plans[size], flops[size], arguments.nvme)
    if not arguments.skip_quantised:
        print_quantised(plans, flops, arguments.nvme)


if __name__ == "__main__":
    main()
