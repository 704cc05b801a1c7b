#!/usr/bin/env python3
"""Makes both tokenizers from captions: work/tokenizers/t5 (sentencepiece unigram, 1,948 pieces; the
embedding has 2,048 rows) and work/tokenizers/clip (byte-level BPE as CLIP's, 2,048 entries).

The corpus is captions of random scenes, the names and keywords of all emoji, and common words of
prompts. Takes under a minute.
"""

import argparse
import json
import random

import sentencepiece
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from steadytrain import concepts, paths, scenes
from steadytrain import words as word_forms
from steadytrain.models import VOCABULARY

T5_PIECES = VOCABULARY - 100  # transformers adds 100 <extra_id_*> tokens
BPE_MERGES = VOCABULARY - 2 * 256 - 2  # bytes, bytes at a word's end, start and end of text
SIZES = [(128, 128), (96, 96), (64, 64), (160, 128), (128, 160), (192, 128)]
CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,!?'\"-:;()&/%$#@+*=_"
PROMPT_WORDS = """the a an of on in at with and to is are his her its their this that from for
by as it photo picture image realistic high quality detailed 4k beautiful
colorful style holding sign says hello world riding sitting standing running
eating playing wearing flying sleeping jumping walking looking smiling happy
sad angry old young new red green blue dark light bright sky cloud clouds
water mountain mountains forest city street night day morning winter summer
spring autumn one two three four five six seven eight nine ten behind front
top bottom left right center middle corner side""".split()


def make_corpus(captions, seed, words):
    rng = random.Random(seed)
    maker = scenes.SceneMaker(concepts.load(words))
    corpus = [maker.make(rng, *rng.choice(SIZES)).caption for _ in range(captions)]
    for concept in maker.concepts:
        for word in concept.synonyms:
            corpus += [word, word_forms.with_article(word), word_forms.plural(word)] * 10
    index = json.loads(paths.need(paths.PICTURES / "index.json", "extract_pictures.py").read_text())
    for entry in index:
        if "skin" not in entry["name"] and "flag" not in entry["name"]:
            corpus += [text.lower() for text in [entry["name"], *entry["keywords"]]] * 3
    return corpus + PROMPT_WORDS * 20


def train_t5(corpus, folder):
    folder.mkdir(parents=True, exist_ok=True)
    text = folder / "corpus.txt"
    text.write_text("\n".join(corpus))
    sentencepiece.SentencePieceTrainer.train(
        input=str(text),
        model_prefix=str(folder / "spiece"),
        vocab_size=T5_PIECES,
        model_type="unigram",
        character_coverage=1.0,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        normalization_rule_name="nmt_nfkc_cf",  # folds case
        required_chars=CHARACTERS,
        num_threads=1,
        minloglevel=2,
    )
    text.unlink()
    (folder / "spiece.vocab").unlink()


def byte_alphabet():
    """The 256 printable stand-ins for bytes, in the order of CLIP's vocabulary."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = len(set(range(256)) - set(printable))
    return [chr(c) for c in printable] + [chr(256 + i) for i in range(others)]


def train_clip(corpus, folder):
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>", continuing_subword_prefix=""))
    bpe.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    words = Regex(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(words, behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY + 200,  # more than needed: not all merges can be kept
        end_of_word_suffix="</w>",
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(corpus, trainer)
    alphabet = byte_alphabet()
    vocabulary = alphabet + [c + "</w>" for c in alphabet]
    known, kept = set(vocabulary), []
    for a, b in json.loads(bpe.to_str())["model"]["merges"]:
        if len(kept) < BPE_MERGES and a in known and b in known and a + b not in known:
            kept.append(f"{a} {b}")
            vocabulary.append(a + b)
            known.add(a + b)
    if len(kept) != BPE_MERGES:
        raise SystemExit(f"only {len(kept)} of {BPE_MERGES} merges: the corpus is too small")
    vocabulary += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    ids = {token: i for i, token in enumerate(vocabulary)}
    (folder / "vocab.json").write_text(json.dumps(ids, ensure_ascii=False))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *kept]) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--captions", type=int, default=60000)
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--words", help="a list of things (default: all of concepts.txt)")
    args = parser.parse_args()
    corpus = make_corpus(args.captions, args.seed, args.words)
    train_t5(corpus, paths.TOKENIZERS / "t5")
    train_clip(corpus, paths.TOKENIZERS / "clip")
    print(f"tokenizers in {paths.TOKENIZERS}, from {len(corpus)} texts")


if __name__ == "__main__":
    main()
