"""A whole run as one frozen record, made from the nested plain values of a config file.

`configs/*.py` hold values only; `files.records.build` turns them into these records and says in
one line what is wrong with them. Below it nobody sees anything but the records.
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, Literal

from pusa_jax.diffusion.tasks import latent_frames
from pusa_jax.diffusion.timesteps import LevelConfig
from pusa_jax.models.adapters import AdapterConfig
from pusa_jax.models.families import family_named, preset
from pusa_jax.models.family import CodecConfig, DenoiserConfig, Name, Preset
from pusa_jax.models.remat import Remat
from pusa_jax.training.objective import ObjectiveConfig
from pusa_jax.training.state import OptimizerConfig
from pusa_jax.training.step import Recipe, Sharding
from pusa_jax.typing import Precision

RANDOM = "random"
"""In place of a folder: weights as drawn, clips of noise."""

FREE_TO_CHANGE = frozenset({"mesh", "checkpoint", "log", "samples", "steps"})
"""Parts of the settings that may differ when a run is continued."""

SHAPES = frozenset({"model", "adapter"})
"""Parts that must agree when another run's checkpoint is taken over."""

HOW_IT_RUNS = frozenset({"weights", "remat", "accumulate", "validation_every"})
"""Fields of the other parts that say neither what checkpoints hold nor what is computed."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The network a run starts from.

    Attributes:
      preset: name of a published model; empty where `dit` and `vae` describe one.
      family: what `dit` and `vae` belong to, see `models.families`; a preset knows its own.
      expert: denoiser that is trained, of a family that has several; see `Family.experts`.
      dit: configuration of the denoiser, if there is no preset.
      vae: configuration of the autoencoder, if there is no preset; the family's, if not given.
      weights: published or converted folder, or "random".
      dtype: what the denoiser computes in and a frozen base is held in.
      numerics: whose rounding points are reproduced, for denoisers that know several.
      remat: what is kept for the backward pass, see `models.remat`.
    """

    preset: str = ""
    family: str = "wan2.1"
    expert: Name = "dit"
    dit: DenoiserConfig | None = None
    vae: CodecConfig | None = None
    weights: str = RANDOM
    dtype: Precision = "bfloat16"
    numerics: Literal["wan", "diffsynth"] = "diffsynth"
    remat: Remat = "full"

    def __post_init__(self):
        if bool(self.preset) == bool(self.dit):
            raise ValueError("model needs either a preset or a dit of its own.")
        family = self.networks().family
        if self.expert not in family.experts:
            raise ValueError(
                f"model.expert must be one of {', '.join(family.experts)} in {family.name}, got "
                f"{self.expert}."
            )

    @staticmethod
    def field_kinds(values: Mapping[str, Any]) -> Mapping[str, Any]:
        """Types of the networks' descriptions: those of the family that `values` name."""
        networks = family_named(values.get("family", ModelConfig.family)).networks
        return {name: networks[name].config | None for name in ("dit", "vae")}

    def networks(self) -> Preset:
        """Configurations of the networks as the run computes them.

        Raises:
          ValueError: there is no such preset or family.
        """
        if self.preset:
            found = preset(self.preset)
        else:
            family = family_named(self.family)
            vae = self.vae or family.networks["vae"].config()
            text = family.networks["text_encoder"].config() if family.reads_text else None
            found = Preset(family=family, dit=self.dit, vae=vae, text=text)
        runs = {
            "param_dtype": self.dtype,
            "compute_dtype": self.dtype,
            "numerics": self.numerics,
            "remat": self.remat,
        }
        known = {field.name for field in dataclasses.fields(found.dit)}
        dit = dataclasses.replace(found.dit, **{k: v for k, v in runs.items() if k in known})
        return dataclasses.replace(found, dit=dit)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What is learned from.

    Attributes:
      folder: written by `pusa-jax encode`, or "random".
      batch_size: clips per optimizer step, on all devices together.
      height, width, num_frames: pixels and pixel frames of the clips.
      validation: a folder written by `pusa-jax encode`, or a number of clips of `folder`, or a part
        of them between 0 and 1, which are held out; their loss is recorded as val_loss. Empty for
        none.
      validation_every: steps between the records of val_loss.
    """

    folder: str = RANDOM
    batch_size: int = 8
    height: int = 480
    width: int = 832
    num_frames: int = 81
    validation: str = ""
    validation_every: int = 100


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """Sizes of the mesh axes, see `pusa_jax.devices.sharding`, and what lies cut on it.

    Attributes:
      data: clips side by side; -1 takes the devices that are left.
      context: parts of a clip's tokens.
      tensor: parts of heads and of feed-forward channels.
      sharding: how the weights lie that the network computes with, see `step.Sharding`.
    """

    data: int = -1
    context: int = 1
    tensor: int = 1
    sharding: Sharding = "fsdp"

    def shape(self, devices: int) -> dict[str, int]:
        """Axis -> size on so many devices."""
        others = self.context * self.tensor
        data = max(devices // others, 1) if self.data == -1 else self.data
        return {"data": data, "context": self.context, "tensor": self.tensor}


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """When the state is saved, and where a new run starts.

    Attributes:
      every: steps between checkpoints.
      keep_last: how many of the newest stay.
      keep_every: checkpoints of multiples of so many steps stay for good; 0 for none.
      resume: folder of another run whose newest checkpoint a new run continues; empty for none.
    """

    every: int = 100
    keep_last: int = 2
    keep_every: int = 0
    resume: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LogConfig:
    """What is recorded besides `metrics.jsonl`.

    Attributes:
      every: steps between records.
      tensorboard: whether to write event files, for which the package tensorboardX must be there.
      wandb: project in Weights & Biases, whose package must be there; empty for none.
    """

    every: int = 10
    tensorboard: bool = True
    wandb: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """Clips rendered during training, text-to-video and image-to-video, from fixed noise.

    Attributes:
      every: steps between renderings; 0 for none.
      count: clips of the data set whose captions and first frames are used.
      num_steps: solver steps.
      guidance_scale: 1 is off.
      multiplier: noise multiplier of the given first frame.
      strip: frames of each clip that are shown.
    """

    every: int = 0
    count: int = 2
    num_steps: int = 10
    guidance_scale: float = 3.0
    multiplier: float = 0.0
    strip: int = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
    """A training run.

    Attributes:
      model: the network that is trained.
      adapter: which low-rank adapters are trained; None trains all weights.
      objective: what is learned.
      optimizer: how it is learned.
      data: the clips.
      mesh: the devices.
      checkpoint: when the state is saved.
      log: what is recorded.
      samples: pictures on the way.
      steps: number of optimizer steps.
      seed: decides adapters, noise and the order of the data.
    """

    model: ModelConfig
    adapter: AdapterConfig | None = None
    objective: ObjectiveConfig = ObjectiveConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    data: DataConfig = DataConfig()
    mesh: MeshConfig = MeshConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    log: LogConfig = LogConfig()
    samples: SampleConfig = SampleConfig()
    steps: int = 900
    seed: int = 0

    def __post_init__(self):
        for owner, name in (
            (self, "steps"),
            (self.checkpoint, "every"),
            (self.checkpoint, "keep_last"),
            (self.log, "every"),
            (self.data, "validation_every"),
        ):
            if getattr(owner, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(owner, name)}.")
        if self.samples.every and len(self.model.networks().family.experts) > 1:
            raise ValueError(
                f"samples.every must be 0, got {self.samples.every}: one expert alone samples no "
                "clip."
            )
        _ = self.levels

    @property
    def levels(self) -> LevelConfig:
        """How levels are drawn: of those that are asked for, the ones the expert serves.

        Raises:
          ValueError: it serves none of them.
        """
        asked = self.objective.levels
        lowest, highest = self.model.networks().family.levels_of(self.model.expert)
        return dataclasses.replace(
            asked,
            schedule=self.model.networks().family.training_schedule,
            lowest=max(lowest, asked.lowest),
            highest=min(highest, asked.highest),
        )

    @property
    def clip_shape(self) -> tuple[int, int, int, int]:
        """[F, h, w, C] of the latents of a clip.

        Raises:
          ValueError: the VAE cannot encode clips of such a size, or the DiT not cut them up or
            tell their parts' places.
        """
        networks, data = self.model.networks(), self.data
        vae, patch = networks.vae, networks.dit.patch_size
        for name, multiple in zip(("height", "width"), patch[1:], strict=True):
            size, multiple = getattr(data, name), vae.spatial_stride * multiple
            if size < multiple or size % multiple:
                raise ValueError(f"data.{name} must be divisible by {multiple}, got {size}.")
        frames = latent_frames(data.num_frames, vae.temporal_stride)
        h, w = (size // vae.spatial_stride for size in (data.height, data.width))
        networks.family.check_clip(networks.dit, vae, (1, frames, h, w, vae.z_dim))
        return frames, h, w, vae.z_dim

    @property
    def text_shape(self) -> tuple[int, int]:
        """[L, E] of the features of a caption."""
        dit = self.model.networks().dit
        return dit.text_len, dit.text_dim

    def record(self) -> dict[str, Any]:
        """The settings as plain values, as they are when read from JSON again."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @property
    def needs_no_text(self) -> bool:
        """Whether the features of the empty prompt are used."""
        is_guided = self.samples.every > 0 and self.samples.guidance_scale != 1
        return self.objective.text_dropout > 0 or is_guided

    @property
    def recipe(self) -> Recipe:
        """The static part of the step."""
        networks = self.model.networks()
        coder: Any = networks.vae
        is_raw = networks.family.given is not None and self.objective.original_input
        return Recipe(
            family=networks.family,
            statistics=(coder.latent_mean, coder.latent_std) if is_raw else None,
            dit=networks.dit,
            expert=self.model.expert,
            adapter=self.adapter,
            objective=dataclasses.replace(self.objective, levels=self.levels),
            optimizer=self.optimizer,
            steps=self.steps,
            sharding=self.mesh.sharding,
        )
