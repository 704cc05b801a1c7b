#!/usr/bin/env python3
"""Teaches the CLIP text encoder of a finished pipeline to say of every ninth of a picture which thing is
there, so plainly that a linear reader of the modulations' input finds it, while what the modulations are
made from stays near to what it was. Writes OUT/pipeline, for train_transformer.py --init.
"""

import copy
import random
from pathlib import Path

import torch
from diffusers import FluxPipeline

from steadytrain import concepts, models, reading, scenes, training


def parse_arguments(arguments):
    parser = training.arguments(__doc__, minutes=8)
    parser.add_argument("--init", type=Path, required=True, help="the pipeline")
    parser.add_argument("--mix", choices=list(scenes.MIXES), default="pairs")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--keep", type=float, default=1.0,
                        help="weight of the distance from what the modulations were made from")  # fmt: skip
    return parser.parse_args(arguments)


def main(arguments=None):
    args = parse_arguments(arguments)
    rng = training.prepare(args)
    pipeline = FluxPipeline.from_pretrained(args.init)
    clip_tokenizer, _ = models.load_tokenizers(args.init)
    maker = scenes.SceneMaker(concepts.load(args.words), scenes.MIXES[args.mix])
    captions = reading.Captions(maker, clip_tokenizer, random.Random(args.seed + 1))

    clip, transformer = pipeline.text_encoder.float(), pipeline.transformer.float()
    was = copy.deepcopy(clip), copy.deepcopy(transformer.time_text_embed)
    reader = reading.Reader(transformer.inner_dim, captions)
    model = torch.nn.ModuleList([clip, transformer.time_text_embed, reader]).to(args.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, betas=(0.9, 0.98), weight_decay=0.01)
    ema = training.Ema(model.parameters(), decay=0.998, warmup=0.1)
    run = training.Run(args, rng, model, optimizer, ema)
    said = ""
    while run.going_on():
        clip_ids, answers = (x.to(args.device) for x in captions.make(args.batch))
        clip_ids = clip_ids[:, :32]
        t = torch.rand(len(clip_ids), device=args.device)
        with torch.no_grad(), training.autocast(args.device):
            before = reading.modulation(was[1], t, models.encode_clip(was[0], clip_ids))
        with training.autocast(args.device):
            pooled = models.encode_clip(clip, clip_ids)
            now = reading.modulation(transformer.time_text_embed, t, pooled)
            loss, right = reader(now, answers)
        moved = (now - before).float().square().mean() / before.float().var(0).mean()
        optimizer.zero_grad()
        (loss + args.keep * moved).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        run.set_rate(args.lr * run.schedule(0.3))
        optimizer.step()
        ema.update(run.step + 1)
        said = f"right {100 * right:.1f} %, moved {moved:.4f}"
        run.advance(len(clip_ids), loss, lambda: said)
    run.save()
    ema.swap()
    pipeline.text_encoder, pipeline.transformer = clip, transformer
    pipeline.to(torch.bfloat16).save_pretrained(args.out / "pipeline")
    print(f"{run.seen} captions; pipeline in {args.out / 'pipeline'}; {said}")


if __name__ == "__main__":
    main()
