#!/usr/bin/env python3
"""Writes tests/fuzz/corpus: a few small inputs per fuzzer from which libFuzzer sets out, and which
ctest replays. Inputs that once failed are added by hand, under names that say what they are."""
import json
import pathlib
import struct
import zlib

CORPUS = pathlib.Path(__file__).parent / "corpus"


def seed(target, name, data):
    path = CORPUS / target / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())


def picked(choice, data):
    """The first byte picks which file the rest becomes."""
    return bytes([choice]) + (data if isinstance(data, bytes) else data.encode())


def config():
    files = [
        {"_class_name": "FluxPipeline", "_diffusers_version": "0.42.1"},
        {"model_type": "clip_text_model", "vocab_size": 2048, "hidden_size": 32,
         "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
         "max_position_embeddings": 77, "eos_token_id": 2, "layer_norm_eps": 1e-5,
         "hidden_act": "quick_gelu"},
        {"model_type": "t5", "vocab_size": 2048, "d_model": 48, "d_kv": 8, "d_ff": 64,
         "num_layers": 2, "num_heads": 4, "relative_attention_num_buckets": 32,
         "relative_attention_max_distance": 128, "layer_norm_epsilon": 1e-6,
         "feed_forward_proj": "gated-gelu", "is_gated_act": True, "dense_act_fn": "gelu_new"},
        {"_class_name": "FluxTransformer2DModel", "patch_size": 1, "in_channels": 16,
         "out_channels": None, "num_layers": 1, "num_single_layers": 2, "attention_head_dim": 16,
         "num_attention_heads": 2, "joint_attention_dim": 48, "pooled_projection_dim": 32,
         "guidance_embeds": True, "axes_dims_rope": [4, 4, 8], "quantization_config": None},
        {"_class_name": "AutoencoderKL", "in_channels": 3, "out_channels": 3, "latent_channels": 4,
         "block_out_channels": [32, 64], "layers_per_block": 1, "norm_num_groups": 8,
         "scaling_factor": 0.3611, "shift_factor": 0.1159, "use_quant_conv": False,
         "use_post_quant_conv": False, "mid_block_add_attention": True, "act_fn": "silu",
         "down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2,
         "latents_mean": None},
        {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 3.0,
         "use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15,
         "base_image_seq_len": 256, "max_image_seq_len": 4096, "shift_terminal": 0.02,
         "time_shift_type": "linear", "use_karras_sigmas": False},
        {"width": 64, "height": 64, "num_inference_steps": 4, "guidance_scale": 3.5,
         "max_sequence_length": 64},
    ]
    for choice, content in enumerate(files):
        seed("config", f"good-{choice}", picked(choice, json.dumps(content)))
    seed("config", "duplicate-key", picked(6, '{"width": 64, "width": 32}'))
    # exp(mu) is infinite for a picture of 4096 tokens: no noise level can come of it.
    seed("config", "infinite-shift", picked(5, json.dumps(
        dict(files[5], time_shift_type="exponential", max_image_seq_len=257, shift_terminal=None))))
    seed("config", "negative-shift", picked(5, json.dumps(dict(files[5], max_shift=-10.0))))


METADATA = {
    "format": 1, "prompt": "a cat, \u732b", "width": 64, "height": 48, "num_inference_steps": 4,
    "guidance_scale": 3.5, "seed": 2**64 - 1, "max_sequence_length": 64, "model": "emoji",
    "model_path": "models/emoji", "model_hash": "00", "dtype": "fp32", "device": "cpu",
    "num_threads": 2, "steadyflux_version": "0.1.0", "libtorch_version": "2",
    "cpu_capability": "AVX2"}


def metadata():
    seed("metadata", "good", json.dumps(METADATA))
    seed("metadata", "no-guidance", json.dumps(dict(METADATA, guidance_scale=None)))
    seed("metadata", "zero-byte", json.dumps(dict(METADATA, prompt="a\0b", model='a,b:"c"\n')))
    seed("metadata", "negative", json.dumps(dict(METADATA, seed=-1)))
    seed("metadata", "negative-prompt", json.dumps(dict(
        METADATA, prompt_2="b", negative_prompt="c\n", negative_prompt_2="d", true_cfg_scale=2)))
    seed("metadata", "sampling", json.dumps(dict(METADATA, scheduler="heun", compat="bfl",
                                                 sigmas=[1, 0.5, 1e-9], shift=2.5)))
    seed("metadata", "sigmas-no-list", json.dumps(dict(METADATA, sigmas={"a": 1}, shift=0)))


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_text():
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0))
    end = chunk(b"IDAT", zlib.compress(bytes(4))) + chunk(b"IEND", b"")
    latin = chunk(b"tEXt", b"parameters\0caf\xe9\nSteps: 4")
    ours = chunk(b"iTXt", b"steadyflux" + bytes(5) + json.dumps(METADATA).encode())
    squeezed = chunk(b"iTXt", b"x\0\1\0\0\0" + zlib.compress(b"text"))
    seed("png_text", "good", start + latin + ours + end)
    seed("png_text", "compressed", start + squeezed + end)
    seed("png_text", "twice", start + latin + latin + chunk(b"tEXt", b"parameters\0x") + end)
    seed("png_text", "cut", start + latin[:-6])


