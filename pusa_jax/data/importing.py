"""What all imports of clips that are encoded already have in common."""

from collections.abc import Callable, Sequence
from typing import Any

from pusa_jax.convert.networks import config_to_json
from pusa_jax.data import lists, writing
from pusa_jax.data.encoded import Card
from pusa_jax.data.lists import Clip
from pusa_jax.diffusion.tasks import pixel_frames
from pusa_jax.models.family import Preset

Shapes = tuple[tuple[Any, ...], tuple[Any, ...]]
"""Of the latents [F, h, w, C] and of the text [L, E], padding included."""


def first_shapes(listed: Sequence[Clip], shapes_of: Callable[[Clip], Shapes]) -> Shapes:
    """The shapes of the first clip that can be read.

    Raises:
      ValueError: there is none.
    """
    reason = ""
    for clip in listed:
        try:
            return shapes_of(clip)
        except (ValueError, OSError) as error:
            reason = reason or f"{clip.name}: {error}"
    raise ValueError(f"none of {len(listed)} clips is usable; first: {reason}")


def card_of(
    model: Preset, listed: Sequence[Clip], clip_shape: tuple[Any, ...], text_shape: tuple[Any, ...]
) -> Card:
    """The card of a dataset whose files do not name the networks that encoded it.

    Args:
      model: what is known to have encoded it.
      listed: all its clips.
      clip_shape: [F, h, w, C].
      text_shape: [L, E].

    Raises:
      ValueError: the model's autoencoder has other latents.
    """
    f, h, w, channels = clip_shape
    coder = model.vae
    if channels != coder.z_dim:
        raise ValueError(
            f"the latents have {channels} channels, {model.family.name}'s VAE has {coder.z_dim}."
        )
    stride = coder.spatial_stride
    return Card(
        clip_shape=(f, h, w, channels),
        text_shape=(text_shape[0], text_shape[1]),
        pixels=(pixel_frames(f, coder.temporal_stride), h * stride, w * stride),
        vae={"config": config_to_json(coder), "fingerprint": ""},
        text_encoder={"config": config_to_json(model.text), "fingerprint": ""},
        clips=lists.fingerprint(listed),
        clips_per_shard=writing.clips_per_shard(len(listed), clip_shape),
    )


def check_shapes(shapes: Shapes, card: Card) -> None:
    """Raises ValueError if a clip has other shapes than the dataset."""
    wanted = (tuple(card.clip_shape), tuple(card.text_shape))
    if shapes != wanted:
        raise ValueError(
            f"has latents and text of {list(map(list, shapes))}, the first clip has "
            f"{list(map(list, wanted))}."
        )
