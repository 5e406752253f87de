"""Clips and captions -> VAE latents and text features, once, before training.

    media --video--> first frames, scaled to cover, centre cut --VAE--> latents [F,h,w,C]
    caption --tokenizer, UMT5--> features of its tokens [n,E]             } one example, see `data`

This module owns the compiled programs of encoding.
"""

import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from jaxtyping import Float, Shaped, UInt8

from pusa_jax.convert.folders.converted import tokenizer_folder
from pusa_jax.data import lists, writing
from pusa_jax.data.encoded import Card, Example
from pusa_jax.data.lists import Clip
from pusa_jax.diffusion.tasks import latent_frames
from pusa_jax.inference import tiling
from pusa_jax.media import video
from pusa_jax.media.pixels import to_pixels, to_uint8
from pusa_jax.models.t5 import T5Encoder
from pusa_jax.models.wan import vae
from pusa_jax.models.wan.config import Precision
from pusa_jax.models.wan.text import Tokenizer, encode_prompt
from pusa_jax.training.networks import Network

SIZE_MULTIPLE = 16
"""Pixels of height and width per token of the DiT: the VAE halves three times, a patch is 2x2."""

TILE, TILE_STRIDE = (34, 34), (18, 16)
"""Latent cells of a tile and between tiles, as Pusa's data processing tiles if asked to."""

