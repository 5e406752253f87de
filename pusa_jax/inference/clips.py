"""Clips that are sampled side by side: what each has of its own, and what must be alike."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

import jax.numpy as jnp
import numpy as np

from pusa_jax.diffusion.conditioning import FrameCondition
from pusa_jax.diffusion.config import SamplingConfig, Tiling
from pusa_jax.diffusion.tasks import Condition
from pusa_jax.inference.settings import Given, check_call, places_of
from pusa_jax.media.pixels import to_pixels
from pusa_jax.models.family import Family
from pusa_jax.typing import Text


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clip:
    """One of several clips of the same settings.

    Attributes:
      prompt: may be empty.
      conditions: given frames; of all clips they lie at the same places with the same multipliers.
      negative_prompt: used when the guidance scale is not 1; None is the published one.
      seed: of its noise; None is that of the settings.
    """

    prompt: str
    conditions: Sequence[Given] = ()
    negative_prompt: str | None = None
    seed: int | None = None


def layout(conditions: Sequence[Given]) -> list[tuple[int, float]]:
    """(place, multiplier) of every given latent frame, in order."""
    pairs = []
    for given in conditions:
        encoded = isinstance(given, FrameCondition)
        multipliers = (given.multiplier,) if encoded else given.multipliers
        pairs += zip(places_of(given), multipliers, strict=True)
    return sorted(pairs)


def check_alike(clips: Sequence[Clip]) -> None:
    """Makes sure that clips can be sampled side by side.

    Raises:
      TypeError: see `settings.check_call`.
      ValueError: there are none, or frames are not given at the same places of all.
    """
    if not clips:
        raise ValueError("a batch has at least one clip.")
    for clip in clips:
        check_call(clip.prompt, clip.conditions)
    first = layout(clips[0].conditions)
    for number, clip in enumerate(clips[1:], 2):
        if layout(clip.conditions) != first:
            raise ValueError(
                "clips of one batch are given frames at the same places with the same multipliers; "
                f"clip {number} has {layout(clip.conditions)}, clip 1 {first}."
            )


def side_by_side(given: Sequence[Sequence[FrameCondition]]) -> list[FrameCondition]:
    """The given latent frames of several clips [1, 1, h, w, C] as those of one batch [B, ...]."""
    if len(given) == 1:
        return [*given[0]]
    ordered = [sorted(frames, key=lambda frame: frame.index) for frames in given]
    return [
        FrameCondition(
            index=alike[0].index,
            latents=jnp.concatenate([frame.latents for frame in alike]),
            multiplier=alike[0].multiplier,
        )
        for alike in zip(*ordered, strict=True)
    ]


def texts_side_by_side(features: Sequence[Any]) -> tuple[Text, Text]:
    """Features [1, L, E] of all prompts and then of all negative ones, as two [B, L, E]."""
    count = len(features) // 2
    if count == 1:
        return features[0], features[1]
    return jnp.concatenate(features[:count]), jnp.concatenate(features[count:])


def encoded(
    pipe: "Encoder", condition: Condition, settings: SamplingConfig
) -> list[FrameCondition]:
    """Given pixel frames as latent frames in their places.

    Raises:
      ValueError: they are not of the size in `settings`.
    """
    if condition.frames.shape[1:3] != (settings.height, settings.width):
        raise ValueError(
            f"given frames are {condition.frames.shape[1:3]}, the video is "
            f"{(settings.height, settings.width)}: fit them first (pj.fit)."
        )
    latents = pipe.encode(to_pixels(condition.frames)[None], settings.tiled)
    if pipe.family.given is not None and settings.original_conditions:
        latents = pipe.family.given(latents, pipe.autoencoder.config)
    return [
        FrameCondition(  # cut on the host: on a device every place would be compiled for
            index=at, latents=jnp.asarray(latents[:, take : take + 1]), multiplier=multiplier
        )
        for take, at, multiplier in zip(
            condition.take, condition.at, condition.multipliers, strict=True
        )
    ]


class Encoder(Protocol):
    """What brings pixels to latents: a pipeline."""

    family: Family
    autoencoder: Any

    def encode(self, pixels: np.ndarray, tiled: Tiling) -> np.ndarray: ...  # noqa: D102
