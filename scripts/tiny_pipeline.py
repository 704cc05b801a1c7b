"""Random tiny FLUX pipelines in the diffusers layout, for goldens and for parity runs.

A tiny pipeline has every part of FLUX.1 (CLIP, T5, transformer, VAE, scheduler, both tokenizers)
in a shape of a few thousand weights. The weights are random, but scaled so that every stage is
alive: attention is neither uniform nor one-hot, biases and norm weights are not 0 and 1, and the
picture has contrast without being saturated. So a wrong constant anywhere shows in the pixels.

Used by make_goldens.py and parity.py; see there how to install and run.
"""

import dataclasses
import json
import math
import random
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

REPOSITORY = Path(__file__).resolve().parent.parent


@dataclasses.dataclass
class Shape:
    """Everything that tells one tiny pipeline from another. `--set name=value` changes a field."""

    # transformer
    num_attention_heads: int = 2
    axes_dims_rope: tuple = (4, 4, 8)  # attention_head_dim is their sum
    num_layers: int = 2
    num_single_layers: int = 2
    guidance_embeds: bool = False
    in_channels: int = 64  # of 64 that go out: 384 Fill, 128 Depth and Canny
    # scheduler
    shift: float = 1.0
    use_dynamic_shifting: bool = False
    # text_encoder (CLIP)
    clip_hidden_size: int = 16
    clip_heads: int = 2
    clip_layers: int = 2
    clip_intermediate_size: int = 40
    clip_hidden_act: str = "quick_gelu"
    clip_legacy_eos: bool = True  # config says eos_token_id 2, as the real FLUX.1 does
    # text_encoder_2 (T5)
    t5_d_model: int = 24
    t5_heads: int = 2
    t5_d_kv: int = 8
    t5_d_ff: int = 40
    t5_layers: int = 2
    t5_act: str = "gelu_pytorch_tanh"  # or gelu_new, the same function under its older name
    # vae
    block_out_channels: tuple = (4, 8, 8, 12)
    norm_num_groups: int = 4
    layers_per_block: int = 1
    scaling_factor: float = 0.3611
    shift_factor: float = 0.1159
    # files
    pipeline: str = "FluxPipeline"
    tokenizers: str = "tiny"  # tiny, emoji (models/emoji) or real (../shared/flux1)
    dtype: str = "fp32"  # of the weights on disk
    max_shard_size: str = ""  # e.g. "60KB"; empty: one file per component
    clip_prefix: bool = False  # write `text_model.` before CLIP's names, as FLUX.1 has them
    t5_embedding: str = "shared.weight"  # or encoder.embed_tokens.weight, or both


DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

# Two shapes that differ wherever they can; their goldens are committed.
PRESETS = {
    "a": Shape(
        axes_dims_rope=(2, 4, 4),
        num_single_layers=1,
        block_out_channels=(4, 4, 8, 8),
        layers_per_block=2,
        clip_prefix=True,
    ),
    "b": Shape(
        num_attention_heads=3,
        axes_dims_rope=(2, 4, 2),
        num_layers=1,
        num_single_layers=3,
        guidance_embeds=True,
        shift=3.0,
        use_dynamic_shifting=True,
        clip_hidden_size=12,
        clip_heads=3,
        clip_layers=3,
        clip_intermediate_size=28,
        clip_hidden_act="gelu",
        clip_legacy_eos=False,
        t5_d_model=20,
        t5_heads=3,
        t5_d_kv=4,
        t5_d_ff=36,
        t5_layers=3,
        t5_act="gelu_new",
        block_out_channels=(6, 6, 9, 12),
        norm_num_groups=3,
        scaling_factor=0.7,
        shift_factor=-0.3,
        dtype="bf16",
        max_shard_size="30KB",
        t5_embedding="encoder.embed_tokens.weight",
    ),
}


