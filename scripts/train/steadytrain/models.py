"""The shapes of the four networks, and how latents become tokens."""

import math

import numpy as np
import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from diffusers.models.transformers import transformer_flux
from transformers import (
    CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5TokenizerFast,
)  # fmt: skip

from . import paths, reading

VOCABULARY = 2048
T5_LENGTH = 64  # the tokenizer's model_max_length
CLIP_LENGTH = 77


def new_vae():
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        block_out_channels=(16, 32, 64, 96),
        layers_per_block=1,
        latent_channels=16,
        norm_num_groups=8,
        use_quant_conv=False,
        use_post_quant_conv=False,
        sample_size=128,
    )


def new_transformer(double, single):
    return FluxTransformer2DModel(
        patch_size=1,
        in_channels=64,
        num_layers=double,
        num_single_layers=single,
        attention_head_dim=64,
        num_attention_heads=4,
        joint_attention_dim=256,
        pooled_projection_dim=128,
        guidance_embeds=False,
        axes_dims_rope=(16, 24, 24),
    )


def new_t5():
    return T5EncoderModel(
        T5Config(
            vocab_size=VOCABULARY,
            d_model=256,
            d_kv=64,
            num_heads=4,
            d_ff=512,
            num_layers=2,
            feed_forward_proj="gated-gelu",
            dropout_rate=0.0,
            is_encoder_decoder=False,
            use_cache=False,
            tie_word_embeddings=False,
            pad_token_id=0,
            eos_token_id=1,
        )
    )


def new_clip():
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=VOCABULARY,
            hidden_size=128,
            intermediate_size=512,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=CLIP_LENGTH,
            projection_dim=128,
            bos_token_id=VOCABULARY - 2,
            eos_token_id=VOCABULARY - 1,
            pad_token_id=VOCABULARY - 1,
            hidden_act="quick_gelu",
            attention_dropout=0.0,
        )
    )


def tokenizer_folders(pipeline=None):
    """(CLIP's, T5's): those of a pipeline folder, or the ones that train_tokenizers.py made."""
    if pipeline:
        return pipeline / "tokenizer", pipeline / "tokenizer_2"
    return (
        paths.need(paths.TOKENIZERS / "clip", "train_tokenizers.py"),
        paths.need(paths.TOKENIZERS / "t5", "train_tokenizers.py"),
    )


def load_tokenizers(pipeline=None):
    clip, t5 = tokenizer_folders(pipeline)
    return (
        CLIPTokenizer.from_pretrained(clip, model_max_length=CLIP_LENGTH),
        T5TokenizerFast.from_pretrained(t5, model_max_length=T5_LENGTH),
    )


def initialize_transformer(transformer):
    """Modulation and output start at zero, so that every block starts as the identity."""
    for name, parameter in transformer.named_parameters():
        modulation = ".norm" in name and "linear" in name
        if parameter.dim() == 2:
            if modulation or name.startswith(("proj_out", "norm_out")):
                torch.nn.init.zeros_(parameter)
            else:
                torch.nn.init.normal_(parameter, std=0.7 / math.sqrt(parameter.shape[1]))
        elif name.endswith("bias"):
            torch.nn.init.zeros_(parameter)


