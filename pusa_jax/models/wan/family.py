"""Wan2.1 and Wan2.2 as families: the records that sampling, training and planning take."""

import dataclasses

from flax import nnx
from jax.sharding import PartitionSpec as P

from pusa_jax.diffusion.config import SamplingConfig, in_few_steps
from pusa_jax.models.family import Chunks, Codec, Family, Flops, Network, Preset, Reuse, Tiles
from pusa_jax.models.prompts import encode_prompt
from pusa_jax.models.t5 import T5Encoder, TextConfig
from pusa_jax.models.wan import flops, sharding, teacache, vae
from pusa_jax.models.wan.config import BLOCK_LINEARS, WAN22_VAE, DiTConfig, VAEConfig
from pusa_jax.models.wan.dit import TextKV, WanDiT
from pusa_jax.models.wan.schedule import sampling_table
from pusa_jax.models.wan.text import (
    PUSA_NEGATIVE_PROMPT,
    WAN_NEGATIVE_PROMPT,
    tokenizer,
)
from pusa_jax.typing import Latents, Text, Timesteps


def build_dit(config: DiTConfig, rngs: nnx.Rngs | None = None) -> WanDiT:
    """The denoiser with parameters drawn from `rngs`, or any."""
    return WanDiT(config, rngs=rngs or nnx.Rngs(0))


def build_vae(config: VAEConfig, rngs: nnx.Rngs | None = None) -> vae.WanVAE:
    """The autoencoder with parameters drawn from `rngs`, or any."""
    return vae.WanVAE(config, rngs=rngs or nnx.Rngs(0))


def build_text_encoder(config: TextConfig, rngs: nnx.Rngs | None = None) -> T5Encoder:
    """The text encoder with parameters drawn from `rngs`, or any."""
    return T5Encoder(config, rngs=rngs or nnx.Rngs(0))


def prepare(dit: WanDiT, text: Text) -> TextKV:
    """Keys and values of a prompt for every block."""
    return dit.project_text(text)


def velocity(dit: WanDiT, latents: Latents, timesteps: Timesteps, text: TextKV) -> Latents:
    """Noise - clean, which Wan predicts as it is, in the dtype of the latents."""
    return dit(latents, timesteps, text).astype(latents.dtype)


WAN21 = Family(
    name="wan2.1",
    networks={
        "dit": Network(config=DiTConfig, build=build_dit, sharding=sharding.DIT),
        "vae": Network(config=VAEConfig, build=build_vae, sharding=sharding.VAE),
        "text_encoder": Network(
            config=TextConfig, build=build_text_encoder, sharding=sharding.TEXT
        ),
    },
    codec=Codec(
        encode=Chunks(first=vae.encode_first, next=vae.encode_next),
        decode=Chunks(first=vae.decode_first, next=vae.decode_next),
        # Pusa's pipelines: tile_size (30, 52), tile_stride (15, 26).
        sampling_tiles=Tiles(size=(30, 52), stride=(15, 26)),
        # Pusa's data processing, if asked to tile: (34, 34), (18, 16).
        dataset_tiles=Tiles(size=(34, 34), stride=(18, 16)),
    ),
    tokenizer=tokenizer,
    encode_prompt=encode_prompt,
    given=None,
    prepare=prepare,
    prepared_axes=(P(None, "data", "context", "tensor", None),) * 2,  # [layers, B, L, K, P]
    velocity=velocity,
    table=sampling_table,
    reuse=Reuse(
        check=teacache.check,
        left_out=teacache.decide,
        velocity=teacache.velocity_and_residual,
    ),
    training_schedule="shifted",
    lora_targets=BLOCK_LINEARS,
    flops=Flops(
        velocity=flops.velocity_flops,
        prepare=flops.text_flops,
        attention=flops.attention_flops,
        rows=flops.linear_rows,
        text_encoder=flops.text_encoder_flops,
        decode_per_pixel=flops.VAE_DECODE_PER_PIXEL,
    ),
    experts={"dit": 0.0},
    sampling=SamplingConfig(),
    negative_prompt=PUSA_NEGATIVE_PROMPT,
    official=SamplingConfig(num_steps=50, guidance_scale=5.0, solver="unipc", tiled=False),
    official_negative_prompt=WAN_NEGATIVE_PROMPT,
    few_steps=in_few_steps,
    multipliers={},
)

WAN22 = dataclasses.replace(
    WAN21,
    name="wan2.2",
    networks={**WAN21.networks, "dit_low": WAN21.networks["dit"]},
    experts={"dit": 0.875, "dit_low": 0.0},
    official=SamplingConfig(
        num_steps=40,
        guidance_scale=4.0,
        low_guidance_scale=3.0,
        shift=12.0,
        solver="unipc",
        tiled=False,
    ),
    multipliers={"extend": (0.2, 0.4, 0.4, 0.4)},
)
"""T2V-A14B: one denoiser for high noise and one for low, of one shape."""

WAN22_TI2V = dataclasses.replace(
    WAN21,
    name="wan2.2-ti2v",
    flops=dataclasses.replace(WAN21.flops, decode_per_pixel=flops.VAE22_DECODE_PER_PIXEL),
    # Pusa has published nothing for it: its steps, guidance and shift, the base model's size.
    sampling=SamplingConfig(height=704, num_frames=121, fps=24),
    official=SamplingConfig(
        height=704,
        num_frames=121,
        fps=24,
        num_steps=50,
        guidance_scale=5.0,
        solver="unipc",
        tiled=False,
    ),
    multipliers=WAN22.multipliers,
)
"""TI2V-5B: one denoiser on the latents of the VAE of Wan2.2."""

PRESETS = {
    "wan2.1-t2v-1.3b": Preset(
        family=WAN21,
        dit=DiTConfig(dim=1536, ffn_dim=8960, num_heads=12, num_layers=30),
        vae=VAEConfig(),
        text=TextConfig(),
        hub="Wan-AI/Wan2.1-T2V-1.3B",
    ),
    "wan2.1-t2v-14b": Preset(
        family=WAN21,
        dit=DiTConfig(dim=5120, ffn_dim=13824, num_heads=40, num_layers=40),
        vae=VAEConfig(),
        text=TextConfig(),
        hub="Wan-AI/Wan2.1-T2V-14B",
    ),
    "wan2.2-t2v-a14b": Preset(
        family=WAN22,
        dit=DiTConfig(dim=5120, ffn_dim=13824, num_heads=40, num_layers=40),
        vae=VAEConfig(),
        text=TextConfig(),
        hub="Wan-AI/Wan2.2-T2V-A14B",
    ),
    "wan2.2-ti2v-5b": Preset(
        family=WAN22_TI2V,
        dit=DiTConfig(dim=3072, ffn_dim=14336, num_heads=24, num_layers=30, in_dim=48, out_dim=48),
        vae=WAN22_VAE,
        text=TextConfig(),
        hub="Wan-AI/Wan2.2-TI2V-5B",
    ),
}
"""Published name -> sizes."""
