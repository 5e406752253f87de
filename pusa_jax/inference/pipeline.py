"""Prompt and given frames in, video out: wires text encoder, autoencoder, denoiser and sampler.

This module owns the compiled programs. One program serves every task, step count, guidance scale,
shift and multiplier of a latent shape, because those are data: rows of a noise table.

Denoiser and text encoder run on a mesh, of one device or of all devices of all processes. The
autoencoder runs on one device of each process, and what passes between them passes through the
host, so that every process holds the same clip.
"""

import dataclasses
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from pusa_jax.devices.sharding import make_mesh
from pusa_jax.diffusion.conditioning import FrameCondition, place
from pusa_jax.diffusion.config import SamplingConfig, Solver, Tiling
from pusa_jax.diffusion.sampling import sample, start, with_noise
from pusa_jax.inference.autoencoder import Autoencoder
from pusa_jax.inference.clips import Clip as Clip
from pusa_jax.inference.clips import check_alike, encoded, side_by_side, texts_side_by_side
from pusa_jax.inference.experts import Expert as Expert
from pusa_jax.inference.experts import Experts
from pusa_jax.inference.kept import PROMPTS, SHAPES, Kept
from pusa_jax.inference.mesh_choice import MeshLike, Resident
from pusa_jax.inference.output import Output as Output
from pusa_jax.inference.output import Stopwatch
from pusa_jax.inference.pieces import (
    check_given,
    pieces_of,
    progress_of_piece,
    sample_pieces,
    seed_of,
)
from pusa_jax.inference.plan import Plan
from pusa_jax.inference.reuse import ReusingStep, check_reusing, steps_left_out
from pusa_jax.inference.settings import (
    Configs,
    Given,
    check_call,
    count_passes,
    guidance_scales,
    latent_shape,
    places_of,
    plan_run,
)
from pusa_jax.inference.step import jitted_step, prepare_prompts
from pusa_jax.inference.text_place import PLACES, Place
from pusa_jax.media.pixels import to_uint8
from pusa_jax.models.family import DenoiserConfig, Family, Prepared, Tokenizer
from pusa_jax.progress import Progress, PusaWarning, no_progress
from pusa_jax.typing import Latents, OnLatents, Text


