"""Imports clips encoded for Mochi: the published PusaV0.5_Training, or by genmo's fine-tuner.

    folder/videos/**/X.latent.pt      mean, logvar (1,12,F,h,w) of the VAE's posterior
    folder/captions/**/X.embed.pt     y_feat [(1,256,4096)], y_mask [(1,256)] of the caption
    folder/**/X.latent.pt, X.embed.pt (the fine-tuner's: beside each other)

The files are pickles; they are read by the restricted reader, which runs nothing in them. What is
kept of a posterior is its mean, normalised as everywhere here. Captions are kept as features only;
a text beside them (X.txt) is kept as well.
"""

from pathlib import Path

import ml_dtypes
import numpy as np

from pusa_jax.convert.files.mapped import FileTensors
from pusa_jax.convert.files.torch_zip import open_torch_zip
from pusa_jax.data import importing, writing
from pusa_jax.data.encoded import Example
from pusa_jax.data.lists import Clip
from pusa_jax.models.families import preset

MODEL = preset("mochi-1-preview")
"""What encoded the set."""

VIDEOS, CAPTIONS = "videos", "captions"
LATENT, EMBED = ".latent.pt", ".embed.pt"
MEAN, FEATURES, MASK = "mean", "y_feat.0", "y_mask.0"
"""Tensors of the files; a dataset has no use for the posterior's spread."""


def is_such(src: Path) -> bool:
    """Whether a folder holds clips encoded for Mochi."""
    return src.is_dir() and next(src.rglob(f"*{LATENT}"), None) is not None


def import_folder(
    src: str | Path,
    dst: str | Path,
    *,
    share: tuple[int, int] = (0, 1),
    on_progress: writing.Progress = lambda stage, done, total: None,
) -> writing.Outcome:
    """Makes a dataset of encoded clips; can be interrupted and continued.

    Nothing but the clips is needed: Mochi's empty prompt is masked text, no features.

    Args:
      src: folder with the files; the first clip that can be read decides the shapes.
      dst: folder of the dataset.
      share: which share of the clips this process imports, and of how many.
      on_progress: told about the stage "encode".

    Raises:
      FileNotFoundError, ValueError: no usable clip.
      FileExistsError: dst holds something else.
    """
    listed = _listed(Path(src))
    clip_shape, text_shape = importing.first_shapes(listed, lambda clip: _shapes(*_opened(clip)))
    card = importing.card_of(MODEL, listed, clip_shape, text_shape)
    mean, std = np.asarray([MODEL.vae.latent_mean, MODEL.vae.latent_std], np.float32)

    def read(clip: Clip) -> Example:
        latent, embed = _opened(clip)
        importing.check_shapes(_shapes(latent, embed), card)
        z = np.moveaxis(latent.read(MEAN)[0].astype(np.float32), 0, -1)
        return Example(
            name=clip.name,
            caption=clip.caption,
            latents=((z - mean) / std).astype(ml_dtypes.bfloat16),
            text=embed.read(FEATURES)[0, : _length(embed)].astype(ml_dtypes.bfloat16),
        )

    return writing.write_dataset(
        Path(dst),
        listed,
        card,
        read=read,
        encode=lambda clip, example: example,
        no_text=lambda: np.zeros((0, text_shape[1]), ml_dtypes.bfloat16),
        share=share,
        on_progress=on_progress,
    )


def _listed(src: Path) -> list[Clip]:
    """All latents of a folder, by their names in it."""
    root = src / VIDEOS if (src / VIDEOS).is_dir() else src
    files = sorted(root.rglob(f"*{LATENT}"))
    if not files:
        raise FileNotFoundError(f"{src} has no files that end in {LATENT}.")
    clips = []
    for number, file in enumerate(files):
        name = file.relative_to(root).as_posix().removesuffix(LATENT)
        clip = Clip(number=number, name=name, caption="", folder=root)
        text = next((p for p in _beside(clip, ".txt") if p.is_file()), None)
        caption = "" if text is None else text.read_text("utf-8", "replace").strip()
        clips.append(Clip(number=number, name=name, caption=caption, folder=root))
    return clips


def _beside(clip: Clip, ending: str) -> list[Path]:
    """Where what belongs to a clip may be: in the folder of captions, or beside its latents."""
    name = f"{clip.name}{ending}"
    return [clip.folder.parent / CAPTIONS / name, clip.folder / name]


def _opened(clip: Clip) -> tuple[FileTensors, FileTensors]:
    """Latents and features of a clip.

    Raises:
      FileNotFoundError: there are no features.
      ValueError: a file is damaged, or does not hold what it should.
    """
    path = next((p for p in _beside(clip, EMBED) if p.is_file()), None)
    if path is None:
        raise FileNotFoundError(f"{clip.name}{EMBED} is neither in {CAPTIONS} nor beside it.")
    latent = clip.folder / f"{clip.name}{LATENT}"
    return (
        _checked(latent, {MEAN: 5}),
        _checked(path, {FEATURES: 3, MASK: 2}),
    )


def _checked(path: Path, wanted: dict[str, int]) -> FileTensors:
    tensors = open_torch_zip(path, is_nested=True)
    for name, ndim in wanted.items():
        if name not in tensors.tensors:
            raise ValueError(f"{path} has no {name}; it has {', '.join(tensors.tensors):.200}.")
        shape = tensors.tensors[name].shape
        if len(shape) != ndim or shape[0] != 1:
            raise ValueError(f"{path} has {name} of {list(shape)}.")
    return tensors


def _shapes(latent: FileTensors, embed: FileTensors) -> importing.Shapes:
    _, c, f, h, w = latent.tensors[MEAN].shape
    text, mask = (embed.tensors[name].shape[1:] for name in (FEATURES, MASK))
    if mask != text[:1]:
        raise ValueError(f"has features of {list(text)} under a mask of {list(mask)}.")
    _length(embed)
    return (f, h, w, c), tuple(text)


def _length(embed: FileTensors) -> int:
    """Features of a caption that are no padding."""
    mask = embed.read(MASK)[0].astype(bool)
    count = int(mask.sum())
    if mask[count:].any():
        raise ValueError("has a mask with a gap; the padding is expected behind the caption.")
    return count