def random_shape(rng: random.Random) -> Shape:
    dev = rng.random() < 0.5
    groups = rng.choice([2, 4, 8])
    clip_heads, t5_heads = rng.randint(1, 5), rng.randint(1, 5)
    widths = sorted(groups * rng.randint(1, 4) for _ in range(4))
    return Shape(
        num_attention_heads=rng.randint(1, 6),
        axes_dims_rope=tuple(2 * rng.randint(1, 8) for _ in range(3)),
        num_layers=rng.randint(1, 4),
        num_single_layers=rng.randint(1, 5),
        guidance_embeds=dev,
        shift=3.0 if dev else 1.0,
        use_dynamic_shifting=dev,
        clip_hidden_size=clip_heads * rng.choice([4, 8, 12, 16]),
        clip_heads=clip_heads,
        clip_layers=rng.randint(1, 4),
        clip_intermediate_size=rng.randint(8, 96),
        clip_hidden_act=rng.choice(["quick_gelu", "quick_gelu", "gelu"]),
        clip_legacy_eos=rng.random() < 0.7,
        t5_d_model=2 * rng.randint(6, 48),
        t5_heads=t5_heads,
        t5_d_kv=rng.choice([4, 8, 16, 24]),
        t5_d_ff=rng.randint(8, 128),
        t5_layers=rng.randint(1, 4),
        t5_act=rng.choice(["gelu_pytorch_tanh", "gelu_new"]),
        block_out_channels=tuple(widths),
        norm_num_groups=groups,
        layers_per_block=rng.randint(1, 3),
        scaling_factor=round(rng.uniform(0.3, 1.2), 4),
        shift_factor=round(rng.uniform(-0.5, 0.5), 4),
        tokenizers=rng.choice(["tiny", "emoji"]),
        dtype=rng.choice(["fp32", "fp32", "bf16", "fp16"]),
        max_shard_size=rng.choice(["", "40KB", "100KB"]),
        clip_prefix=rng.random() < 0.5,
        t5_embedding=rng.choice(["shared.weight", "encoder.embed_tokens.weight", "both"]),
    )


# --- tokenizers -------------------------------------------------------------------------------

# What the tiny tokenizers are trained on: enough letters and words for pieces of several lengths.
CORPUS = """a red apple on the wooden table and a green pear beside it
the quick brown fox jumps over the lazy dog while seven wizards mix black quartz
a photo of two small cats sleeping in the morning light near the window
an old lighthouse at the edge of the sea under a dark and stormy sky
three blue birds singing on a branch of the flowering cherry tree
a street in the rain at night with neon signs and their reflections
portrait of a smiling woman with a yellow umbrella, painted in oil
the mountains behind the lake are covered with snow; the water is still
it's a dog's life, isn't it? we're here, they've gone, I'll stay and he'd leave
numbers 0 1 2 3 4 5 6 7 8 9 and signs . , ! ? ' " : ; ( ) - + * / & % $ # @ _ = < > [ ]
A B C D E F G H I J K L M N O P Q R S T U V W X Y Z a b c d e f g h i j k l m n o p q r s t u v w x y z""".split(
    "\n"
)


