"""Imports the published training set PusaV1_training, which is encoded already.

    folder/metadata.csv                        file_name,text
    folder/train/<file_name>.tensors.pth       latents (16,F,h,w), prompt_emb.context (1,512,4096)

The files are pickles; they are read by the restricted reader, which runs nothing in them. They name
no VAE, so the card has no fingerprint.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from pusa_jax.convert.files.mapped import FileTensors
from pusa_jax.convert.files.torch_zip import open_torch_zip
from pusa_jax.convert.networks import config_to_json
from pusa_jax.data import lists, writing
from pusa_jax.data.encoded import Card, Example
from pusa_jax.data.lists import Clip
from pusa_jax.diffusion.tasks import pixel_frames
from pusa_jax.models.families import preset

MODEL = preset("wan2.1-t2v-14b")
"""What encoded the set."""

ENDING = ".tensors.pth"
LATENTS, CONTEXT = "latents", "prompt_emb.context"
"""Tensors of a file; others (features of a first image) belong to other models."""


def import_folder(
    src: str | Path,
    dst: str | Path,
    *,
    no_text: Callable[[], np.ndarray | None] = lambda: None,
    share: tuple[int, int] = (0, 1),
    on_progress: writing.Progress = lambda stage, done, total: None,
) -> writing.Outcome:
    """Makes a dataset of encoded clips in the published form; can be interrupted and continued.

    Args:
      src: folder with list and tensors; the first file that can be read decides the shapes.
      dst: folder of the dataset.
      no_text: features of the empty prompt, which the published files lack.
      share: which share of the clips this process imports, and of how many.
      on_progress: told about the stage "encode".

    Raises:
      FileNotFoundError, ValueError: no list, or no usable clip.
      FileExistsError: dst holds something else.
    """
    listed = lists.read_clips(Path(src))
    clip_shape, text_shape = _first_shapes(listed)
    f, h, w, channels = clip_shape
    coder = MODEL.vae
    if channels != coder.z_dim:
        raise ValueError(
            f"the latents have {channels} channels, {MODEL.family.name}'s VAE has {coder.z_dim}."
        )
    stride = coder.spatial_stride
    card = Card(
        clip_shape=clip_shape,
        text_shape=text_shape,
        pixels=(pixel_frames(f, coder.temporal_stride), h * stride, w * stride),
        vae={"config": config_to_json(coder), "fingerprint": ""},
        text_encoder={"config": config_to_json(MODEL.text), "fingerprint": ""},
        clips=lists.fingerprint(listed),
        clips_per_shard=writing.clips_per_shard(len(listed), clip_shape),
    )

    def read(clip: Clip) -> Example:
        tensors = _opened(clip)
        if (shapes := _shapes(tensors)) != (clip_shape, text_shape):
            raise ValueError(
                f"has latents and text of {list(map(list, shapes))}, the first clip has "
                f"{[list(clip_shape), list(text_shape)]}."
            )
        latents = np.moveaxis(tensors.read(LATENTS), 0, -1).astype(ml_dtypes.bfloat16)
        text = tensors.read(CONTEXT)[0].astype(ml_dtypes.bfloat16)
        return Example(
            name=clip.name, caption=clip.caption, latents=latents, text=_without_padding(text)
        )

    return writing.write_dataset(
        Path(dst),
        listed,
        card,
        read=read,
        encode=lambda clip, example: example,
        no_text=no_text,
        share=share,
        on_progress=on_progress,
    )


def _opened(clip: Clip) -> FileTensors:
    """The tensors of a clip.

    Raises:
      FileNotFoundError: there is no file.
      ValueError: it is damaged, or does not hold what it should.
    """
    path = clip.find(ENDING)
    tensors = open_torch_zip(path, is_nested=True)
    for name, ndim in ((LATENTS, 4), (CONTEXT, 3)):
        if name not in tensors.tensors:
            raise ValueError(f"{path} has no {name}; it has {', '.join(tensors.tensors):.200}.")
        if len(tensors.tensors[name].shape) != ndim:
            raise ValueError(f"{path} has {name} of {list(tensors.tensors[name].shape)}.")
    return tensors


def _shapes(tensors: FileTensors) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """[F, h, w, C] and [L, E] of a file."""
    c, f, h, w = tensors.tensors[LATENTS].shape
    return (f, h, w, c), tuple(tensors.tensors[CONTEXT].shape[1:])


def _first_shapes(listed: list[Clip]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    reason = ""
    for clip in listed:
        try:
            return _shapes(_opened(clip))
        except (ValueError, OSError) as error:
            reason = reason or f"{clip.name}: {error}"
    raise ValueError(f"none of {len(listed)} clips is usable; first: {reason}")


def _without_padding(text: np.ndarray) -> np.ndarray:
    """The rows up to the last that is not zero."""
    (filled,) = np.nonzero(text.astype(np.float32).any(axis=1))
    return text[: int(filled[-1]) + 1 if filled.size else 0]
