"""The shapes of the four networks, and how latents become tokens."""

import math

import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from transformers import (
    CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5TokenizerFast,
)  # fmt: skip

from . import paths

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


def new_transformer():
    return FluxTransformer2DModel(
        patch_size=1,
        in_channels=64,
        num_layers=2,
        num_single_layers=4,
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
    """Pictures as uint8 arrays [B, H, W, 3] -> [B, 3, H, W] in -1 .. 1."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1


class TextToLatents(torch.nn.Module):
    """What the transformer's training trains: both text encoders and the transformer."""

    def __init__(self, clip_tokenizer, t5_tokenizer):
        super().__init__()
        self.transformer, self.t5, self.clip = new_transformer(), new_t5(), new_clip()
        initialize_transformer(self.transformer)
        self.clip_tokenizer, self.t5_tokenizer = clip_tokenizer, t5_tokenizer

    def forward(self, tokens, t, captions, rows, columns, text_length):
        """[B, rows * columns, 64] noisy at t [B] -> predicted velocity, noise minus picture."""
        t5_ids = self.t5_tokenizer(
            captions, padding="max_length", max_length=text_length, truncation=True,
            return_tensors="pt",
        ).input_ids  # fmt: skip
        # CLIP is causal: padding after the end token does not change the pooled vector.
        clip_ids = self.clip_tokenizer(
            captions, padding="longest", max_length=CLIP_LENGTH, truncation=True,
            return_tensors="pt",
        ).input_ids  # fmt: skip
        return self.transformer(
            hidden_states=tokens,
            encoder_hidden_states=self.t5(t5_ids)[0],
            pooled_projections=self.clip(clip_ids).pooler_output,
            timestep=t,
            img_ids=image_ids(rows, columns),
            txt_ids=torch.zeros(text_length, 3),
            return_dict=False,
        )[0].float()

    def load_pipeline(self, pipeline):
        """Takes the weights from a diffusers FLUX folder of the same shape."""
        for name, module in (
            ("transformer", FluxTransformer2DModel),
            ("text_encoder_2", T5EncoderModel),
            ("text_encoder", CLIPTextModel),
        ):
            loaded = module.from_pretrained(pipeline, subfolder=name).float()
            target = {"text_encoder": "clip", "text_encoder_2": "t5"}.get(name, name)
            getattr(self, target).load_state_dict(loaded.state_dict())
