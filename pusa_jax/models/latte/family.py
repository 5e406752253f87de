"""Latte with a timestep per frame as a family, with the settings of FVDM."""

import dataclasses

import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from pusa_jax.diffusion.config import SamplingConfig
from pusa_jax.diffusion.process import VARIANCE_PRESERVING
from pusa_jax.models.family import Chunks, Codec, Family, Flops, Network, Preset, Tiles
from pusa_jax.models.latte import flops, sharding, vae
from pusa_jax.models.latte.config import ATTENTION_LINEARS, SIZES, DiTConfig, VAEConfig
from pusa_jax.models.latte.dit import LatteVideo
from pusa_jax.models.latte.labels import Labels, as_features, check_label
from pusa_jax.models.latte.schedule import renoised, sampling_table
from pusa_jax.typing import Latents, Text, Timesteps


def build_dit(config: DiTConfig, rngs: nnx.Rngs | None = None) -> LatteVideo:
    """The denoiser with parameters drawn from `rngs`, or any."""
    return LatteVideo(config, rngs=rngs or nnx.Rngs(0))


def build_vae(config: VAEConfig, rngs: nnx.Rngs | None = None) -> vae.FrameVAE:
    """The autoencoder with parameters drawn from `rngs`, or any."""
    return vae.FrameVAE(config, rngs=rngs or nnx.Rngs(0))


def labels(folder: None, text_len: int) -> Labels:
    """What reads prompts: no file is needed for it."""
    return Labels()


def prepare(dit: LatteVideo, text: Text) -> Float[Array, "B D"]:
    """The embedding of each clip's class; of no class, that of the last row of the table."""
    numbers = text.astype(jnp.float32)
    return dit.prepare(jnp.where(numbers < 0, dit.config.num_classes, numbers))


def prediction(
    dit: LatteVideo, latents: Latents, timesteps: Timesteps, prepared: Float[Array, "B D"]
) -> Float[Array, "B F h w C2"]:
    """The noise in the latents, and behind it where its variance lies, in the latents' dtype."""
    return dit(latents, timesteps, prepared).astype(latents.dtype)


def fitted(settings: SamplingConfig, dit: DiTConfig, vae: VAEConfig) -> SamplingConfig:
    """Size and length are those of the tables of positions; only classes can be guided to."""
    height, width = (
        cells * patch * vae.spatial_stride
        for cells, patch in zip(dit.grid, dit.patch_size[1:], strict=True)
    )
    scale = settings.guidance_scale if dit.num_classes else 1.0
    return dataclasses.replace(
        settings, height=height, width=width, num_frames=dit.num_frames, guidance_scale=scale
    )


def check_clip(dit: DiTConfig, vae: VAEConfig, shape: tuple[int, ...]) -> None:
    """Raises ValueError unless the denoiser has a position for every frame and every patch."""
    _, frames, *cells = shape
    if frames != dit.num_frames:
        pieces = f"; longer clips are sampled in pieces, as with --overlap {dit.num_frames // 2}"
        pieces *= frames > dit.num_frames
        raise ValueError(
            f"{frames} frames, but this model has positions for {dit.num_frames}{pieces}."
        )
    wanted = [n * p for n, p in zip(dit.grid, dit.patch_size[1:], strict=True)]
    if cells[:2] != wanted:
        size, right = (
            "x".join(str(n * vae.spatial_stride) for n in sides) for sides in (cells[:2], wanted)
        )
        raise ValueError(
            f"clips of {size} pixels, height x width, but this model has positions for {right}."
        )


PUBLISHED = SamplingConfig(
    height=256,
    width=256,
    num_frames=16,
    fps=8,
    num_steps=50,
    guidance_scale=7.0,
    solver="ddim",
    tiled=False,
)
"""configs/*/*_sample_video.yaml: DDIM with 50 steps, guidance 7 where there are classes."""

WHOLE = Tiles(size=(128, 128), stride=(128, 128))
"""One tile: frames are small."""

LATTE = Family(
    name="latte",
    networks={
        "dit": Network(config=DiTConfig, build=build_dit, sharding=sharding.DIT),
        "vae": Network(config=VAEConfig, build=build_vae, sharding=sharding.VAE),
    },
    codec=Codec(
        encode=Chunks(first=vae.encode_first, next=vae.encode_next),
        decode=Chunks(first=vae.decode_first, next=vae.decode_next),
        sampling_tiles=WHOLE,
        dataset_tiles=WHOLE,
    ),
    tokenizer=labels,
    encode_prompt=as_features,
    given=None,
    prepare=prepare,
    prepared_axes=P("data", None),
    velocity=prediction,
    process=VARIANCE_PRESERVING,
    table=sampling_table,
    renoised=renoised,
    training_schedule="linear_betas",
    lora_targets=ATTENTION_LINEARS,
    flops=Flops(
        velocity=flops.velocity_flops,
        prepare=flops.prepare_flops,
        attention=flops.attention_flops,
        rows=flops.linear_rows,
        text_encoder=flops.text_encoder_flops,
        decode_per_pixel=flops.VAE_DECODE_PER_PIXEL,
    ),
    experts={"dit": 0.0},
    sampling=PUBLISHED,
    negative_prompt="",
    official=PUBLISHED,
    official_negative_prompt="",
    few_steps=None,
    multipliers={
        "i2v": (0.0,),
        "start-end": (0.0, 0.0),
        "interpolate": (0.0, 0.0),
        "complete": (0.0, 0.0),
        "extend": (0.0,) * 4,
        "transition": (0.0,) * 6,
        "loop": (0.0, 0.0),
    },
    fitted=fitted,
    check_prompt=check_label,
    check_clip=check_clip,
    num_classes=lambda dit: dit.num_classes,
)


def _preset(dit: DiTConfig) -> Preset:
    return Preset(family=LATTE, dit=dit, vae=VAEConfig(), text=None)


PRESETS = {
    **{f"fvdm-{size.lower()}-2": _preset(dit) for size, dit in SIZES.items()},
    "fvdm-xl-2-ucf101": _preset(dataclasses.replace(SIZES["XL"], num_classes=101)),
}
"""Name of a published size -> sizes. FVDM's own weights are not published, Latte's are."""
