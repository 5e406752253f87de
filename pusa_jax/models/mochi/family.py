"""Mochi-1 as a family, with the settings of Pusa V0.5."""

from typing import Any, cast

import numpy as np
from flax import nnx
from jax.sharding import PartitionSpec as P
from jaxtyping import Float

from pusa_jax.diffusion.config import SamplingConfig
from pusa_jax.models.family import Chunks, Codec, Family, Flops, Network, Preset, Tiles
from pusa_jax.models.mochi import flops, sharding, vae
from pusa_jax.models.mochi.config import ATTENTION_LINEARS, DiTConfig, VAEConfig
from pusa_jax.models.mochi.dit import MochiDiT, PreparedText
from pusa_jax.models.mochi.schedule import in_few_steps, sampling_table
from pusa_jax.models.mochi.text import NEGATIVE_PROMPT, tokenizer
from pusa_jax.models.prompts import encode_prompt
from pusa_jax.models.t5 import T5Encoder, TextConfig
from pusa_jax.typing import Latents, Text, Timesteps


def quarters(size: tuple[int, int]) -> Tiles:
    """Two by two without overlap, and so with seams; sizes in latent cells are even.

    Parity: Pusa V0.5's scripts on one GPU (decode_latents_tiled_spatial, 2 x 2, overlap 0).
    """
    height, width = size
    half = height // 2, width // 2
    return Tiles(size=half, stride=half)


def build_dit(config: DiTConfig, rngs: nnx.Rngs | None = None) -> MochiDiT:
    """The denoiser with parameters drawn from `rngs`, or any."""
    return MochiDiT(config, rngs=rngs or nnx.Rngs(0))


def build_vae(config: VAEConfig, rngs: nnx.Rngs | None = None) -> vae.MochiVAE:
    """The autoencoder with parameters drawn from `rngs`, or any."""
    return vae.MochiVAE(config, rngs=rngs or nnx.Rngs(0))


def build_text_encoder(config: TextConfig, rngs: nnx.Rngs | None = None) -> T5Encoder:
    """The text encoder with parameters drawn from `rngs`, or any."""
    return T5Encoder(config, rngs=rngs or nnx.Rngs(0))


def as_the_autoencoder_has_them(
    latents: Float[np.ndarray, "B F h w C"], config: VAEConfig
) -> Float[np.ndarray, "B F h w C"]:
    """Latents of given frames without their normalisation.

    Parity: Pusa V0.5 puts them among normalised latents so, in training and in all its scripts
    (pipelines_v2v_release.py: the encoder's samples are never passed through dit_latents_to_vae's
    inverse), and undoes a normalisation at the end all the same.
    """
    mean, std = np.asarray([config.latent_mean, config.latent_std], np.float32)
    return latents * std + mean


def prepare(dit: MochiDiT, text: Text) -> PreparedText:
    """The text stream's tokens, the pooled vector and the length of each prompt."""
    return dit.prepare_text(text)


def velocity(dit: MochiDiT, latents: Latents, timesteps: Timesteps, text: PreparedText) -> Latents:
    """Noise - clean, the other way round than Mochi predicts, in the dtype of the latents."""
    return -dit(latents, timesteps, text).astype(latents.dtype)


CUT: Any = PreparedText(*cast(Any, (P("data", None, None), P("data", None), P("data"))))
"""Mesh axes of what is prepared of a prompt: nothing but clips is cut."""

MOCHI = Family(
    name="mochi-1",
    networks={
        "dit": Network(config=DiTConfig, build=build_dit, sharding=sharding.DIT),
        "vae": Network(config=VAEConfig, build=build_vae, sharding=sharding.VAE),
        "text_encoder": Network(
            config=TextConfig, build=build_text_encoder, sharding=sharding.TEXT
        ),
    },
    codec=Codec(
        encode=vae.encode,
        decode=Chunks(first=vae.decode_first, next=vae.decode_next),
        sampling_tiles=Tiles(size=(32, 56), stride=(24, 44)),
        dataset_tiles=Tiles(size=(32, 56), stride=(24, 44)),
        original_tiles=quarters,
    ),
    tokenizer=tokenizer,
    encode_prompt=encode_prompt,
    given=as_the_autoencoder_has_them,
    prepare=prepare,
    prepared_axes=CUT,
    velocity=velocity,
    table=sampling_table,
    training_schedule="linear_quadratic",
    lora_targets=ATTENTION_LINEARS,
    flops=Flops(
        velocity=flops.velocity_flops,
        prepare=flops.text_flops,
        attention=flops.attention_flops,
        rows=flops.linear_rows,
        text_encoder=flops.text_encoder_flops,
        decode_per_pixel=flops.VAE_DECODE_PER_PIXEL,
    ),
    experts={"dit": 0.0},
    sampling=SamplingConfig(
        height=480, width=848, num_frames=163, fps=30, num_steps=30, guidance_scale=4.5
    ),
    negative_prompt=NEGATIVE_PROMPT,
    official=SamplingConfig(
        height=480, width=848, num_frames=163, fps=30, num_steps=64, guidance_scale=6.0
    ),
    official_negative_prompt=NEGATIVE_PROMPT,
    few_steps=in_few_steps,
    multipliers={
        "i2v": (0.0,),
        "start-end": (0.3, 0.7),
        "interpolate": (0.3, 0.7),
        "extend": (0.1, 0.3, 0.3, 0.3),
        "transition": (0.1, 0.3, 0.3, 0.3, 0.3, 0.3),
        "loop": (0.3, 0.7),
    },
)

PRESETS = {
    "mochi-1-preview": Preset(
        family=MOCHI,
        dit=DiTConfig(),
        vae=VAEConfig(),
        text=TextConfig(vocab=32128, shared_positions=True, text_len=256),
        hub="genmo/mochi-1-preview",
    ),
}
"""Published name -> sizes."""
