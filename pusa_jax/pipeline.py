"""Prompt and given frames in, video out: wires text encoder, VAE, DiT and sampler together.

This module owns the compiled programs. One program serves every task, step count, guidance scale,
shift and multiplier of a latent shape, because those are data: rows of a noise table.

DiT and text encoder run on a mesh, of one device or of all devices of all processes. The VAE runs
on one device of each process, and what passes between them passes through the host, so that every
process holds the same clip.
"""

import dataclasses
import hashlib
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, UInt8

from pusa_jax.diffusion.conditioning import FrameCondition, check_conditions, place
from pusa_jax.diffusion.flow import NoiseTable
from pusa_jax.diffusion.guidance import guided, guided_together
from pusa_jax.diffusion.sampling import denoise, start
from pusa_jax.diffusion.tasks import Condition, latent_frames
from pusa_jax.meshes import MeshLike, is_together
from pusa_jax.models.t5 import T5Encoder
from pusa_jax.models.wan import tiling, vae
from pusa_jax.models.wan.config import DiTConfig, VAEConfig
from pusa_jax.models.wan.dit import WanDiT
from pusa_jax.models.wan.schedule import noise_table
from pusa_jax.models.wan.text import PUSA_NEGATIVE_PROMPT, Tokenizer, encode_prompt
from pusa_jax.pixels import to_pixels, to_uint8
from pusa_jax.sharding import make_mesh
from pusa_jax.typing import Latents, Text

TILE = (30, 52)
TILE_STRIDE = (15, 26)
"""Latent cells of a VAE tile and the distance between tiles, as Pusa's pipelines use them."""

BothTexts = tuple[Float[Array, "*axes L K P"], Float[Array, "*axes L K P"]]
"""Keys and values of prompt and negative prompt, see `project_texts`."""

Given = Condition | FrameCondition
"""Pixel frames that are encoded first, or a latent frame as it is: of an earlier run, say."""

Stage = Literal["load", "text", "encode", "compile", "denoise", "decode"]


Progress = Callable[[str, int, int], None]
"""Called with a stage, how much of it is done and how much there is."""