def prompt():
    prompts = {"plain": "a red cat on a green hill", "empty": "", "special": "a </s> <|endoftext|> b",
               "marks": "e\u0301 \ufb01 \u0130 \u1e9b\u0323 \uac00 \u3000 \u2581x", "digits": "x1234567",
               "emoji": "\U0001f469\u200d\U0001f680 \u2764\ufe0f",
               "sentinel": "<extra_id_0> <extra_id_99><pad><unk>"}
    for name, text in prompts.items():
        seed("prompt", name, picked(62, text))
    seed("prompt", "cut", picked(3, "one two three four five six"))
    seed("prompt", "not-utf8", picked(62, b"a\xffb"))


def prompt_file():
    text, lines, csv, tabs = range(4)
    every = {"prompt": "a \"cat\", \u732b", "seed": 2**64 - 1, "width": 64, "height": "48",
             "steps": 4.0, "guidance": 3.5, "max-sequence-length": 64, "n": 2, "output": "a.png"}
    texts = {"prompt_2": " b ", "negative_prompt": "", "negative-prompt-2": "c", "true_cfg_scale": 2}
    seed("prompt_file", "texts", picked(lines, json.dumps({"prompt": "a", **texts})))
    seed("prompt_file", "text", picked(text, "\ufeff# comment\r\na red cat\r\n\r\n  a dog\n\t#\n"
                                       + json.dumps(every)))
    seed("prompt_file", "jsonl", picked(lines, json.dumps(every) + "\n\n" + json.dumps(
        {"num_images": "3", "num_inference_steps": 1, "guidance_scale": 1e3, "prompt": ""})))
    seed("prompt_file", "csv", picked(csv, "\ufeffprompt,seed,n\r\n\"a \"\"red\"\" cat,\r\non a hill\","
                                      "18446744073709551615,\r\n,,\r\na dog, -1 ,2.0"))
    seed("prompt_file", "tsv", picked(tabs, "output\tprompt\na.png\ta, b\n\t\"c\td\"\n"))
    seed("prompt_file", "open-quote", picked(csv, "prompt\n\"a\nb\"\"\n"))
    seed("prompt_file", "twice", picked(lines, '{"n": 1, "num-images": 2, "prompt": "a"}'))
    seed("prompt_file", "nested", picked(text, '{"prompt": {"a": [1]}} x'))
    seed("prompt_file", "not-utf8", picked(text, b"a\n\xffb\0"))
    seed("prompt_file", "utf16", picked(csv, "prompt".encode("utf-16")))