def pack(latents):
    """[B, C, h, w] -> [B, (h/2)(w/2), 4C], channel order (c, row, column)."""
    b, c, h, w = latents.shape
    latents = latents.view(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return latents.reshape(b, (h // 2) * (w // 2), 4 * c)


def image_ids(rows, columns):
    """[rows * columns, 3]: (0, row, column) of each token."""
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    return torch.stack([torch.zeros_like(row), row, column], -1).view(-1, 3).float()


def to_tensor(pictures):
    """Pictures as uint8 [B, H, W, 3], an array or a tensor -> [B, 3, H, W] in -1 .. 1."""
    return torch.as_tensor(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1


class Tokenize:
    """Captions -> (T5's ids [n, 64], CLIP's [n, 77], how many of both are not padding [n]), as
    int16 arrays."""

    def __init__(self, clip_tokenizer, t5_tokenizer):
        self.clip_tokenizer, self.t5_tokenizer = clip_tokenizer, t5_tokenizer

    def __call__(self, captions):
        padded = dict(padding="max_length", truncation=True, return_tensors="np")
        t5 = self.t5_tokenizer(captions, max_length=T5_LENGTH, **padded)
        clip = self.clip_tokenizer(captions, max_length=CLIP_LENGTH, **padded)
        lengths = np.maximum(t5.attention_mask.sum(1), clip.attention_mask.sum(1))
        return t5.input_ids.astype(np.int16), clip.input_ids.astype(np.int16), lengths


class _Rotation(torch.autograd.Function):
    """x [B, S, H, D] turned by angles [S, 1, D / 2], in pairs of neighbours; computed in fp32."""

    @staticmethod
    def forward(ctx, x, cos, sin):
        ctx.save_for_backward(cos, sin)
        result = torch.empty_like(x)
        even, odd = x[..., 0::2], x[..., 1::2]
        torch.addcmul(even * cos, odd, sin, value=-1, out=result[..., 0::2])
        torch.addcmul(odd * cos, even, sin, out=result[..., 1::2])
        return result

    @staticmethod
    def backward(ctx, gradient):
        cos, sin = ctx.saved_tensors
        return _Rotation.apply(gradient.contiguous(), cos, -sin), None, None


def rotate_quickly():
    """Makes diffusers' Flux rotate queries and keys by four small kernels instead of ten with fp32
    between them, which are half of all the traffic in a narrow transformer. Same values."""

    def apply_rotary_emb(x, angles, sequence_dim):
        assert sequence_dim == 1
        cos, sin = (part[:, None, 0::2].contiguous() for part in angles)
        return _Rotation.apply(x, cos, sin)

    transformer_flux.apply_rotary_emb = apply_rotary_emb


class _Rows(torch.autograd.Function):
    """Rows of an embedding [V, D] by ids [..]; the gradient is a product, without the sorting that
    makes a recorded step wait for the CPU."""

    @staticmethod
    def forward(ctx, weight, ids):
        ctx.save_for_backward(ids)
        ctx.rows = len(weight)
        return torch.nn.functional.embedding(ids, weight)

    @staticmethod
    def backward(ctx, gradient):
        (ids,) = ctx.saved_tensors
        gradient = gradient.flatten(0, -2)
        chosen = gradient.new_zeros(ids.numel(), ctx.rows).scatter_(1, ids.reshape(-1, 1), 1)
        return chosen.T @ gradient, None


def _attention(q, k, v, heads, bias, scale):
    """Softmax attention over [B, S, D], of few tokens: the scores are written out, plus `bias`."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    weights = ((q * scale) @ k.mT + bias).float().softmax(-1).to(v.dtype)
    return (weights @ v).transpose(1, 2).flatten(2)


def encode_t5(t5, ids):
    """T5EncoderModel's hidden states [B, S, D] of ids [B, S], in plain operations."""
    f = torch.nn.functional
    first = t5.encoder.block[0].layer[0].SelfAttention
    place = torch.arange(ids.shape[1], device=ids.device)
    buckets = first._relative_position_bucket(
        place[None, :] - place[:, None],
        num_buckets=first.relative_attention_num_buckets,
        max_distance=first.relative_attention_max_distance,
    )
    bias = _Rows.apply(first.relative_attention_bias.weight, buckets).permute(2, 0, 1)

    def norm(module, x):
        return f.rms_norm(x, x.shape[-1:], module.weight, module.variance_epsilon)

    x = _Rows.apply(t5.get_input_embeddings().weight, ids)
    for block in t5.encoder.block:
        attention, hidden = block.layer[0].SelfAttention, norm(block.layer[0].layer_norm, x)
        q, k, v = attention.q(hidden), attention.k(hidden), attention.v(hidden)
        x = x + attention.o(_attention(q, k, v, attention.n_heads, bias, 1.0))
        dense, hidden = block.layer[1].DenseReluDense, norm(block.layer[1].layer_norm, x)
        x = x + dense.wo(f.gelu(dense.wi_0(hidden), approximate="tanh") * dense.wi_1(hidden))
    return norm(t5.encoder.final_layer_norm, x)


def encode_clip(clip, ids):
    """CLIPTextModel's pooled vector [B, D] of ids [B, S], in plain operations."""
    text = getattr(clip, "text_model", clip)
    length, end = ids.shape[1], ids == clip.config.eos_token_id
    x = _Rows.apply(text.embeddings.token_embedding.weight, ids)
    x = x + text.embeddings.position_embedding.weight[:length]
    later = torch.ones(length, length, dtype=torch.bool, device=ids.device).triu(1)
    bias = torch.zeros(length, length, dtype=x.dtype, device=ids.device)
    bias = bias.masked_fill(later, torch.finfo(x.dtype).min)
    for layer in text.encoder.layers:
        attention, hidden = layer.self_attn, layer.layer_norm1(x)
        q, k, v = attention.q_proj(hidden), attention.k_proj(hidden), attention.v_proj(hidden)
        heads, scale = clip.config.num_attention_heads, attention.scale
        x = x + attention.out_proj(_attention(q, k, v, heads, bias, scale))
        hidden = layer.mlp.fc1(layer.layer_norm2(x))
        x = x + layer.mlp.fc2(hidden * torch.sigmoid(1.702 * hidden))
    first_end = end & (end.cumsum(1) == 1)
    return (text.final_layer_norm(x) * first_end[..., None]).sum(1)


class TextToLatents(torch.nn.Module):
    """What the transformer's training trains: both text encoders and the transformer."""

    def __init__(self, double=3, single=6):
        super().__init__()
        self.transformer = new_transformer(double, single)
        self.t5, self.clip = new_t5(), new_clip()
        initialize_transformer(self.transformer)
        self._ids = {}
        self.reader = None

    def add_reader(self, things):
        """What leaves the double blocks is also read, see `reading`: `forward` sets `cell_logits`."""
        self.reader = reading.CellReader(self.transformer.inner_dim, things)

    @classmethod
    def of_shape(cls, state):
        """A model with as many blocks as the weights have."""
        count = lambda kind: len(  # noqa: E731
            {name.split(".")[2] for name in state if name.startswith(f"transformer.{kind}.")}
        )
        return cls(count("transformer_blocks"), count("single_transformer_blocks"))

    def _position_ids(self, rows, columns, text_length, device):
        key = (rows, columns, text_length)
        if key not in self._ids:
            text = torch.zeros(text_length, 3, device=device)
            self._ids[key] = image_ids(rows, columns).to(device), text
        return self._ids[key]

    def forward(self, tokens, t, t5_ids, clip_ids, rows, columns, unsaid=None):
        """[B, rows * columns, 64] noisy at t [B] -> predicted velocity, noise minus picture. `unsaid`
        [B]: samples in which the single blocks' modulations hold the time only, nothing of the text."""
        img_ids, txt_ids = self._position_ids(rows, columns, t5_ids.shape[1], tokens.device)
        between, time, watches = [], [], []
        if self.reader:
            last = self.transformer.transformer_blocks[-1]
            watches.append(last.register_forward_hook(lambda _, __, out: between.append(out[1])))
        if unsaid is not None:
            embedder = self.transformer.time_text_embed.timestep_embedder
            watches.append(embedder.register_forward_hook(lambda _, __, out: time.append(out)))

            def leave_out(block, args, kwargs):
                temb = torch.where(unsaid[:, None], time[0], kwargs["temb"])
                return args, kwargs | dict(temb=temb)

            for block in self.transformer.single_transformer_blocks:
                watches.append(block.register_forward_pre_hook(leave_out, with_kwargs=True))
        # CLIP is causal: padding after the end token does not change the pooled vector.
        velocity = self.transformer(
            hidden_states=tokens,
            encoder_hidden_states=encode_t5(self.t5, t5_ids),
            pooled_projections=encode_clip(self.clip, clip_ids),
            timestep=t,
            img_ids=img_ids,
            txt_ids=txt_ids,
            return_dict=False,
        )[0].float()
        for watch in watches:
            watch.remove()
        self.cell_logits = self.reader(between[0]) if self.reader else None
        return velocity

    def read_cells(self, *inputs):
        """What the reader makes of forward()'s inputs, without the single blocks."""
        single = self.transformer.single_transformer_blocks
        self.transformer.single_transformer_blocks = torch.nn.ModuleList()
        self.forward(*inputs)
        self.transformer.single_transformer_blocks = single
        return self.cell_logits

    @torch.no_grad()
    def load_pipeline(self, pipeline, clip_tokenizer, t5_tokenizer):
        """Takes the weights of a diffusers FLUX folder with at most as many blocks. Blocks that it
        does not have stay as they are, at first the identity; embeddings go by the tokens' text,
        those of new tokens are the mean of what the old tokenizer made of them."""
        old_clip, old_t5 = load_tokenizers(pipeline)
        for target, folder, module in (
            (self.transformer, "transformer", FluxTransformer2DModel),
            (self.t5, "text_encoder_2", T5EncoderModel),
            (self.clip, "text_encoder", CLIPTextModel),
        ):
            loaded = module.from_pretrained(pipeline, subfolder=folder).float().state_dict()
            state = target.state_dict()
            unknown = loaded.keys() - state.keys()
            if unknown:
                raise SystemExit(f"{pipeline}: no place for its {sorted(unknown)[0]}")
            state.update(loaded)
            target.load_state_dict(state)
        move_embedding(self.t5.get_input_embeddings(), old_t5, t5_tokenizer)
        move_embedding(self.clip.get_input_embeddings(), old_clip, clip_tokenizer)


def move_embedding(embedding, old, new):
    """Gives every token of `new` the row that its text has in `old`."""
    before, rows = embedding.weight.clone(), old.get_vocab()
    for token, row in new.get_vocab().items():
        if token in rows:
            parts = [rows[token]]
        else:
            text = token.replace("</w>", "").replace("\u2581", " ")
            parts = old(text, add_special_tokens=False).input_ids or [old.unk_token_id]
        embedding.weight[row] = before[parts].mean(0)
