#!/usr/bin/env python3
"""Copies what training needs to one folder (work/pack), for a machine without a network: the
pictures of the things and the tokenizers. There: STEADYTRAIN_WORK=that folder.
"""

import argparse
import json
import shutil
from pathlib import Path

from steadytrain import concepts, models, paths


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=paths.WORK / "pack")
    parser.add_argument("--words", type=Path, help="a list of things (default: all)")
    parser.add_argument("--every-picture", action="store_true", help="of the font, for a VAE")
    args = parser.parse_args()
    if args.out.exists():
        raise SystemExit(f"{args.out} exists already: remove it or choose another folder")
    (args.out / "pictures").mkdir(parents=True)
    index = concepts.index()
    if not args.every_picture:
        wanted = {concept.name for concept in concepts.load(args.words)}
        index = [entry for entry in index if entry["name"] in wanted]
    for entry in index:
        shutil.copy(paths.PICTURES / f"{entry['key']}.png", args.out / "pictures")
    text = json.dumps(index, ensure_ascii=False, indent=0)
    (args.out / "pictures/index.json").write_text(text)
    for folder in models.tokenizer_folders():
        shutil.copytree(folder, args.out / "tokenizers" / folder.name)
    size = sum(file.stat().st_size for file in args.out.rglob("*") if file.is_file())
    print(f"{len(index)} pictures, {size / 2**20:.1f} MiB in {args.out}")


if __name__ == "__main__":
    main()
