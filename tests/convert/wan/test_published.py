"""The files that lie in published folders of Wan2.1, entry by entry."""

import dataclasses

from pusa_jax.convert.wan import published
from pusa_jax.models.t5 import TextConfig
from pusa_jax.models.wan.config import VAEConfig
from pusa_jax.models.wan.family import PRESETS

DIT = PRESETS["wan2.1-t2v-14b"].dit


def test_the_original_denoiser():
    """config.json of Wan-AI/Wan2.1-T2V-14B."""
    assert published.original_dit(DIT) == {
        "_class_name": "WanModel",
        "_diffusers_version": "0.30.0",
        "dim": 5120,
        "eps": 1e-06,
        "ffn_dim": 13824,
        "freq_dim": 256,
        "in_dim": 16,
        "model_type": "t2v",
        "num_heads": 40,
        "num_layers": 40,
        "out_dim": 16,
        "text_len": 512,
    }


DIFFUSERS_DIT = {
    "_class_name": "WanTransformer3DModel",
    "_diffusers_version": "0.33.0",
    "added_kv_proj_dim": None,
    "attention_head_dim": 128,
    "cross_attn_norm": True,
    "eps": 1e-06,
    "ffn_dim": 13824,
    "freq_dim": 256,
    "image_dim": None,
    "in_channels": 16,
    "num_attention_heads": 40,
    "num_layers": 40,
    "out_channels": 16,
    "patch_size": [1, 2, 2],
    "qk_norm": "rms_norm_across_heads",
    "rope_max_seq_len": 1024,
    "text_dim": 4096,
}


def test_the_denoiser_of_diffusers():
    """transformer/config.json of Wan-AI/Wan2.1-T2V-14B-Diffusers."""
    assert published.diffusers_dit(DIT) == DIFFUSERS_DIT


def test_a_text_length_of_its_own_is_kept_though_diffusers_does_not_know_it():
    short = dataclasses.replace(DIT, text_len=32)
    assert published.diffusers_dit(short) == DIFFUSERS_DIT | {"text_len": 32}


def test_input_and_output_channels_are_told_apart():
    odd = dataclasses.replace(DIT, in_dim=36, out_dim=17)
    ours, theirs = published.original_dit(odd), published.diffusers_dit(odd)
    assert (ours["in_dim"], ours["out_dim"]) == (36, 17)
    assert (theirs["in_channels"], theirs["out_channels"]) == (36, 17)


def test_the_autoencoder():
    """vae/config.json; the statistics are held where they are used."""
    found = published.diffusers_vae(VAEConfig())
    mean, std = found.pop("latents_mean"), found.pop("latents_std")
    assert (len(mean), len(std)) == (16, 16)
    assert (mean[:2], std[:2]) == ([-0.7571, -0.7089], [2.8184, 1.4541])
    assert found == {
        "_class_name": "AutoencoderKLWan",
        "_diffusers_version": "0.33.0",
        "attn_scales": [],
        "base_dim": 96,
        "dim_mult": [1, 2, 4, 4],
        "dropout": 0.0,
        "num_res_blocks": 2,
        "temperal_downsample": [False, True, True],
        "z_dim": 16,
    }


def test_the_text_encoder():
    """text_encoder/config.json: UMT5-XXL."""
    assert published.transformers_text(TextConfig()) == {
        "architectures": ["UMT5EncoderModel"],
        "d_ff": 10240,
        "d_kv": 64,
        "d_model": 4096,
        "decoder_start_token_id": 0,
        "dense_act_fn": "gelu_new",
        "dropout_rate": 0.1,
        "eos_token_id": 1,
        "feed_forward_proj": "gated-gelu",
        "is_encoder_decoder": True,
        "is_gated_act": True,
        "layer_norm_epsilon": 1e-06,
        "model_type": "umt5",
        "num_decoder_layers": 24,
        "num_heads": 64,
        "num_layers": 24,
        "pad_token_id": 0,
        "relative_attention_max_distance": 128,
        "relative_attention_num_buckets": 32,
        "scalable_attention": True,
        "tie_word_embeddings": False,
        "vocab_size": 256384,
    }


def test_attention_of_a_text_encoder_need_not_be_as_wide_as_its_tokens():
    config = dataclasses.replace(TextConfig(), dim=48, dim_attn=40, num_heads=5)
    found = published.transformers_text(config)
    assert (found["d_model"], found["d_kv"], found["num_heads"]) == (48, 8, 5)


def test_scheduler_and_parts_of_the_pipeline():
    assert published.SCHEDULER == {
        "_class_name": "UniPCMultistepScheduler",
        "_diffusers_version": "0.33.0",
        "flow_shift": 3.0,
        "num_train_timesteps": 1000,
        "prediction_type": "flow_prediction",
        "use_flow_sigmas": True,
    }
    assert published.MODEL_INDEX == {
        "_class_name": "WanPipeline",
        "_diffusers_version": "0.33.0",
        "scheduler": ["diffusers", "UniPCMultistepScheduler"],
        "text_encoder": ["transformers", "UMT5EncoderModel"],
        "tokenizer": ["transformers", "T5TokenizerFast"],
        "transformer": ["diffusers", "WanTransformer3DModel"],
        "vae": ["diffusers", "AutoencoderKLWan"],
    }