def write_tiny_t5_tokenizer(folder: Path) -> None:
    """A sentencepiece unigram model of 300 pieces; transformers adds 100 <extra_id_*>."""
    import sentencepiece

    folder.mkdir(parents=True, exist_ok=True)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS * 3),
        model_prefix=str(folder / "spiece"),
        vocab_size=300,
        model_type="unigram",
        character_coverage=1.0,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        normalization_rule_name="identity",  # the NFKC table alone would be 240 KB
        hard_vocab_limit=False,
        num_threads=1,
        minloglevel=2,
    )
    (folder / "spiece.vocab").unlink()
    config = {
        "tokenizer_class": "T5Tokenizer",
        "eos_token": "</s>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "extra_ids": 100,
        "model_max_length": 512,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


def bytes_to_unicode() -> list:
    """The 256 printable stand-ins for bytes of byte-level BPE, in the order of CLIP's vocabulary."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(b) for b in printable] + [chr(256 + i) for i in range(len(others))]


def write_tiny_clip_tokenizer(folder: Path, num_merges: int = 90) -> None:
    """vocab.json and merges.txt: 512 byte symbols, `num_merges` merges, the two special tokens."""
    folder.mkdir(parents=True, exist_ok=True)
    words = {}
    for line in CORPUS:
        for word in line.lower().split():
            if word.isascii() and word.isalpha():
                symbols = (*word[:-1], word[-1] + "</w>")
                words[symbols] = words.get(symbols, 0) + 1
    merges = []
    while len(merges) < num_merges:
        pairs = {}
        for symbols, count in words.items():
            for pair in zip(symbols, symbols[1:]):
                pairs[pair] = pairs.get(pair, 0) + count
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        merged = {}
        for symbols, count in words.items():
            joined, i = [], 0
            while i < len(symbols):
                if symbols[i : i + 2] == best:
                    joined.append(best[0] + best[1])
                    i += 2
                else:
                    joined.append(symbols[i])
                    i += 1
            merged[tuple(joined)] = count
        words = merged
    alphabet = bytes_to_unicode()
    vocabulary = alphabet + [c + "</w>" for c in alphabet] + [a + b for a, b in merges]
    vocabulary += ["<|startoftext|>", "<|endoftext|>"]
    ids = {token: i for i, token in enumerate(vocabulary)}
    (folder / "vocab.json").write_text(json.dumps(ids, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2"] + [f"{a} {b}" for a, b in merges]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "model_max_length": 77,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


def write_tokenizers(kind: str, root: Path) -> tuple:
    """Writes tokenizer/ and tokenizer_2/; returns the vocabulary sizes CLIP and T5 need."""
    if kind == "tiny":
        write_tiny_clip_tokenizer(root / "tokenizer")
        write_tiny_t5_tokenizer(root / "tokenizer_2")
    else:
        source = {
            "emoji": REPOSITORY / "models" / "emoji",
            "real": REPOSITORY.parent / "shared" / "flux1" / "dev",
        }[kind]
        for name in ("tokenizer", "tokenizer_2"):
            shutil.copytree(source / name, root / name, copy_function=shutil.copyfile)
    from transformers import CLIPTokenizer, T5TokenizerFast

    clip = CLIPTokenizer.from_pretrained(root / "tokenizer")
    t5 = T5TokenizerFast.from_pretrained(root / "tokenizer_2")
    t5_size = max(t5.get_vocab().values()) + 1
    return len(clip), max(t5_size, 32128) if kind == "real" else t5_size


# --- weights ----------------------------------------------------------------------------------


def randomize(module: torch.nn.Module, generator: torch.Generator, gain: float = 1.0) -> None:
    """Normal weights of variance gain^2 / fan_in; biases and norm weights away from 0 and 1."""

    def normal(tensor, mean, std):
        tensor.copy_(mean + std * torch.randn(tensor.shape, generator=generator))

    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "relative_attention_bias" in name:
                normal(parameter, 0, 0.7)
            elif "embedding.weight" in name or "shared.weight" in name:
                normal(parameter, 0, 1)
            elif parameter.dim() >= 2:
                normal(parameter, 0, gain / math.sqrt(parameter[0].numel()))
            elif name.endswith("bias"):
                normal(parameter, 0, 0.2)
            else:  # a norm's weight
                normal(parameter, 1, 0.2)


def build_components(shape: Shape, clip_vocab: int, t5_vocab: int, generator: torch.Generator):
    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel
    from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

    scheduler = FlowMatchEulerDiscreteScheduler(
        shift=shape.shift, use_dynamic_shifting=shape.use_dynamic_shifting
    )
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=clip_vocab,
            hidden_size=shape.clip_hidden_size,
            projection_dim=shape.clip_hidden_size,
            intermediate_size=shape.clip_intermediate_size,
            num_hidden_layers=shape.clip_layers,
            num_attention_heads=shape.clip_heads,
            max_position_embeddings=77,
            hidden_act=shape.clip_hidden_act,
            bos_token_id=0 if shape.clip_legacy_eos else clip_vocab - 2,
            eos_token_id=2 if shape.clip_legacy_eos else clip_vocab - 1,
            pad_token_id=1 if shape.clip_legacy_eos else clip_vocab - 1,
        )
    )
    randomize(text_encoder, generator)
    text_encoder_2 = T5EncoderModel(
        T5Config(
            vocab_size=t5_vocab,
            d_model=shape.t5_d_model,
            d_kv=shape.t5_d_kv,
            num_heads=shape.t5_heads,
            d_ff=shape.t5_d_ff,
            num_layers=shape.t5_layers,
            feed_forward_proj="gated-gelu",
            is_encoder_decoder=False,
            use_cache=False,
            pad_token_id=0,
            eos_token_id=1,
        )
    )
    text_encoder_2.config.dense_act_fn = shape.t5_act
    randomize(text_encoder_2, generator)
    with torch.no_grad():  # T5 does not divide by sqrt(d_kv); its initialisation does
        for name, parameter in text_encoder_2.named_parameters():
            if name.endswith("SelfAttention.q.weight"):
                parameter.mul_(1 / math.sqrt(shape.t5_d_kv))
    transformer = FluxTransformer2DModel(
        in_channels=shape.in_channels,
        out_channels=64 if shape.in_channels != 64 else None,
        num_layers=shape.num_layers,
        num_single_layers=shape.num_single_layers,
        attention_head_dim=sum(shape.axes_dims_rope),
        num_attention_heads=shape.num_attention_heads,
        joint_attention_dim=shape.t5_d_model,
        pooled_projection_dim=shape.clip_hidden_size,
        guidance_embeds=shape.guidance_embeds,
        axes_dims_rope=shape.axes_dims_rope,
    )
    randomize(transformer, generator)
    vae = AutoencoderKL(
        latent_channels=16,
        block_out_channels=shape.block_out_channels,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=shape.layers_per_block,
        norm_num_groups=shape.norm_num_groups,
        scaling_factor=shape.scaling_factor,
        shift_factor=shape.shift_factor,
        use_quant_conv=False,
        use_post_quant_conv=False,
        sample_size=1024,
    )
    randomize(vae, generator)
    with torch.no_grad():  # contrast: a standard deviation of 0.45 between -1 and 1, mean near 0
        latents = torch.randn((1, 16, 12, 12), generator=generator)
        picture = vae.decode(latents / shape.scaling_factor + shape.shift_factor).sample[0]
        scale = 0.45 / picture.std(dim=(1, 2))
        vae.decoder.conv_out.weight.mul_(scale[:, None, None, None])
        vae.decoder.conv_out.bias.copy_(
            scale * (vae.decoder.conv_out.bias - picture.mean(dim=(1, 2)))
            + 0.1 * torch.randn(3, generator=generator)
        )
    return scheduler, text_encoder, text_encoder_2, transformer, vae


# --- the folder -------------------------------------------------------------------------------


def rename_tensors(folder: Path, rename) -> None:
    """Rewrites every safetensors file of `folder` (and its index) with the names of rename(name)."""
    for file in sorted(folder.glob("*.safetensors")):
        tensors = {new: t.clone() for name, t in load_file(file).items() for new in rename(name)}
        save_file(tensors, file, metadata={"format": "pt"})
    for file in folder.glob("*.safetensors.index.json"):
        index = json.loads(file.read_text())
        index["weight_map"] = {
            new: f for name, f in index["weight_map"].items() for new in rename(name)
        }
        file.write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")


def make_pipeline(root: Path, shape: Shape, seed: int) -> None:
    """Writes a whole pipeline into the folder `root`, which must not exist yet."""
    root.mkdir(parents=True)
    clip_vocab, t5_vocab = write_tokenizers(shape.tokenizers, root)
    generator = torch.Generator("cpu").manual_seed(seed)
    scheduler, text_encoder, text_encoder_2, transformer, vae = build_components(
        shape, clip_vocab, t5_vocab, generator
    )
    dtype = DTYPES[shape.dtype]
    options = {"max_shard_size": shape.max_shard_size} if shape.max_shard_size else {}
    scheduler.save_pretrained(root / "scheduler")
    for name, module in (
        ("text_encoder", text_encoder),
        ("text_encoder_2", text_encoder_2),
        ("transformer", transformer),
        ("vae", vae),
    ):
        module.to(dtype).save_pretrained(root / name, **options)
    classes = {
        "scheduler": ("diffusers", "FlowMatchEulerDiscreteScheduler"),
        "text_encoder": ("transformers", "CLIPTextModel"),
        "text_encoder_2": ("transformers", "T5EncoderModel"),
        "tokenizer": ("transformers", "CLIPTokenizer"),
        "tokenizer_2": ("transformers", "T5TokenizerFast"),
        "transformer": ("diffusers", "FluxTransformer2DModel"),
        "vae": ("diffusers", "AutoencoderKL"),
    }
    index = {"_class_name": shape.pipeline, "_diffusers_version": "0.42.1", **classes}
    (root / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")

    def clip_name(name):
        bare = name.removeprefix("text_model.")
        return ["text_model." + bare if shape.clip_prefix else bare]

    embeddings = ["shared.weight", "encoder.embed_tokens.weight"]

    def t5_name(name):
        if name not in embeddings:
            return [name]
        return embeddings if shape.t5_embedding == "both" else [shape.t5_embedding]

    rename_tensors(root / "text_encoder", clip_name)
    rename_tensors(root / "text_encoder_2", t5_name)
    for file in root.rglob("*.safetensors"):
        file.chmod(0o644)
