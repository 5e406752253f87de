"""Clips and captions -> VAE latents and text features, once, before training.

    media --video--> first frames, scaled to cover, centre cut --VAE--> latents [F,h,w,C]
    caption --tokenizer, UMT5--> features of its tokens [n,E]             } one example, see `data`

This module owns the compiled programs of encoding.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from jaxtyping import UInt8

from pusa_jax.convert.folders.opened import ModelFolder
from pusa_jax.data import folders, lists, writing
from pusa_jax.data.encoded import Card, Example
from pusa_jax.data.folders import FolderConfig
from pusa_jax.data.lists import Clip
from pusa_jax.diffusion.tasks import latent_frames
from pusa_jax.inference.networks import LoadedNetwork
from pusa_jax.inference.text_encoder import TextEncoder
from pusa_jax.media import video
from pusa_jax.media.pictures import PICTURES
from pusa_jax.media.pixels import to_pixels
from pusa_jax.typing import Precision, SourceRate

PATCH = 2
"""Latent cells of height and width per token of the DiT."""

SIZE_MULTIPLE = 8 * PATCH
"""Pixels per token with the finest autoencoder, that of Wan2.1; that of Wan2.2 needs twice as many.
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncodeConfig:
    """What clips are brought to before they are encoded.

    Attributes:
      height, width: pixels, divisible by 16, and by 32 for the autoencoder of Wan2.2.
      num_frames: pixel frames taken from the start of each clip, 4k + 1.
      tiled: encode in overlapping tiles, which needs less memory and changes the result slightly.
      dtype: of the text encoder; the VAE runs in float32.
      source_fps: "model" brings clips to the model's frame rate, by their timestamps; "keep" takes
        their frames one by one, whatever their rate.
      folders: how videos in folders become clips; None is a list of captioned clips.
    """

    height: int = 480
    width: int = 832
    num_frames: int = 81
    tiled: bool = False
    dtype: Precision = "bfloat16"
    source_fps: SourceRate = "model"
    folders: FolderConfig | None = None

    def __post_init__(self):
        self.check_size(SIZE_MULTIPLE)
        if self.folders is None:
            return
        if self.height != self.width:
            raise ValueError(
                f"clips of {self.folders.layout} are square, got {self.height}x{self.width}."
            )
        if self.source_fps != "keep":
            raise ValueError(
                f"clips of {self.folders.layout} are cut by frames, not by time; source_fps must "
                f"be 'keep', got {self.source_fps!r}."
            )

    def check_size(self, multiple: int) -> None:
        """Raises ValueError unless height and width are multiples of so many pixels."""
        for name in ("height", "width"):
            size = getattr(self, name)
            if size < multiple or size % multiple:
                below = max(size // multiple, 1) * multiple
                raise ValueError(
                    f"{name} must be divisible by {multiple}, got {size}; nearest are "
                    f"{below} and {below + multiple}."
                )

    def check_for(self, folder: ModelFolder) -> None:
        """Raises ValueError unless clips of this size can be encoded by the model in a folder."""
        self.check_size(folder.config("vae").spatial_stride * PATCH)
        latent_frames(self.num_frames, folder.config("vae").temporal_stride)


def rate_for(folder: ModelFolder, config: EncodeConfig) -> float | None:
    """Frames per second that clips are brought to; None where they are left as they are."""
    return None if config.source_fps == "keep" else float(folder.family.sampling.fps)


def read_frames(
    path: Path, config: EncodeConfig, fps: float | None = None
) -> UInt8[np.ndarray, "T H W 3"]:
    """The first frames of a clip, or a picture, scaled to cover the size and cut to it.

    Args:
      path: of the clip, a picture being one of a single frame.
      config: size and number of frames.
      fps: rate that the clip is brought to; None leaves it as it is.

    Raises:
      FileNotFoundError, ValueError: the file is missing, broken or too short.
    """
    if path.suffix.lower() in PICTURES:
        frames = video.read_image(path)[None]
        if config.num_frames > 1:
            raise ValueError(
                f"{path} is a picture, {config.num_frames} frames are needed; animations are read "
                "as mp4."
            )
    else:
        frames, _ = video.read_video(path, config.num_frames, fps=fps)
    return video.fit(frames, config.height, config.width, "crop")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """Where clips come from.

    Attributes:
      clips: all of them.
      read: frames of a clip; raises the reason to skip it.
      says: what the card of a dataset says of it, by field.
    """

    clips: Sequence[Clip]
    read: Callable[[Clip], UInt8[np.ndarray, "T H W 3"]]
    says: Mapping[str, Any]


def source_of(src: Path, config: EncodeConfig, fps: float | None) -> Source:
    """Looks through a list of clips, or a folder of videos.

    Args:
      src: see `lists.read_clips` and, with `config.folders`, `folders.found`.
      config: what clips are brought to.
      fps: rate that they are brought to; None leaves theirs.

    Raises:
      FileNotFoundError, ValueError: it is no list or folder of this kind.
    """
    if config.folders is not None:
        videos = folders.found(src, config.folders)
        read = folders.reader(videos, config.num_frames, config.height)
        return Source(clips=videos.clips, read=read, says=videos.says())
    rate = "as in the sources" if fps is None else f"{fps:g}, resampled by timestamps"
    return Source(
        clips=lists.read_clips(src),
        read=lambda clip: read_frames(clip.find(), config, fps),
        says={"frame_rate": rate},
    )


def encode_folder(
    model: str | Path,
    src: str | Path,
    dst: str | Path,
    config: EncodeConfig,
    *,
    share: tuple[int, int] = (0, 1),
    on_progress: writing.Progress = lambda stage, done, total: None,
) -> writing.Outcome:
    """Encodes a folder of clips into a dataset; goes on where an earlier call was interrupted.

    Args:
      model: published or converted folder with VAE, text encoder and tokenizer.
      src: folder of clips or videos, see `source_of`.
      dst: folder of the dataset.
      config: what clips are brought to.
      share: which share of the clips this process encodes, and of how many.
      on_progress: told about the stages "load" and "encode".

    Raises:
      FileNotFoundError, ValueError: model, list or sizes are not usable, or none of the clips is.
      FileExistsError: dst holds something else.
    """
    folder = ModelFolder(model)
    source = source_of(Path(src), config, rate_for(folder, config))
    config.check_for(folder)
    on_progress("load", 0, 2)
    vae = LoadedNetwork(folder, "vae", "float32")
    autoencoder, coder = vae.autoencoder(), vae.config
    on_progress("load", 1, 2)
    text_encoder = TextEncoder(folder, config.dtype)
    on_progress("load", 2, 2)
    f = latent_frames(config.num_frames, coder.temporal_stride)
    h, w = (size // coder.spatial_stride for size in (config.height, config.width))
    shape = (f, h, w, coder.z_dim)
    card = Card(
        clip_shape=shape,
        text_shape=text_encoder.shape,
        pixels=(config.num_frames, config.height, config.width),
        vae=vae.record | {"tiled": config.tiled},
        text_encoder=text_encoder.record | {"computed_in": config.dtype},
        clips=lists.fingerprint(source.clips),
        clips_per_shard=writing.clips_per_shard(len(source.clips), shape),
        **source.says,
    )
    tiles = folder.family.codec.dataset_tiles if config.tiled else None

    def read(clip: Clip) -> UInt8[np.ndarray, "T H W 3"]:
        text_encoder.check(clip.caption)
        return source.read(clip)

    def encode(clip: Clip, frames: np.ndarray) -> Example:
        latents = autoencoder.encode(to_pixels(frames)[None], tiles)[0]
        return Example(
            name=clip.name,
            caption=clip.caption,
            latents=latents.astype(ml_dtypes.bfloat16),
            text=text_encoder(clip.caption).astype(ml_dtypes.bfloat16),
        )

    return writing.write_dataset(
        Path(dst),
        source.clips,
        card,
        read=read,
        encode=encode,
        no_text=functools.partial(text_encoder, ""),
        share=share,
        on_progress=on_progress,
    )
