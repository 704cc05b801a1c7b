"""Model folders that lack parts, tokenizers that are damaged, and -m with what is no model."""

import json
import os
import shutil

from .case import BAD_INPUT, IO, SMALL, Case, rng


def remove(path):
    def damage(model):
        if (model / path).is_dir():
            shutil.rmtree(model / path)
        else:
            (model / path).unlink()
    return damage


def emptied(folder):
    def damage(model):
        shutil.rmtree(model / folder)
        (model / folder).mkdir()
    return damage


def put(file, text):
    data = text if isinstance(text, bytes) else text.encode()
    return lambda model: (model / file).write_bytes(data)


def cut(file, i):
    def damage(model):
        data = (model / file).read_bytes()
        (model / file).write_bytes(data[: rng("tokenizer", file, i).randrange(len(data) - 2)])
    return damage


def edit_json(file, change):
    def damage(model):
        content = json.loads((model / file).read_text())
        change(content)
        (model / file).write_text(json.dumps(content))
    return damage


def replaced(file, make):
    def damage(model):
        (model / file).unlink()
        make(model / file)
    return damage


def vocabulary(name, change, *says):
    file = "tokenizer/vocab.json"
    return Case(f"{file}: {name}", BAD_INPUT, ("tokenizer", *says), damage=edit_json(file, change))


def piece(text, score_bytes=bytes(4), kind=1):
    """One piece of a sentencepiece model as protobuf."""
    body = (b"\x0a" + bytes([len(text)]) + text + b"\x15" + score_bytes + b"\x18" + bytes([kind]))
    return b"\x0a" + bytes([len(body)]) + body


WHOLE = piece(b"<pad>", kind=3) + piece(b"</s>", kind=3) + piece(b"<unk>", kind=2)
REST = b"\x12\x02\x18\x01" + b"\x1a\x00"  # trainer: unigram; normaliser: as by default


def folders():
    names = ["scheduler", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2",
             "transformer", "vae"]
    found = [Case(f"folder {n} missing", BAD_INPUT, (n,), damage=remove(n)) for n in names]
    found += [Case(f"folder {n} empty", BAD_INPUT, (n,), damage=emptied(n)) for n in names]

    def file_instead(model):
        shutil.rmtree(model / "vae")
        (model / "vae").write_text("not a folder")

    def nothing(model):
        for entry in model.iterdir():
            remove(entry.name)(model)
    return found + [
        Case("a file instead of the folder vae", BAD_INPUT, ("vae",), damage=file_instead),
        Case("the model folder is empty", BAD_INPUT, ("model_index.json",), damage=nothing),
        Case("model_index.json is a fifo", BAD_INPUT, ("model_index.json", "not a regular file"),
             damage=replaced("model_index.json", os.mkfifo)),
        Case("model_index.json is a folder", BAD_INPUT, ("model_index.json",),
             damage=replaced("model_index.json", os.mkdir)),
        Case("vae/config.json is a dangling link", BAD_INPUT, ("vae/config.json", "not found"),
             damage=replaced("vae/config.json", lambda p: os.symlink("nowhere", p))),
        Case("vae/config.json is a link to itself", IO, ("vae/config.json",),
             damage=replaced("vae/config.json", lambda p: os.symlink(p.name, p))),
        Case("vae/config.json is /dev/zero", BAD_INPUT, ("vae/config.json", "not a regular file"),
             damage=replaced("vae/config.json", lambda p: os.symlink("/dev/zero", p))),
    ]


def clip_tokenizer():
    vocab, merges = "tokenizer/vocab.json", "tokenizer/merges.txt"

    def case(name, damage, *says):
        return Case(f"CLIP tokenizer: {name}", BAD_INPUT, ("tokenizer", *says), damage=damage)
    return [
        case("vocab.json missing", remove(vocab), "vocab.json"),
        case("merges.txt missing", remove(merges), "merges.txt"),
        case("vocab.json empty", put(vocab, ""), "vocab.json"),
        case("vocab.json is {}", put(vocab, "{}")),
        case("vocab.json is a list", put(vocab, "[1]"), "vocab.json"),
        *[case(f"vocab.json cut ({i})", cut(vocab, i), "vocab.json") for i in range(4)],
        case("vocab.json is no UTF-8", put(vocab, b'{"\xff": 1}'), "vocab.json"),
        case("merges.txt with three words on a line", put(merges, "#version: 0.2\na b c\n"),
             "merges.txt"),
        case("merges.txt with unknown tokens", put(merges, "#version: 0.2\nxyzzy plugh\n")),
        case("merges.txt of noise", put(merges, rng("merges").randbytes(600)), "merges.txt"),
        case("merges.txt is a folder", replaced(merges, os.mkdir), "merges.txt"),
        case("merges.txt is a fifo", replaced(merges, os.mkfifo), "merges.txt"),
        case("tokenizer_config.json is no JSON", put("tokenizer/tokenizer_config.json", "{"),
             "tokenizer_config.json"),
        case("tokenizer.json alone and damaged",
             lambda m: (remove(vocab)(m), remove(merges)(m), put("tokenizer/tokenizer.json", "{}")(m)),
             "tokenizer.json"),
        vocabulary("ids beyond the embedding", lambda v: v.update(dict.fromkeys(list(v)[:1], 5000)),
                   "5000"),
        vocabulary("an id is a string", lambda v: v.update(dict.fromkeys(list(v)[:1], "7"))),
        vocabulary("an id is negative", lambda v: v.update(dict.fromkeys(list(v)[:1], -1))),
        vocabulary("an id is 2^63", lambda v: v.update(dict.fromkeys(list(v)[:1], 2**63))),
        vocabulary("an id is fractional", lambda v: v.update(dict.fromkeys(list(v)[:1], 1.5))),
        vocabulary("without the end token", lambda v: v.pop("<|endoftext|>"), "<|endoftext|>"),
        vocabulary("without the start token", lambda v: v.pop("<|startoftext|>"),
                   "<|startoftext|>"),
    ]


