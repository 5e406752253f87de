"""The config.json files of published Mochi folders, and what else lies beside the networks."""

from typing import Any

from pusa_jax.models.mochi.config import DiTConfig, VAEConfig
from pusa_jax.models.t5 import TextConfig

DIFFUSERS_VERSION = "0.32.0"
"""The first release that knows Mochi; written into configurations."""


def diffusers_dit(config: DiTConfig) -> dict[str, Any]:
    """transformer/config.json of `genmo/mochi-1-preview`."""
    return {
        "_class_name": "MochiTransformer3DModel",
        "_diffusers_version": DIFFUSERS_VERSION,
        "activation_fn": "swiglu",
        "attention_head_dim": config.head_dim,
        "in_channels": config.in_dim,
        "max_sequence_length": config.text_len,
        "num_attention_heads": config.num_heads,
        "num_layers": config.num_layers,
        "out_channels": None,
        "patch_size": config.patch_size[1],
        "pooled_projection_dim": config.context_dim,
        "qk_norm": "rms_norm",
        "text_embed_dim": config.text_dim,
        "time_embed_dim": config.freq_dim,
    }


def diffusers_vae(config: VAEConfig) -> dict[str, Any]:
    """vae/config.json."""
    halvings = len(config.temporal_factors)
    return {
        "_class_name": "AutoencoderKLMochi",
        "_diffusers_version": DIFFUSERS_VERSION,
        "act_fn": "silu",
        "add_attention_block": [False, *(True,) * (halvings + 1)],
        "decoder_block_out_channels": list(config.decoder_dims),
        "encoder_block_out_channels": list(config.encoder_dims),
        "in_channels": 15,
        "latent_channels": config.z_dim,
        "latents_mean": list(config.latent_mean),
        "latents_std": list(config.latent_std),
        "layers_per_block": list(config.num_res_blocks),
        "out_channels": 3,
        "scaling_factor": 1.0,
        "spatial_expansions": [2] * halvings,
        "temporal_expansions": list(config.temporal_factors),
    }


def transformers_text(config: TextConfig) -> dict[str, Any]:
    """text_encoder/config.json."""
    return {
        "architectures": ["T5EncoderModel"],
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
        "model_type": "t5",
        "num_decoder_layers": config.num_layers,
        "num_heads": config.num_heads,
        "num_layers": config.num_layers,
        "pad_token_id": 0,
        "relative_attention_max_distance": config.max_distance,
        "relative_attention_num_buckets": config.num_buckets,
        "tie_word_embeddings": False,
        "vocab_size": config.vocab,
    }


SCHEDULER = {
    "_class_name": "FlowMatchEulerDiscreteScheduler",
    "_diffusers_version": DIFFUSERS_VERSION,
    "invert_sigmas": True,
    "num_train_timesteps": 1000,
    "shift": 1.0,
}
"""Scheduler of `genmo/mochi-1-preview`; everything else is the class's default."""

MODEL_INDEX = {
    "_class_name": "MochiPipeline",
    "_diffusers_version": DIFFUSERS_VERSION,
    "force_zeros_for_empty_prompt": True,
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    "text_encoder": ["transformers", "T5EncoderModel"],
    "tokenizer": ["transformers", "T5TokenizerFast"],
    "transformer": ["diffusers", "MochiTransformer3DModel"],
    "vae": ["diffusers", "AutoencoderKLMochi"],
}
"""What the Diffusers pipeline is made of; an empty prompt means what it meant in training."""
