"""The config.json files of published Wan folders, and what else lies beside the networks."""

from typing import Any

from pusa_jax.convert.foreign import BOUNDARY
from pusa_jax.models.t5 import TextConfig
from pusa_jax.models.wan.config import DiTConfig, VAEConfig

DIFFUSERS_VERSION = "0.33.0"
"""The first release that knows Wan; written into configurations."""

DIFFUSERS_VERSION_WAN22 = "0.35.0"
"""The first release that knows the networks of Wan2.2."""


def original_dit(config: DiTConfig) -> dict[str, Any]:
    """config.json of `Wan-AI/Wan2.1-T2V-*`."""
    return {
        "_class_name": "WanModel",
        "_diffusers_version": "0.30.0",
        "dim": config.dim,
        "eps": config.eps,
        "ffn_dim": config.ffn_dim,
        "freq_dim": config.freq_dim,
        "in_dim": config.in_dim,
        "model_type": "t2v",
        "num_heads": config.num_heads,
        "num_layers": config.num_layers,
        "out_dim": config.out_dim,
        "text_len": config.text_len,
    }


def original_ti2v(config: DiTConfig) -> dict[str, Any]:
    """config.json of `Wan-AI/Wan2.2-TI2V-5B`."""
    return original_dit(config) | {"model_type": "ti2v"}


def diffusers_dit(config: DiTConfig) -> dict[str, Any]:
    """transformer/config.json of `Wan-AI/Wan2.1-T2V-*-Diffusers`."""
    # Diffusers does not know text_len, which is 512 in every published model; others keep it here.
    text_len = {} if config.text_len == DiTConfig.text_len else {"text_len": config.text_len}
    return text_len | {
        "_class_name": "WanTransformer3DModel",
        "_diffusers_version": DIFFUSERS_VERSION,
        "added_kv_proj_dim": None,
        "attention_head_dim": config.head_dim,
        "cross_attn_norm": True,
        "eps": config.eps,
        "ffn_dim": config.ffn_dim,
        "freq_dim": config.freq_dim,
        "image_dim": None,
        "in_channels": config.in_dim,
        "num_attention_heads": config.num_heads,
        "num_layers": config.num_layers,
        "out_channels": config.out_dim,
        "patch_size": list(config.patch_size),
        "qk_norm": "rms_norm_across_heads",
        "rope_max_seq_len": 1024,
        "text_dim": config.text_dim,
    }


def diffusers_vae(config: VAEConfig) -> dict[str, Any]:
    """vae/config.json."""
    settings = {
        "_class_name": "AutoencoderKLWan",
        "_diffusers_version": DIFFUSERS_VERSION,
        "attn_scales": [],
        "base_dim": config.dim,
        "dim_mult": list(config.dim_mult),
        "dropout": 0.0,
        "latents_mean": list(config.latent_mean),
        "latents_std": list(config.latent_std),
        "num_res_blocks": config.num_res_blocks,
        "temperal_downsample": list(config.temporal_downsample),
        "z_dim": config.z_dim,
    }
    if (config.patch_size, config.decoder_dim, config.has_stage_shortcuts) == (1, None, False):
        return settings
    return settings | {
        "_diffusers_version": DIFFUSERS_VERSION_WAN22,
        "decoder_base_dim": config.decoder_dim,
        "in_channels": 3 * config.patch_size**2,
        "is_residual": config.has_stage_shortcuts,
        "out_channels": 3 * config.patch_size**2,
        "patch_size": config.patch_size,
        "scale_factor_spatial": config.spatial_stride,
        "scale_factor_temporal": config.temporal_stride,
    }


def transformers_text(config: TextConfig) -> dict[str, Any]:
    """text_encoder/config.json."""
    return {
        "architectures": ["UMT5EncoderModel"],
        "d_ff": config.dim_ffn,
        "d_kv": config.dim_attn // config.num_heads,
        "d_model": config.dim,
        "decoder_start_token_id": 0,
        "dense_act_fn": "gelu_new",
        "dropout_rate": 0.1,
        "eos_token_id": 1,
        "feed_forward_proj": "gated-gelu",
        "is_encoder_decoder": True,
        "is_gated_act": True,
        "layer_norm_epsilon": config.eps,
        "model_type": "umt5",
        "num_decoder_layers": config.num_layers,
        "num_heads": config.num_heads,
        "num_layers": config.num_layers,
        "pad_token_id": 0,
        "relative_attention_max_distance": config.max_distance,
        "relative_attention_num_buckets": config.num_buckets,
        "scalable_attention": True,
        "tie_word_embeddings": False,
        "vocab_size": config.vocab,
    }


SCHEDULER = {
    "_class_name": "UniPCMultistepScheduler",
    "_diffusers_version": DIFFUSERS_VERSION,
    "flow_shift": 3.0,
    "num_train_timesteps": 1000,
    "prediction_type": "flow_prediction",
    "use_flow_sigmas": True,
}
"""Scheduler of `Wan-AI/Wan2.1-T2V-*-Diffusers`; everything else is the class's default."""

MODEL_INDEX = {
    "_class_name": "WanPipeline",
    "_diffusers_version": DIFFUSERS_VERSION,
    "scheduler": ["diffusers", "UniPCMultistepScheduler"],
    "text_encoder": ["transformers", "UMT5EncoderModel"],
    "tokenizer": ["transformers", "T5TokenizerFast"],
    "transformer": ["diffusers", "WanTransformer3DModel"],
    "vae": ["diffusers", "AutoencoderKLWan"],
}
"""What the Diffusers pipeline is made of."""

TWO_EXPERTS = {
    "_diffusers_version": DIFFUSERS_VERSION_WAN22,
    BOUNDARY: 0.875,
    "transformer_2": MODEL_INDEX["transformer"],
}
"""What is different for `Wan-AI/Wan2.2-T2V-A14B-Diffusers`."""

EVERY_TOKEN = {"_diffusers_version": DIFFUSERS_VERSION_WAN22, "expand_timesteps": True}
"""What is different for `Wan-AI/Wan2.2-TI2V-5B-Diffusers`: a timestep for each token."""
