"""The world as a dataset of encoded clips: drawn, not read; otherwise like any other.

World --draw, render--> frames --VAE--> latents     }  array_record, see `training.data`
caption --tokenizer, UMT5--> features of its tokens }
"""

import functools
import hashlib
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
from jaxtyping import UInt8

from pusa_jax.convert.folders.opened import ModelFolder
from pusa_jax.data import writing
from pusa_jax.data.encoded import Card, Example
from pusa_jax.data.lists import Clip
from pusa_jax.demo.world import World, draw, render
from pusa_jax.diffusion.tasks import latent_frames
from pusa_jax.inference.networks import LoadedNetwork
from pusa_jax.inference.text_encoder import TextEncoder
from pusa_jax.media.pixels import to_pixels

EncodeClips = Callable[[np.ndarray], np.ndarray]


def encode_world(
    model: Path,
    dst: Path,
    world: World,
    count: int,
    *,
    encode_clips: EncodeClips | None = None,
    seed: int = 0,
    share: tuple[int, int] = (0, 1),
    on_progress: writing.Progress = lambda stage, done, total: None,
) -> writing.Outcome:
    """Draws and encodes the first clips of a world; goes on where it was interrupted.

    Args:
      model: published folder with VAE, text encoder and tokenizer.
      dst: folder of the dataset.
      world: what there is to see.
      count: number of clips.
      encode_clips: [B, T, H, W, 3] -> latents, as the model's own VAE would; it is what is used if
        not given.
      seed: of the sequence of scenes.
      share: which share of the clips this process encodes, and of how many.
      on_progress: told about stage "encode".

    Raises:
      FileNotFoundError, ValueError: the model is not usable.
      FileExistsError: dst holds something else.
    """
    folder = ModelFolder(model)
    vae, text_encoder = LoadedNetwork(folder, "vae", "float32"), TextEncoder(folder, "float32")
    features = functools.cache(text_encoder)
    coder, cells = vae.config, world.size // vae.config.spatial_stride
    frames = latent_frames(world.num_frames, coder.temporal_stride)
    shape = (frames, cells, cells, coder.z_dim)
    listed = [
        Clip(number=i, name=f"{seed}-{i:06d}", caption=draw(world, seed, i).caption, folder=Path())
        for i in range(count)
    ]
    card = Card(
        clip_shape=shape,
        text_shape=text_encoder.shape,
        pixels=(world.num_frames, world.size, world.size),
        vae=vae.record | {"tiled": False},
        text_encoder=text_encoder.record | {"computed_in": "float32"},
        clips=hashlib.sha256(f"{world} {seed} {count}".encode()).hexdigest()[:16],
        clips_per_shard=writing.clips_per_shard(count, shape),
    )

    autoencoder = vae.autoencoder()

    def slowly(videos: np.ndarray) -> np.ndarray:
        return np.concatenate([autoencoder.encode(to_pixels(video)[None]) for video in videos])

    to_latents = slowly if encode_clips is None else encode_clips

    def read(clip: Clip) -> UInt8[np.ndarray, "T H W 3"]:
        return render(draw(world, seed, clip.number))

    def encode(clip: Clip, frames: np.ndarray) -> Example:
        return Example(
            name=clip.name,
            caption=clip.caption,
            latents=to_latents(frames[None])[0].astype(ml_dtypes.bfloat16),
            text=features(clip.caption).astype(ml_dtypes.bfloat16),
        )

    return writing.write_dataset(
        dst,
        listed,
        card,
        read=read,
        encode=encode,
        no_text=functools.partial(features, ""),
        share=share,
        on_progress=on_progress,
    )