def no_progress(stage: str, done: int, total: int) -> None:
    """Reports nothing."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything besides weights, prompt and conditions that decides a result.

    Attributes:
      height, width: pixels, divisible by 16.
      num_frames: pixel frames, 4k + 1.
      guidance_scale: 1 is off.
      original_timesteps: tell the DiT timesteps rounded as the original does (to whole numbers with
        conditions, through bfloat16 in a bfloat16 run); else exactly 1000 * sigma.
      tiled: encode and decode in overlapping tiles, as Pusa's pipelines do by default. Changes
        results slightly, because the VAE's attention then sees one tile at a time.
    """

    height: int = 720
    width: int = 1280
    num_frames: int = 81
    num_steps: int = 30
    guidance_scale: float = 3.0
    shift: float = 5.0
    seed: int = 0
    original_timesteps: bool = True
    tiled: bool = True

    def __post_init__(self):
        if not math.isfinite(self.guidance_scale):
            raise ValueError(f"the guidance scale must be a number, got {self.guidance_scale}.")
        if not 0 <= self.seed < 2**32:  # of larger ones jax.random.key drops the upper bits
            raise ValueError(f"the seed must be 0 to {2**32 - 1}, got {self.seed}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Output:
    """A finished run.

    Attributes:
      frames: RGB [T, H, W, 3].
      latents: final latents [1, F, h, w, C], float32.
      settings: what was used, prompts included, as plain values.
      seconds: wall time of each stage.
    """

    frames: UInt8[np.ndarray, "T H W 3"]
    latents: np.ndarray
    seed: int
    settings: dict[str, Any]
    seconds: dict[str, float]

    def latents_sha256(self) -> str:
        """Fingerprint of the latents, to tell whether two runs agree to the last bit."""
        return hashlib.sha256(np.ascontiguousarray(self.latents).tobytes()).hexdigest()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Configs:
    """Shapes of the two networks that decide what can be sampled."""

    dit: DiTConfig
    vae: VAEConfig


def latent_shape(settings: Settings, configs: Configs) -> tuple[int, int, int, int, int]:
    """[1, F, h, w, C] of a run.

    Raises:
      ValueError: a size or the number of frames does not fit; the message has the nearest that do.
    """
    stride = configs.vae.spatial_stride
    for name, patch in zip(("height", "width"), configs.dit.patch_size[1:], strict=True):
        size, multiple = getattr(settings, name), stride * patch
        below = max(size // multiple, 1) * multiple
        if size % multiple or size < multiple:
            raise ValueError(
                f"{name} must be divisible by {multiple}, got {size}; nearest are "
                f"{below} and {below + multiple}."
            )
    if settings.num_steps < 1:
        raise ValueError(f"the number of steps must be at least 1, got {settings.num_steps}.")
    f = latent_frames(settings.num_frames, configs.vae.temporal_stride)
    return (1, f, settings.height // stride, settings.width // stride, configs.vae.z_dim)


def check_all(conditions: Sequence[Given], num_latent_frames: int) -> None:
    """Raises ValueError unless conditions fit the clip and each other, see `check_conditions`."""
    places, multipliers = [], []
    for given in conditions:
        encoded = isinstance(given, FrameCondition)
        places += (given.index,) if encoded else given.at
        multipliers += (given.multiplier,) if encoded else given.multipliers
    check_conditions(places, multipliers, num_latent_frames)


def velocity_of(dit: WanDiT):
    """The DiT as a function of latents, timesteps and projected text, in float32 at the border."""

    def velocity(latents, timesteps, text):
        return dit(latents, timesteps, text).astype(latents.dtype)

    return velocity


def project_texts(dit: WanDiT, texts: tuple[Text, Text]) -> BothTexts:
    """Keys and values of prompt and negative prompt, as `denoise_part` takes them.

    They are stacked along a new first axis; a mesh that runs the two passes of guidance beside each
    other has them along the batch axis.
    """
    if is_together(jax.sharding.get_abstract_mesh()):
        return dit.project_text(jnp.concatenate(texts))
    prompt, negative = (dit.project_text(text) for text in texts)
    return jax.tree.map(lambda a, b: jnp.stack([a, b]), prompt, negative)


def denoise_part(
    dit: WanDiT, texts: BothTexts, scale: jax.Array, latents: Latents, table: NoiseTable
) -> Latents:
    """Guided steps of one part of a run: the program that is compiled, planned and benchmarked."""
    together = is_together(jax.sharding.get_abstract_mesh())
    guide = guided_together if together else guided
    return denoise(guide(velocity_of(dit), texts, scale), latents, table)


def jitted_step(mesh: Mesh) -> Any:
    """`denoise_part` for a mesh, which is to be entered while it is lowered.

    Weights that a step does not read, those of the projected text, stay among its arguments: they
    are on the devices all the same.
    """
    return jax.jit(
        denoise_part, out_shardings=NamedSharding(mesh, PartitionSpec()), keep_unused=True
    )


class Stopwatch:
    """Wall time per stage."""

    def __init__(self):
        self.seconds: dict[str, float] = {}
        self._since = time.perf_counter()

    def lap(self, stage: Stage) -> None:
        """Books the time since the last lap on a stage."""
        now = time.perf_counter()
        self.seconds[stage] = round(self.seconds.get(stage, 0.0) + now - self._since, 3)
        self._since = now


class PusaPipeline:
    """Wan2.1 text-to-video with Pusa's per-frame timesteps.

    Example:
      pipe = PusaPipeline.from_pretrained("Wan2.1-T2V-14B", lora=[("pusa_v1.safetensors", 1.4)])
      result = pipe("a cat", conditions=tasks.image_to_video(image))
      video.write_video("cat.mp4", result.frames, 16, result.settings)
    """

    def __init__(
        self,
        *,
        dit: WanDiT,
        autoencoder: vae.WanVAE,
        text_encoder: Callable[[], T5Encoder],
        tokenizer: Tokenizer,
        mesh: Mesh | None = None,
    ):
        """Takes built models; `text_encoder` is called when a new prompt is met.

        DiT and text encoder lie on `mesh`; default is a mesh of one device.
        """
        self.dit, self.autoencoder = dit, autoencoder
        self._text_encoder, self._tokenizer = text_encoder, tokenizer
        self.mesh = make_mesh({}, jax.local_devices()[:1]) if mesh is None else mesh
        self._everywhere = NamedSharding(self.mesh, PartitionSpec())
        self._texts: dict[str, Text] = {}
        self._compiled: dict[tuple, Callable] = {}
        self._encode_text = jax.jit(encode_prompt, out_shardings=self._everywhere)
        self._project_texts = jax.jit(project_texts)
        self._encode_first = jax.jit(vae.encode_first)
        self._encode_next = jax.jit(vae.encode_next)
        self._decode_first = jax.jit(vae.decode_first)
        self._decode_next = jax.jit(vae.decode_next)

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        *,
        dtype: Literal["float32", "bfloat16"] = "bfloat16",
        lora: Sequence[tuple[str | Path, float]] = (),
        mesh: MeshLike = None,
        on_progress: Progress = no_progress,
    ) -> "PusaPipeline":
        """Loads a published folder (original or Diffusers layout) or a converted one.

        Weights are read straight to where they lie on the mesh, each device its own part.

        Args:
          folder: where DiT, VAE, text encoder and tokenizer lie.
          dtype: of the DiT and the text encoder; the VAE always runs in float32.
          lora: files and strengths, merged in order.
          mesh: sizes as in {"data": 2, "context": 4}; None takes all devices, see `choose_mesh`.
          on_progress: told about the stage "load".

        Raises:
          ValueError, FileNotFoundError: one line saying what is missing or wrong in the folder, or
            that the mesh does not go with devices or model.
        """
        from pusa_jax import loading  # the one place where foreign weights enter

        return loading.load_pipeline(
            folder, dtype=dtype, lora=lora, mesh=mesh, on_progress=on_progress
        )

    def __call__(
        self,
        prompt: str,
        *,
        conditions: Sequence[Given] = (),
        negative_prompt: str = PUSA_NEGATIVE_PROMPT,
        settings: Settings = Settings(),
        noise: Latents | None = None,
        on_progress: Progress = no_progress,
    ) -> Output:
        """Samples one clip.

        Args:
          prompt: may be empty.
          conditions: given frames, see `diffusion.tasks`, or given latents; none for text-to-video.
          negative_prompt: used when the guidance scale is not 1.
          settings: size, steps, guidance, seed.
          noise: initial noise instead of the seed's, for parity with other implementations.
          on_progress: told about each stage.

        Raises:
          ValueError: settings or conditions that cannot be sampled, before any work is done.
        """
        shape = latent_shape(settings, Configs(dit=self.dit.config, vae=self.autoencoder.config))
        check_all(conditions, shape[1])
        watch = Stopwatch()
        texts = self.encode_prompts((prompt, negative_prompt), on_progress)
        watch.lap("text")
        frames_given = self.encode_conditions(conditions, settings, on_progress)
        watch.lap("encode")

        if noise is None:
            noise = jax.random.normal(jax.random.key(settings.seed), shape, jnp.float32)
        clean, multipliers = place(frames_given, noise)
        original, dtype = settings.original_timesteps, self.dit.config.compute_dtype
        table = noise_table(
            settings.num_steps,
            settings.shift,
            multipliers,
            rounding="bfloat16" if original and dtype == "bfloat16" else "none",
            truncate=original and bool(conditions),
        )
        latents = self._put(start(clean, noise, table))
        with jax.set_mesh(self.mesh):
            projected = self._project_texts(self.dit, texts)
        scale = self._put(np.float32(settings.guidance_scale))
        on_progress("compile", 0, 1)
        step = self._compiled_step(projected, scale, latents, self._put(table.part(0, 1)))
        on_progress("compile", 1, 1)
        watch.lap("compile")
        on_progress("denoise", 0, table.num_steps)
        for i in range(table.num_steps):
            part = self._put(table.part(i, i + 1))
            latents = step(self.dit, projected, scale, latents, part)
            latents.block_until_ready()
            on_progress("denoise", i + 1, table.num_steps)
        watch.lap("denoise")

        final = np.asarray(latents)
        frames = self.decode(final, settings.tiled, on_progress)
        watch.lap("decode")
        used = dataclasses.asdict(settings) | {"prompt": prompt, "negative_prompt": negative_prompt}
        return Output(
            frames=to_uint8(frames),
            latents=final,
            seed=settings.seed,
            settings=used,
            seconds=watch.seconds,
        )

    def _put(self, tree: Any) -> Any:
        """Brings arrays that every process holds to all devices of the mesh."""

        def put(x):
            x = np.asarray(x)
            return jax.make_array_from_callback(x.shape, self._everywhere, lambda index: x[index])

        return jax.tree.map(put, tree)

    def _compiled_step(self, texts, scale, latents, table) -> Callable:
        key = (latents.shape, *(leaf.shape for leaf in jax.tree.leaves(texts)))
        if key not in self._compiled:
            with jax.set_mesh(self.mesh):
                step = jitted_step(self.mesh).lower(self.dit, texts, scale, latents, table)
            self._compiled[key] = step.compile()
        return self._compiled[key]

    def encode_prompts(
        self, prompts: Sequence[str], on_progress: Progress = no_progress
    ) -> tuple[Text, ...]:
        """Text features [1, L, E] of each prompt; prompts met before are not encoded again."""
        new = [p for p in dict.fromkeys(prompts) if p not in self._texts]
        on_progress("text", 0, len(new))
        encoder = self._text_encoder() if new else None
        for i, prompt in enumerate(new):
            ids, mask = self._put(self._tokenizer([prompt]))
            with jax.set_mesh(self.mesh):
                self._texts[prompt] = self._encode_text(encoder, ids, mask)
            on_progress("text", i + 1, len(new))
        return tuple(self._texts[p] for p in prompts)

    def encode_conditions(
        self,
        conditions: Sequence[Given],
        settings: Settings,
        on_progress: Progress = no_progress,
    ) -> list[FrameCondition]:
        """Pixel conditions -> latent frames in their places; latent frames stay as they are.

        Raises:
          ValueError: given frames are not of the size in `settings`.
        """
        given = []
        on_progress("encode", 0, len(conditions))
        for i, condition in enumerate(conditions):
            if isinstance(condition, FrameCondition):
                given.append(condition)
                continue
            if condition.frames.shape[1:3] != (settings.height, settings.width):
                raise ValueError(
                    f"given frames are {condition.frames.shape[1:3]}, the video is "
                    f"{(settings.height, settings.width)}: fit them first (video.fit)."
                )
            latents = self.encode(to_pixels(condition.frames)[None], settings.tiled)
            given += [
                FrameCondition(  # cut on the host: on a device every place would be compiled for
                    index=at,
                    latents=jnp.asarray(latents[:, take : take + 1]),
                    multiplier=multiplier,
                )
                for take, at, multiplier in zip(
                    condition.take, condition.at, condition.multipliers, strict=True
                )
            ]
            on_progress("encode", i + 1, len(conditions))
        return given

    def encode(self, pixels: np.ndarray, tiled: bool) -> np.ndarray:
        """Pixel frames [1, T, H, W, 3] in [-1, 1] -> normalised latents [1, F, h, w, C]."""
        if tiled:
            config = self.autoencoder.config
            return tiling.encode_tiled(self._encode_whole, pixels, config, TILE, TILE_STRIDE)
        return self._encode_whole(pixels)

    def _encode_whole(self, pixels) -> np.ndarray:
        stride = self.autoencoder.config.temporal_stride
        latents, cache = self._encode_first(self.autoencoder, pixels[:, :1])
        parts = [np.asarray(latents)]
        for i in range(1, pixels.shape[1], stride):
            latents, cache = self._encode_next(self.autoencoder, pixels[:, i : i + stride], cache)
            parts.append(np.asarray(latents))
        return np.concatenate(parts, axis=1)

    def decode(
        self,
        latents: Float[Array | np.ndarray, "B F H W C"],
        tiled: bool,
        on_progress: Progress = no_progress,
    ) -> np.ndarray:
        """Latents [1, F, h, w, C] -> pixel frames [T, H, W, 3] in [-1, 1], on the host."""
        on_progress("decode", 0, 1)
        if not tiled:
            return np.clip(self._decode_whole(latents, on_progress)[0], -1, 1)
        config = self.autoencoder.config

        def on_tile(done, total):
            on_progress("decode", done, total)

        return tiling.decode_tiled(
            self._decode_whole, latents, config, TILE, TILE_STRIDE, on_tile=on_tile
        )[0]

    def _decode_whole(self, latents, on_progress: Progress = no_progress) -> np.ndarray:
        total = latents.shape[1]
        pixels, cache = self._decode_first(self.autoencoder, latents[:, :1])
        parts = [np.asarray(pixels)]
        for i in range(1, total):
            pixels, cache = self._decode_next(self.autoencoder, latents[:, i : i + 1], cache)
            parts.append(np.asarray(pixels))
            on_progress("decode", i + 1, total)
        return np.concatenate(parts, axis=1)
