"""Configuration files that are damaged, absurd, of other classes, or contradict each other."""

import json

from .case import BAD_INPUT, Case, rng

FILES = ["model_index.json", "scheduler/scheduler_config.json", "text_encoder/config.json",
         "text_encoder_2/config.json", "transformer/config.json", "vae/config.json"]
CUTS = 3  # of every file

# (file, key, value); the message has to name file and key.
CLIP, T5, FLUX, VAE, FLOW = (FILES[i] for i in (2, 3, 4, 5, 1))
VALUES = [
    (CLIP, "vocab_size", 0), (CLIP, "vocab_size", "604"), (CLIP, "hidden_size", -1),
    (CLIP, "hidden_size", 1e18), (CLIP, "num_attention_heads", 0),
    (CLIP, "num_hidden_layers", 10**18), (CLIP, "num_hidden_layers", None),
    (CLIP, "layer_norm_eps", 0), (CLIP, "layer_norm_eps", -1e-5), (CLIP, "layer_norm_eps", "1e-5"),
    (CLIP, "hidden_act", "relu"), (CLIP, "hidden_act", 3), (CLIP, "model_type", "clip_vision_model"),
    (CLIP, "max_position_embeddings", 0), (CLIP, "eos_token_id", -1),
    (T5, "d_model", 0), (T5, "d_kv", 2**63), (T5, "d_ff", -1), (T5, "d_ff", [40]),
    (T5, "num_heads", 0), (T5, "num_layers", 2.0), (T5, "num_layers", True),
    (T5, "relative_attention_num_buckets", 0), (T5, "relative_attention_num_buckets", 6),
    (T5, "relative_attention_max_distance", 2), (T5, "layer_norm_epsilon", 2),
    (T5, "dense_act_fn", "relu"), (T5, "is_gated_act", False), (T5, "model_type", "mt5"),
    (FLUX, "num_attention_heads", 0), (FLUX, "num_attention_heads", 2**64),
    (FLUX, "attention_head_dim", -10), (FLUX, "attention_head_dim", 1000000000),
    (FLUX, "axes_dims_rope", [2, 4]), (FLUX, "axes_dims_rope", [3, 3, 4]),
    (FLUX, "axes_dims_rope", [2, 4, 6]), (FLUX, "axes_dims_rope", [0, 5, 5]),
    (FLUX, "axes_dims_rope", "2,4,4"), (FLUX, "axes_dims_rope", []),
    (FLUX, "axes_dims_rope", [2, 2, 2, 4]), (FLUX, "axes_dims_rope", [2, 4, 4.0]),
    (FLUX, "guidance_embeds", 0), (FLUX, "guidance_embeds", "false"), (FLUX, "patch_size", 2),
    (FLUX, "num_layers", -1), (FLUX, "num_layers", 10**6), (FLUX, "in_channels", 0),
    (FLUX, "quantization_config", {"quant_method": "torchao"}),
    (FLUX, "_class_name", "SD3Transformer2DModel"), (FLUX, "_class_name", None),
    (VAE, "block_out_channels", []), (VAE, "block_out_channels", [4, 4, 8, 7]),
    (VAE, "block_out_channels", [4, 4, 8, -8]), (VAE, "block_out_channels", [4] * 9),
    (VAE, "block_out_channels", 8), (VAE, "norm_num_groups", 0), (VAE, "layers_per_block", 0),
    (VAE, "scaling_factor", 0), (VAE, "scaling_factor", "0.36"),
    (VAE, "scaling_factor", 1e300), (VAE, "shift_factor", -1e300), (VAE, "shift_factor", [0.1]),
    (VAE, "latent_channels", 0), (VAE, "out_channels", 4), (VAE, "act_fn", "gelu"),
    (VAE, "latents_mean", [0.0] * 16), (VAE, "use_post_quant_conv", "no"),
    (VAE, "up_block_types", ["UpDecoderBlock2D"] * 3), (VAE, "_class_name", "AutoencoderTiny"),
    (FLOW, "shift", 0), (FLOW, "shift", -3), (FLOW, "shift", "3"), (FLOW, "shift_terminal", 1),
    (FLOW, "num_train_timesteps", 0), (FLOW, "num_train_timesteps", 1e3),
    (FLOW, "max_image_seq_len", 256), (FLOW, "base_shift", 1e18),
    (FLOW, "time_shift_type", "cubic"), (FLOW, "use_karras_sigmas", True),
    (FLOW, "use_dynamic_shifting", "yes"), (FLOW, "_class_name", "EulerDiscreteScheduler"),
    (FILES[0], "_class_name", 5),
]