def tensors(header, data):
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def safetensors():
    a = {"dtype": "F32", "shape": [2, 1], "data_offsets": [0, 8]}
    b = {"dtype": "F8_E4M3", "shape": [3], "data_offsets": [8, 11]}
    empty = {"dtype": "BF16", "shape": [0, 5], "data_offsets": [11, 11]}
    good = tensors({"__metadata__": {"format": "pt"}, "a": a, "b": b, "c": empty}, bytes(11))
    seed("safetensors", "good", picked(0, good))
    seed("safetensors", "cut", picked(0, good[:-1]))
    seed("safetensors", "hole", picked(0, tensors({"b": b}, bytes(11))))
    seed("safetensors", "huge-shape", picked(0, tensors(
        {"a": dict(a, shape=[2**62, 2**62, 0], data_offsets=[0, 0])}, b"")))
    seed("safetensors", "index", picked(1, json.dumps(
        {"metadata": {"total_size": 8},
         "weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}})))
    seed("safetensors", "index-leaves-folder", picked(1, json.dumps(
        {"weight_map": {"a": "../model-1.safetensors"}})))
    seed("safetensors", "shard", picked(2, tensors({"a": a}, bytes(8))))


def gguf_text(value):
    data = value if isinstance(value, bytes) else value.encode()
    return struct.pack("<Q", len(data)) + data


def gguf_entry(key, kind, value):
    return gguf_text(key) + struct.pack("<I", kind) + value


def gguf_array(kind, count, values):
    return struct.pack("<IQ", kind, count) + values


def gguf_tensor(name, sides, kind, offset):
    return (gguf_text(name) + struct.pack(f"<I{len(sides)}Q", len(sides), *sides) +
            struct.pack("<IQ", kind, offset))


def gguf_file(entries, tensors, data, version=3, alignment=32):
    start = (b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(entries)) +
             b"".join(entries) + b"".join(tensors))
    return start + bytes(-len(start) % alignment) + data


def gguf():
    numbers = enumerate("B b H h I i f ? s a Q q d".split())
    scalars = [gguf_entry(f"k{kind}", kind, struct.pack("<" + form, 1))
               for kind, form in numbers if form not in "sa"]
    text = gguf_entry("general.architecture", 8, gguf_text("flux \u732b"))
    nested = gguf_entry("nested", 9, gguf_array(9, 2, gguf_array(5, 2, struct.pack("<ii", 1, -2)) +
                                                gguf_array(8, 1, gguf_text("a"))))
    shape = gguf_entry("comfy.gguf.orig_shape.a", 9, gguf_array(5, 3, struct.pack("<iii", 2, 1, 3)))
    two = [gguf_tensor("a", [3, 2], 0, 0), gguf_tensor("b", [32, 2], 8, 32)]
    good = gguf_file(scalars + [text, nested, shape], two, bytes(32 + 68))
    seed("gguf", "good", good)
    seed("gguf", "version-2", gguf_file([text], two, bytes(32 + 96), version=2))
    seed("gguf", "cut", good[:-1])
    seed("gguf", "cut-header", good[:150])
    seed("gguf", "empty", gguf_file([], [], b""))
    seed("gguf", "big-endian", b"GGUF" + struct.pack(">IQQ", 3, 1, 1) + bytes(64))
    seed("gguf", "alignment", gguf_file(
        [gguf_entry("general.alignment", 4, struct.pack("<I", 8))],
        [gguf_tensor("b", [1], 24, 8), gguf_tensor("a", [], 27, 0)], bytes(9), alignment=8))
    seed("gguf", "blocks", gguf_file([], [gguf_tensor("a", [256, 1, 1, 1], 12, 0)], bytes(144)))
    seed("gguf", "unknown-type", gguf_file([], [gguf_tensor("a", [256], 39, 0)], bytes(136)))
    seed("gguf", "huge-counts", b"GGUF" + struct.pack("<IQQ", 3, 2**60, 2**61) + bytes(64))
    seed("gguf", "huge-text", gguf_file([gguf_text("k") + struct.pack("<IQ", 8, 2**60)], [], b""))
    seed("gguf", "huge-array", gguf_file([gguf_entry("k", 9, gguf_array(10, 2**61, b""))], [], b""))
    seed("gguf", "huge-shape", gguf_file([], [gguf_tensor("a", [2**32] * 4, 0, 0)], bytes(64)))
    seed("gguf", "deep", gguf_file([gguf_entry("k", 9, struct.pack("<IQ", 9, 1) * 12)], [], b""))
    seed("gguf", "overlap", gguf_file(
        [], [gguf_tensor("a", [3], 0, 0), gguf_tensor("b", [3], 0, 0)], bytes(64)))


def varint(number):
    out = b""
    while number > 0x7f:
        out += bytes([number & 0x7f | 0x80])
        number >>= 7
    return out + bytes([number])


def field(number, data):
    return varint(number << 3 | 2) + varint(len(data)) + data


def piece(text, score, kind=1):
    return field(1, field(1, text.encode()) + b"\x15" + struct.pack("<f", score) +
                 b"\x18" + varint(kind))


def tokenizer():
    pieces = [("<pad>", 0.0, 3), ("</s>", 0.0, 3), ("<unk>", 0.0, 2), ("\u2581", -2.0, 1),
              ("\u2581a", -1.0, 1), ("a", -3.0, 1), ("b", -3.5, 1)]
    # The trie of a charsmap: the root's children lie at 0x61 ^ 1, 'a' has a value, which is 0.
    units = [0] * 128
    units[0] = 1 << 10
    units[0x60] = 0x61 | 1 << 8 | 2 << 10
    units[0x62] = 1 << 31
    charsmap = struct.pack(f"<I{len(units)}I", 4 * len(units), *units) + b"b\0"
    model = (b"".join(piece(*each) for each in pieces) + field(2, b"\x18\x01") +
             field(3, field(1, b"nmt_nfkc") + field(2, charsmap)))
    clip = {"version": "1.0", "added_tokens": [
                {"id": 4, "content": "<|endoftext|>", "special": True, "normalized": False,
                 "lstrip": False, "rstrip": True, "single_word": False}],
            "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}]},
            "model": {"type": "BPE", "unk_token": "<|endoftext|>", "end_of_word_suffix": "</w>",
                      "vocab": {"a": 0, "a</w>": 1, "b</w>": 2, "aa": 3, "<|endoftext|>": 4,
                                "<|startoftext|>": 5},
                      "merges": ["a a", ["a", "a</w>"]]}}
    t5 = {"model": {"type": "Unigram", "unk_id": 2,
                    "vocab": [[text, score] for text, score, _ in pieces]},
          "added_tokens": [{"id": 0, "content": "<pad>", "special": True}]}
    seed("tokenizer", "clip-json", picked(0, json.dumps(clip)))
    seed("tokenizer", "t5-json", picked(0, json.dumps(t5)))
    seed("tokenizer", "spiece", picked(1, model))
    seed("tokenizer", "spiece-cut", picked(1, model[:40]))
    seed("tokenizer", "vocab", picked(2, json.dumps(clip["model"]["vocab"])))
    seed("tokenizer", "merges", picked(3, "#version: 0.2\na a\naa a</w>\n"))
    seed("tokenizer", "tokenizer-config", picked(4, json.dumps(
        {"extra_ids": 3, "eos_token": {"content": "</s>", "lstrip": True, "single_word": True},
         "additional_special_tokens": ["<extra_id_0>"], "unk_token": "<unk>",
         "added_tokens_decoder": {"7": {"content": "e", "normalized": True, "rstrip": True}}})))


def lora():
    whole, listed, spec = range(3)
    a = {"dtype": "F32", "shape": [1, 2], "data_offsets": [0, 8]}
    b = {"dtype": "F32", "shape": [2, 1], "data_offsets": [8, 16]}
    seed("lora", "file", picked(whole, tensors(
        {"transformer.proj_out.lora_A.weight": a, "transformer.proj_out.lora_B.weight": b},
        bytes(16))))
    formats = {
        "kohya": """lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight 2,4
lora_unet_double_blocks_0_img_attn_qkv.lora_up.weight 6,2
lora_unet_double_blocks_0_img_attn_qkv.alpha 1
lora_te1_text_model_encoder_layers_0_mlp_fc1.hada_w1_a 3,1
lora_te1_text_model_encoder_layers_0_mlp_fc1.hada_w1_b 1,2
lora_te1_text_model_encoder_layers_0_mlp_fc1.hada_w2_a 3,1
lora_te1_text_model_encoder_layers_0_mlp_fc1.hada_w2_b 1,2
""",
        "peft": """@{"transformer.lora_alpha": 8, "transformer.use_rslora": true, \
"transformer.alpha_pattern": {"to_q": 2}}
transformer.transformer_blocks.0.attn.to_q.lora_A.default.weight 2,4
transformer.transformer_blocks.0.attn.to_q.lora_B.default.weight 4,2
transformer.transformer_blocks.0.attn.to_q.lora_magnitude_vector 4
""",
        "bfl": """diffusion_model.single_blocks.0.linear1.lokr_w1 7,1
diffusion_model.single_blocks.0.linear1.lokr_w2_a 2,1
diffusion_model.single_blocks.0.linear1.lokr_w2_b 1,4
diffusion_model.single_blocks.0.linear1.dora_scale 14,1
diffusion_model.final_layer.adaLN_modulation.1.diff_b 4
diffusion_model.img_in.diff 4,4
diffusion_model.double_blocks.0.txt_attn.norm.key_norm.diff 3
""",
        "xlabs": """single_blocks.3.processor.qkv_lora.down.weight 1,4
single_blocks.3.processor.qkv_lora.up.weight 6,1
double_blocks.3.processor.proj_lora2.down.weight 1,4,1,1
double_blocks.3.processor.proj_lora2.up.weight 4,1,1,1
""",
        "twice": """transformer.proj_out.lora_A.weight 1,1
transformer.proj_out.lora_B.weight 1,1
proj_out.lora_A.weight 1,1
proj_out.lora_B.weight 1,1
""",
        "copies": """transformer.proj_out.lora_A.weight 1,1
transformer.proj_out.lora_B.weight 1,1
lora_unet_final_layer_linear.lora_down.weight 1,1
lora_unet_final_layer_linear.lora_up.weight 1,1
""",
        "no-partner": "proj_out.lora_A.weight 1,1\n",
        "huge-sides": "proj_out.lokr_w1 9223372036854775807,0\nproj_out.lokr_w2 0,1\n",
        "sdxl": "lora_unet_input_blocks_1_0_emb_layers_1.lora_down.weight 1,1\n",
    }
    for name, text in formats.items():
        seed("lora", name, picked(listed, text))
    seed("lora", "spec", picked(spec, "a:b/style.safetensors:-0.8e1"))


for make in (config, lora, metadata, png_text, prompt, prompt_file, safetensors, gguf, tokenizer):
    make()
