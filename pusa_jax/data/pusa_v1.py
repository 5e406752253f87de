"""Imports the published training set PusaV1_training, which is encoded already.

    folder/metadata.csv                        file_name,text
    folder/train/<file_name>.tensors.pth       latents (16,F,h,w), prompt_emb.context (1,512,4096)

The files are pickles; they are read by the restricted reader, which runs nothing in them. They name
no VAE, so the card has no fingerprint.
"""

from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np

from pusa_jax.convert.files.mapped import FileTensors
from pusa_jax.convert.files.torch_zip import open_torch_zip
from pusa_jax.data import importing, lists, writing
from pusa_jax.data.encoded import Example
from pusa_jax.data.lists import Clip
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
    clip_shape, text_shape = importing.first_shapes(listed, lambda clip: _shapes(_opened(clip)))
    card = importing.card_of(MODEL, listed, clip_shape, text_shape)

    def read(clip: Clip) -> Example:
        tensors = _opened(clip)
        importing.check_shapes(_shapes(tensors), card)
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


def _shapes(tensors: FileTensors) -> importing.Shapes:
    """[F, h, w, C] and [L, E] of a file."""
    c, f, h, w = tensors.tensors[LATENTS].shape
    return (f, h, w, c), tuple(tensors.tensors[CONTEXT].shape[1:])


def _without_padding(text: np.ndarray) -> np.ndarray:
    """The rows up to the last that is not zero."""
    (filled,) = np.nonzero(text.astype(np.float32).any(axis=1))
    return text[: int(filled[-1]) + 1 if filled.size else 0]