def t5_tokenizer():
    spiece = "tokenizer_2/spiece.model"
    nan = b"\0\0\xc0\x7f"

    def case(name, damage, *says):
        return Case(f"T5 tokenizer: {name}", BAD_INPUT, ("tokenizer_2", *says), damage=damage,
                    late=True)
    return [
        case("spiece.model missing", remove(spiece), "spiece.model"),
        case("spiece.model empty", put(spiece, b""), "spiece.model"),
        *[case(f"spiece.model cut ({i})", cut(spiece, i), "spiece.model") for i in range(4)],
        case("spiece.model of noise", put(spiece, rng("spiece").randbytes(2000)), "spiece.model"),
        case("spiece.model is a web page", put(spiece, "<html></html>"), "spiece.model"),
        case("spiece.model is a folder", replaced(spiece, os.mkdir), "spiece.model"),
        case("spiece.model is a fifo", replaced(spiece, os.mkfifo), "spiece.model"),
        case("spiece.model cut between two pieces", put(spiece, WHOLE), "cut short"),
        case("a score is NaN", put(spiece, piece(b"a", nan)), "score"),
        case("a piece is no UTF-8", put(spiece, piece(b"\xff\xfe")), "UTF-8"),
        case("more pieces than embeddings",
             put(spiece, WHOLE + b"".join(piece(b"%04d" % i) for i in range(3000)) + REST), "3"),
        case("without </s>",
             put(spiece, piece(b"<pad>", kind=3) + piece(b"a") + piece(b"<unk>", kind=2) + REST),
             "</s>"),
        case("extra_ids negative", edit_json("tokenizer_2/tokenizer_config.json",
                                             lambda c: c.update(extra_ids=-5)), "extra_ids"),
        case("extra_ids of 10^9", edit_json("tokenizer_2/tokenizer_config.json",
                                            lambda c: c.update(extra_ids=10**9))),
        case("tokenizer.json alone and damaged",
             lambda m: (remove(spiece)(m), put("tokenizer_2/tokenizer.json", '{"model": 5}')(m)),
             "tokenizer.json"),
        case("tokenizer.json alone, of BPE", lambda m: (
            remove(spiece)(m),
            put("tokenizer_2/tokenizer.json", '{"model": {"type": "BPE", "vocab": {}}}')(m)),
             "tokenizer.json"),
    ]


def named_models():
    def case(name, value, *says, prepare=None, code=BAD_INPUT):
        return Case(f"-m {name}", code, says, ["x", *SMALL, "-m", value], prepare=prepare,
                    model=False)

    def weight_file(folder):
        (folder / "flux.safetensors").write_bytes(bytes(100))
    return [
        case("a missing folder", "no/such/folder", "no/such/folder", "no such folder"),
        case("a hub id that is not in the cache", "some-org/some-model", "hf download"),
        case("a single file", "flux.safetensors", "flux.safetensors", prepare=weight_file),
        case("a GGUF file", "flux.gguf", "flux.gguf"),
        case("a URL", "https://example.org/model", "https://example.org/model"),
        case("the working folder", ".", "model_index.json"),
        case("/dev/null", "/dev/null", "/dev/null"),
        case("control characters", "a\x1b[31m\nb", "\\x1B", "\\x0A"),
        case("invalid UTF-8", b"\xff\xfe", "\\xFF"),
        case("10000 characters", "x" * 10000, "xxx"),
        Case("STEADYFLUX_MODEL names nothing", BAD_INPUT, ("/nonexistent/model",), ["x", *SMALL],
             environment={"STEADYFLUX_MODEL": "/nonexistent/model"}, model=False),
    ]


def cases():
    return folders() + clip_tokenizer() + t5_tokenizer() + named_models()