PICTURES = (".jpg", ".jpeg", ".png", ".webp")
"""Endings of pictures, which count as clips of one frame."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncodeConfig:
    """What clips are brought to before they are encoded.

    Attributes:
      height, width: pixels, divisible by 16.
      num_frames: pixel frames taken from the start of each clip, 4k + 1.
      tiled: encode in overlapping tiles, which needs less memory and changes the result slightly.
      dtype: of the text encoder; the VAE runs in float32.
    """

    height: int = 480
    width: int = 832
    num_frames: int = 81
    tiled: bool = False
    dtype: Precision = "bfloat16"

    def __post_init__(self):
        for name in ("height", "width"):
            size = getattr(self, name)
            if size < SIZE_MULTIPLE or size % SIZE_MULTIPLE:
                below = max(size // SIZE_MULTIPLE, 1) * SIZE_MULTIPLE
                raise ValueError(
                    f"{name} must be divisible by {SIZE_MULTIPLE}, got {size}; nearest are "
                    f"{below} and {below + SIZE_MULTIPLE}."
                )


class Autoencoder:
    """The VAE of a folder, both ways, one latent frame at a time on the device."""

    def __init__(self, folder: Path):
        """Loads and compiles nothing yet but the weights, see `Network`."""
        network = Network(folder, "vae", "float32")
        self.record, self.config, self._vae = network.record, network.config, network.module
        self._encode_first, self._encode_next = jax.jit(vae.encode_first), jax.jit(vae.encode_next)
        self._decode_first, self._decode_next = jax.jit(vae.decode_first), jax.jit(vae.decode_next)

    def encode(
        self, frames: UInt8[np.ndarray, "T H W 3"], tiled: bool
    ) -> Float[np.ndarray, "F h w C"]:
        """Pixel frames -> normalised latents, float32."""
        if not tiled:
            return np.asarray(self._encode(frames[None]))[0]
        pixels = to_pixels(frames)[None]
        latents = tiling.encode_tiled(self._encode, pixels, self.config, TILE, TILE_STRIDE)
        return np.asarray(latents)[0]

    def _encode(self, frames: np.ndarray) -> Float[jax.Array, "1 F h w C"]:
        stride = self.config.temporal_stride
        latents, cache = self._encode_first(self._vae, _pixels(frames[:, :1]))
        parts = [latents]
        for i in range(1, frames.shape[1], stride):
            chunk = _pixels(frames[:, i : i + stride])
            latents, cache = self._encode_next(self._vae, chunk, cache)
            parts.append(latents)
        return jnp.concatenate(parts, axis=1)

    def decode(self, latents: Shaped[np.ndarray, "F h w C"]) -> UInt8[np.ndarray, "T H W 3"]:
        """Latents -> pixel frames."""
        latents = latents[None].astype(np.float32)
        pixels, cache = self._decode_first(self._vae, latents[:, :1])
        parts = [np.asarray(pixels)]
        for i in range(1, latents.shape[1]):
            pixels, cache = self._decode_next(self._vae, latents[:, i : i + 1], cache)
            parts.append(np.asarray(pixels))
        return to_uint8(np.clip(np.concatenate(parts, axis=1)[0], -1, 1))


def _pixels(frames: np.ndarray) -> np.ndarray:
    return to_pixels(frames) if frames.dtype == np.uint8 else frames


class TextEncoder:
    """Tokenizer and text encoder of a folder."""

    def __init__(self, folder: Path, dtype: Precision):
        """Loads the weights, see `Network`."""
        network = Network(folder, "text_encoder", dtype)
        self.record, self.config = network.record, network.config
        self._encoder = network.module
        assert isinstance(self._encoder, T5Encoder)
        self._tokenizer = Tokenizer(tokenizer_folder(folder), self.config.text_len)
        self._encode = jax.jit(encode_prompt)

    def __call__(self, caption: str) -> Float[np.ndarray, "n E"]:
        """Features of the tokens of a caption, end of sentence included, padding left out."""
        ids, mask = self._tokenizer([caption])
        return np.asarray(self._encode(self._encoder, ids, mask))[0, : int(mask.sum())]


def read_frames(path: Path, config: EncodeConfig) -> UInt8[np.ndarray, "T H W 3"]:
    """The first frames of a clip, or a picture, scaled to cover the size and cut to it.

    Raises:
      FileNotFoundError, ValueError: the file is missing, broken or too short.
    """
    if path.suffix.lower() in PICTURES:
        frames = video.read_image(path)[None]
        if config.num_frames > 1:
            raise ValueError(f"{path} is a picture, {config.num_frames} frames are needed.")
    else:
        frames, _ = video.read_video(path, config.num_frames)
    return video.fit(frames, config.height, config.width, "crop")


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
      src: folder of clips, see `clips.read_clips`.
      dst: folder of the dataset.
      config: size of the clips.
      share: which share of the clips this process encodes, and of how many.
      on_progress: told about the stages "load" and "encode".

    Raises:
      FileNotFoundError, ValueError: model, list or sizes are not usable, or none of the clips is.
      FileExistsError: dst holds something else.
    """
    listed = lists.read_clips(Path(src))
    on_progress("load", 0, 2)
    autoencoder = Autoencoder(Path(model))
    on_progress("load", 1, 2)
    text_encoder = TextEncoder(Path(model), config.dtype)
    on_progress("load", 2, 2)
    coder = autoencoder.config
    f = latent_frames(config.num_frames, coder.temporal_stride)
    h, w = (size // coder.spatial_stride for size in (config.height, config.width))
    shape = (f, h, w, coder.z_dim)
    card = Card(
        clip_shape=shape,
        text_shape=(text_encoder.config.text_len, text_encoder.config.dim),
        pixels=(config.num_frames, config.height, config.width),
        vae=autoencoder.record | {"tiled": config.tiled},
        text_encoder=text_encoder.record | {"computed_in": config.dtype},
        clips=lists.fingerprint(listed),
        clips_per_shard=writing.clips_per_shard(len(listed), shape),
    )

    def read(clip: Clip) -> np.ndarray:
        return read_frames(clip.find(), config)

    def encode(clip: Clip, frames: np.ndarray) -> Example:
        return Example(
            name=clip.name,
            caption=clip.caption,
            latents=autoencoder.encode(frames, config.tiled).astype(ml_dtypes.bfloat16),
            text=text_encoder(clip.caption).astype(ml_dtypes.bfloat16),
        )

    return writing.write_dataset(
        Path(dst),
        listed,
        card,
        read=read,
        encode=encode,
        no_text=functools.partial(text_encoder, ""),
        share=share,
        on_progress=on_progress,
    )