# Values that are fine alone: the message names what they contradict.
CONTRADICTIONS = [
    (CLIP, "hidden_size", 32, "pooled_projection_dim"),
    (CLIP, "num_attention_heads", 3, "num_attention_heads"),
    (CLIP, "intermediate_size", 64, "mlp.fc1"),
    (CLIP, "num_hidden_layers", 3, "layers.2"),
    (CLIP, "num_hidden_layers", 1, "no place"),
    (CLIP, "max_position_embeddings", 64, "position_embedding"),
    (CLIP, "vocab_size", 605, "token_embedding"),
    (T5, "d_model", 32, "joint_attention_dim"),
    (T5, "d_kv", 16, "SelfAttention"),
    (T5, "num_layers", 1, "no place"),
    (T5, "num_layers", 1000, "missing"),
    (T5, "vocab_size", 1000000, "[1000000, 24]"),
    (FLUX, "joint_attention_dim", 4096, "d_model"),
    (FLUX, "pooled_projection_dim", 768, "hidden_size"),
    (FLUX, "in_channels", 16, "latent_channels"),
    (FLUX, "num_attention_heads", 3, "the config asks for"),
    (FLUX, "num_layers", 19, "missing"),
    (FLUX, "num_layers", 0, "no place"),
    (FLUX, "num_single_layers", 2, "missing"),
    (FLUX, "guidance_embeds", True, "guidance"),
    (VAE, "latent_channels", 4, "out_channels"),
    (VAE, "layers_per_block", 1, "no place"),
    (VAE, "norm_num_groups", 8, "multiples of norm_num_groups"),
    (VAE, "mid_block_add_attention", False, "no place"),
    (VAE, "use_post_quant_conv", True, "post_quant_conv"),
]


def put(file, text):
    data = text if isinstance(text, bytes) else text.encode()
    return lambda model: (model / file).write_bytes(data)


def set_key(file, key, value):
    def damage(model):
        config = json.loads((model / file).read_text())
        config[key] = value
        (model / file).write_text(json.dumps(config))
    return damage


def cut(file, i):
    def damage(model):
        data = (model / file).read_bytes()
        # Never just the newline at the end.
        (model / file).write_bytes(data[: rng("config", file, i).randrange(len(data) - 2)])
    return damage


def steadyflux_json(**values):
    return lambda model: (model / "steadyflux.json").write_text(json.dumps(values))


def cases():
    found = []
    for file in FILES:
        def case(name, damage, *says, path=file):
            return Case(f"{path} {name}", BAD_INPUT, (path, *says), damage=damage)
        found += [case(f"cut ({i})", cut(file, i), "JSON") for i in range(CUTS)]
        found += [
            case("missing", lambda m, f=file: (m / f).unlink(), "model_index.json"
                 if file == "model_index.json" else "not found"),
            case("empty", put(file, ""), "JSON"),
            case("is a list", put(file, "[]"), "expected an object"),
            case("is no JSON", put(file, "num_layers: 2\n"), "JSON"),
        ]
    found += [Case(f"{file}: {key} = {str(value)[:40]}", BAD_INPUT, (file, key),
                   damage=set_key(file, key, value)) for file, key, value in VALUES]
    found += [Case(f"{file}: {key} = {value} does not fit", BAD_INPUT, (says,),
                   damage=set_key(file, key, value)) for file, key, value, says in CONTRADICTIONS]
    found.append(Case("model_index.json of another pipeline", BAD_INPUT,
                      ("model_index.json", "StableDiffusion3Pipeline", "FluxPipeline"),
                      damage=set_key(FILES[0], "_class_name", "StableDiffusion3Pipeline")))
    deep = '{"a":' * 100000
    found += [Case(f"{FLUX} {name}", BAD_INPUT, (FLUX, *says), damage=put(FLUX, text))
              for name, text, *says in [
                  ("nests 100000 objects", deep, "nested"),
                  ("nests 100000 lists", '{"a":' + "[" * 100000 + "]" * 100000 + "}", "nested"),
                  ("is not UTF-8", b'{"a": "\xff\xfe"}', "UTF-8"),
                  ("is UTF-16", '{"num_layers": 2}'.encode("utf-16"), "JSON"),
                  ("is 4 MiB of zero bytes", bytes(4 << 20), "JSON"),
                  ("gives a key twice", '{"num_layers": 2, "num_layers": 3}', "twice"),
                  ("holds 1e400", '{"num_layers": 1e400}', "out of range"),
                  ("has a comment", '{"num_layers": 2} // two', "JSON"),
                  ("is null", "null", "expected an object")]]
    found += [Case(f"steadyflux.json: {values}", BAD_INPUT, ("steadyflux.json", *values),
                   damage=steadyflux_json(**values))
              for values in [{"width": 100}, {"width": 0}, {"height": "64"}, {"height": 1e18},
                             {"num_inference_steps": 0}, {"num_inference_steps": 2.5},
                             {"guidance_scale": -1}, {"max_sequence_length": 513}]]
    found.append(Case("steadyflux.json is empty", BAD_INPUT, ("steadyflux.json",),
                      damage=put("steadyflux.json", "")))
    return found