class PusaPipeline:
    """Text-to-video and its conditioned tasks with Pusa's per-frame timesteps.

    Example:
      pipe = PusaPipeline.from_pretrained("Wan2.1-T2V-14B", lora=[("pusa_v1.safetensors", 1.4)])
      result = pipe("a cat", conditions=tasks.image_to_video(image))
      video.write_video("cat.mp4", result.frames, 16, result.settings)
    """

    def __init__(
        self,
        *,
        family: Family,
        dit: nnx.Module | Sequence[Expert],
        autoencoder: nnx.Module,
        text_encoder: Callable[[], nnx.Module | None],
        tokenizer: Tokenizer,
        text_place: Place = "files",
        mesh: Mesh | None = None,
        one_at_a_time: bool = False,
    ):
        """Takes built models.

        Args:
          family: of the networks.
          dit: the denoiser, or several of one shape, each for a range of noise levels.
          autoencoder: lies on one device.
          text_encoder: called when a new prompt is met.
          tokenizer: of the text encoder.
          text_place: where the text encoder is between prompts, which `repr` says.
          mesh: of denoiser and text encoder; default is a mesh of one device.
          one_at_a_time: of several denoisers only the one that is at work is on the devices, see
            `experts.Experts`.
        """
        experts = [Expert(dit=dit)] if isinstance(dit, nnx.Module) else dit
        self.experts = Experts(experts, one_at_a_time=one_at_a_time and len(experts) > 1)
        self.config: DenoiserConfig = self.experts.config
        self.family = family
        coder: Any = autoencoder
        self.autoencoder = Autoencoder(coder, self.family.codec, coder.config)
        self._text_encoder, self._tokenizer = text_encoder, tokenizer
        self.mesh = make_mesh({}, jax.local_devices()[:1]) if mesh is None else mesh
        self.text_place: Place = text_place
        self._everywhere = NamedSharding(self.mesh, PartitionSpec())
        self.keep()
        self._encode_text = jax.jit(self.family.encode_prompt, out_shardings=self._everywhere)
        self._prepare = jax.jit(prepare_prompts, static_argnums=0)

    def __repr__(self) -> str:
        """In short: family, mesh and where the text encoder is."""
        sizes = ", ".join(f"{axis}={size}" for axis, size in self.mesh.shape.items())
        return (
            f"PusaPipeline({self.family.name}, {self.config.num_layers} layers, "
            f"{self.config.compute_dtype}; mesh {sizes}; the text encoder "
            f"{PLACES[self.text_place]})"
        )

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        *,
        dtype: Literal["float32", "bfloat16"] = "bfloat16",
        lora: Sequence[tuple[str | Path, float]] = (),
        low_lora: Sequence[tuple[str | Path, float]] = (),
        lightx2v: Sequence[str | Path] = (),
        mesh: MeshLike = None,
        resident: Resident | None = None,
        on_progress: Progress = no_progress,
    ) -> "PusaPipeline":
        """Loads a published folder (original or Diffusers layout) or a converted one.

        Weights are read straight to where they lie on the mesh, each device its own part.

        Args:
          folder: where DiT, VAE, text encoder and tokenizer lie, or their name on the Hub, as
            "Wan-AI/Wan2.1-T2V-14B@37ec512"; LoRA files may be named so as well.
          dtype: of the DiT and the text encoder; the VAE always runs in float32.
          lora: files and strengths, merged in order; of two experts, into that for high noise.
          low_lora: the same for low noise.
          lightx2v: files for a few steps, merged before the others: one for each expert, high noise
            first, or their folder.
          mesh: sizes as in {"data": 2, "context": 4}; None takes all devices, see `choose_mesh`.
          resident: of a model with two experts, "all" keeps both on the devices, "one" the one at
            work; None takes what fits.
          on_progress: told about the stage "load".

        What people should know of LoRA files is a `PusaWarning`.

        Raises:
          ValueError, FileNotFoundError: one line saying what is missing or wrong in the folder, or
            that the mesh does not go with devices or model.
        """
        # Here alone foreign weights enter; what runs without them needs fewer libraries.
        from pusa_jax.inference.loading import load_parts, open_model

        model = open_model(folder, lora, low_lora, lightx2v)
        for remark in model.remarks:
            warnings.warn(remark, PusaWarning, stacklevel=2)
        parts = load_parts(
            model, dtype=dtype, mesh=mesh, resident=resident, on_progress=on_progress
        )
        return cls(**vars(parts))

    def __call__(
        self,
        prompt: str,
        *,
        conditions: Sequence[Given] = (),
        negative_prompt: str | None = None,
        settings: SamplingConfig | None = None,
        overlap: int | None = None,
        noise: Latents | None = None,
        on_progress: Progress = no_progress,
        on_latents: OnLatents | None = None,
    ) -> Output:
        """Samples one clip.

        Args:
          prompt: may be empty.
          conditions: given frames, see `diffusion.tasks`, or given latents; none for text-to-video.
          negative_prompt: used when the guidance scale is not 1; None is the published one.
          settings: size, steps, guidance, seed; None is what was published with the model.
          overlap: latent frames that each piece of a longer clip takes over from the one before;
            None makes the clip in one piece. See `pieces`.
          noise: initial noise instead of the seed's, for parity with other implementations; where
            there are more draws, for further pieces or after each step of a random solver, all of
            them one behind the other along the first axis.
          on_progress: told about each stage.
          on_latents: given the number of steps done and the latents [1, F, h, w, C] behind them.

        Raises:
          ValueError: settings or conditions that cannot be sampled, before any work is done.
          TypeError: several prompts, or bare pictures; says the right call.
        """
        check_call(prompt, conditions)
        clip = Clip(prompt=prompt, conditions=conditions, negative_prompt=negative_prompt)
        watched = {"on_progress": on_progress, "on_latents": on_latents}
        return self.batch([clip], settings=settings, overlap=overlap, noise=noise, **watched)[0]

    def batch(
        self,
        clips: Sequence[Clip],
        *,
        settings: SamplingConfig | None = None,
        overlap: int | None = None,
        noise: Latents | None = None,
        on_progress: Progress = no_progress,
        on_latents: OnLatents | None = None,
    ) -> list[Output]:
        """Samples several clips side by side, in one program; see `__call__`.

        A clip has the noise of its seed whichever others lie beside it, but sums may be taken in
        another order. Raises as `__call__`, and where clips are not alike, see `check_alike`.
        """
        check_alike(clips)
        configs = Configs(dit=self.config, vae=self.autoencoder.config)
        settings = configs.fitted(self.family) if settings is None else settings
        usual = self.family.negative_prompt
        prompts = [clip.prompt for clip in clips]
        negatives = [usual if c.negative_prompt is None else c.negative_prompt for c in clips]
        seeds = [settings.seed if clip.seed is None else clip.seed for clip in clips]
        piece, pieces = pieces_of(settings, overlap, self.family, configs)
        for text in (*prompts, *negatives):
            self.family.check_prompt(self.config, text)
        if pieces is not None:
            check_given([at for given in clips[0].conditions for at in places_of(given)], pieces)
        plan_run(self.family, piece, clips[0].conditions, configs)
        check_reusing(piece, self.mesh)
        watch = Stopwatch()
        features = self.encode_prompts((*prompts, *negatives), on_progress)
        with jax.set_mesh(self.mesh):
            texts = texts_side_by_side(features)
        watch.lap("text")
        given = side_by_side(
            [self.encode_conditions(clip.conditions, piece, on_progress) for clip in clips]
        )
        watch.lap("encode")
        shape = latent_shape(piece, configs)
        draws = None if noise is None else np.asarray(noise).reshape(-1, *shape)
        passes = 0

        def one(number: int, carried: Sequence[FrameCondition] | None) -> np.ndarray:
            """A piece; `carried` is the end of the one before."""
            nonlocal passes
            tell = progress_of_piece(on_progress, number, 1 if pieces is None else pieces.count)
            own_seeds = [seed_of(seed, number) for seed in seeds]
            begin = given if carried is None else carried
            plan = Plan.of(self.family, piece, begin, configs, own_seeds)
            if carried is not None:
                plan = plan.continued(self.family)
            own = None if draws is None else draws[number * plan.draws :][: plan.draws]
            latents, run_passes = self._sample(plan, texts, own, watch, tell, on_latents)
            passes += run_passes
            return latents

        if pieces is None:
            latents = one(0, None)
        else:
            latents = np.concatenate(list(sample_pieces(one, pieces)), axis=1)
        outputs = []
        for i, seed in enumerate(seeds):
            frames = self.decode(latents[i : i + 1], settings.tiled, on_progress)
            watch.lap("decode")
            texts_used = {"prompt": prompts[i], "negative_prompt": negatives[i]}
            output = Output(
                frames=to_uint8(frames),
                latents=latents[i : i + 1],
                seed=seed,
                settings=dataclasses.asdict(settings) | {"seed": seed} | texts_used,
                passes=passes,
                seconds=dict(watch.seconds),
            )
            outputs.append(output)
        return outputs

    def _sample(
        self,
        plan: Plan,
        texts: tuple[Text, ...],
        draws: np.ndarray | None,
        watch: Stopwatch,
        on_progress: Progress,
        on_latents: OnLatents | None,
    ) -> tuple[np.ndarray, int]:
        """Latents [B, F, h, w, C] of a plan on the host, and the passes of the denoiser.

        `draws` take the place of its noise.
        """
        settings, solver = plan.settings, plan.solver
        served = [self.experts.serving(float(x), settings.boundary) for x in plan.table.levels]
        scales = guidance_scales(settings, served)
        rows = plan.rows(served, scales)
        noise = plan.noise(0) if draws is None else jnp.asarray(draws[0])
        clean, _ = place(plan.given, noise)  # [B, F, h, w, C]
        state = self._put(solver.init(start(clean, noise, plan.table)))
        prepared: dict[int, Prepared] = {}

        def arguments(state, i):
            """What the program takes at step i; prompts are prepared once for each expert."""
            dit = self.experts.take(served[i])
            if served[i] not in prepared:
                with jax.set_mesh(self.mesh):
                    prepared[served[i]] = self._prepare(self.family, dit, texts)
            scale = self._put(np.float32(scales[i]))
            row = rows[i]
            if solver.is_random:
                fresh = plan.noise(i + 1) if draws is None else jnp.asarray(draws[i + 1])
                row = with_noise(row, fresh)
            return dit, prepared[served[i]], scale, state, self._put(row)

        on_progress("compile", 0, 1)
        left_out = steps_left_out(self.family, plan, self.experts.take, served, scales)
        if left_out is None:
            program = self._compiled_step(settings.solver, *arguments(state, 0))
        else:
            program = self._reusing_step(settings.solver, left_out)
        on_progress("compile", 1, 1)
        watch.lap("compile")

        def step(state, i):
            state = program(*arguments(state, i))
            if i + 1 < len(rows):
                self.experts.fetch(served[i + 1])
            return state

        def on_step(done, state):
            state.latents.block_until_ready()
            on_progress("denoise", done, len(rows))
            if on_latents is not None:
                on_latents(done, state.latents)

        on_progress("denoise", 0, len(rows))
        latents = np.asarray(sample(step, state, len(rows), on_step).latents)
        watch.lap("denoise")
        return latents, count_passes(scales, left_out)

    def _reusing_step(self, solver: Solver, left_out: Sequence[bool]) -> Callable:
        """The steps of one run that leaves out blocks."""
        run = self.family.process.solvers[solver]
        return ReusingStep(family=self.family, mesh=self.mesh, solver=run, reuses=left_out)

    def keep(self, *, shapes: int = SHAPES, prompts: int = PROMPTS) -> None:
        """Forgets what was compiled and encoded, and bounds how much of it is kept from now on."""
        self._texts: Kept[str, Text] = Kept(prompts)
        self._compiled: Kept[tuple, Callable] = Kept(
            shapes, lambda program: self.autoencoder.clear()
        )
        self.autoencoder.clear()

    def clear(self) -> None:
        """Lets go of compiled programs and encoded prompts; they are made again when needed."""
        self.keep()

    def _put(self, tree: Any) -> Any:
        """Brings arrays that every process holds to all devices of the mesh."""

        def put(x):
            x = np.asarray(x)
            return jax.make_array_from_callback(x.shape, self._everywhere, lambda index: x[index])

        return jax.tree.map(put, tree)

    def _compiled_step(self, solver: Solver, dit, prepared, scale, state, row) -> Callable:
        """The program of a step; experts have one shape, so they share it."""
        shapes = (leaf.shape for leaf in jax.tree.leaves((prepared, state, row)))
        key = (solver, *shapes)
        if key not in self._compiled:
            with jax.set_mesh(self.mesh):
                step = jitted_step(self.family, self.mesh, self.family.process.solvers[solver])
                lowered = step.lower(dit, prepared, scale, state, row)
            self._compiled[key] = lowered.compile()
        return self._compiled[key]

    def encode_prompts(
        self, prompts: Sequence[str], on_progress: Progress = no_progress
    ) -> tuple[Text, ...]:
        """Text features [1, L, E] of each prompt; prompts met before are not encoded again.

        The encoder is taken once for all of them and runs prompt by prompt: the features of one
        must not depend on which others are new.
        """
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
        settings: SamplingConfig,
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
            else:
                given += encoded(self, condition, settings)
            on_progress("encode", i + 1, len(conditions))
        return given

    def encode(self, pixels: np.ndarray, tiled: Tiling) -> np.ndarray:
        """Pixel frames [1, T, H, W, 3] in [-1, 1] -> normalised latents [1, F, h, w, C]."""
        codec = self.family.codec
        in_one_piece = not tiled or (tiled == "original" and codec.original_tiles is not None)
        return self.autoencoder.encode(pixels, None if in_one_piece else codec.sampling_tiles)

    def decode(
        self,
        latents: Float[Array | np.ndarray, "B F H W C"],
        tiled: Tiling,
        on_progress: Progress = no_progress,
    ) -> np.ndarray:
        """Latents [1, F, h, w, C] -> pixel frames [T, H, W, 3] in [-1, 1], on the host.

        Raises:
          ValueError: several clips; says the right call.
        """
        if len(latents) != 1:
            raise ValueError(
                f"one clip is decoded at a time, got {len(latents)}: [pipe.decode(latents[i : i + "
                "1], tiled) for i in range(len(latents))]."
            )
        on_progress("decode", 0, 1)

        def on_part(done: int, total: int) -> None:
            on_progress("decode", done, total)

        codec = self.family.codec
        tiles = codec.sampling_tiles if tiled else None
        if tiled == "original" and codec.original_tiles is not None:
            _, _, height, width, _ = latents.shape
            tiles = codec.original_tiles((height, width))
        return self.autoencoder.decode(latents, tiles, on_part)[0]
