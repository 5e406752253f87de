"""The contract of a model family: all that sampling, training and planning know of a model.

A family is a frozen record of functions and data; there is nothing to subclass. What differs
between families is a field here, never a question in the rooms above (`if family == ...`).
`families.py` is the only module that names them all.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from pusa_jax.devices.sharding import Rules
from pusa_jax.diffusion.config import SamplingConfig, TeaCache
from pusa_jax.diffusion.flow import NoiseTable
from pusa_jax.diffusion.process import FLOW, Process
from pusa_jax.diffusion.timesteps import Schedule
from pusa_jax.typing import Latents, Precision, Prediction, Text, Timesteps
from pusa_jax.weights.leaves import shapes_for

Name = Literal["dit", "dit_low", "vae", "text_encoder"]
"""Networks of a model, by the names of their folders; "dit_low" denoises what has little noise."""

Prepared = Any
"""What a denoiser attends to, computed once per prompt (Wan: keys and values of every block)."""


@runtime_checkable
class NetworkConfig(Protocol):
    """A frozen dataclass: what a network is, and in which precision it is held and computes."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def param_dtype(self) -> Precision: ...  # noqa: D102
    @property
    def compute_dtype(self) -> Precision: ...  # noqa: D102


@runtime_checkable
class DenoiserConfig(NetworkConfig, Protocol):
    """What every denoiser's configuration says of its inputs and of how it can be cut."""

    @property
    def num_heads(self) -> int: ...  # noqa: D102
    @property
    def num_layers(self) -> int: ...  # noqa: D102
    @property
    def patch_size(self) -> tuple[int, int, int]: ...  # noqa: D102
    @property
    def in_dim(self) -> int: ...  # noqa: D102
    @property
    def text_len(self) -> int: ...  # noqa: D102
    @property
    def text_dim(self) -> int: ...  # noqa: D102


@runtime_checkable
class CodecConfig(NetworkConfig, Protocol):
    """What every autoencoder's configuration says of its latents."""

    @property
    def z_dim(self) -> int: ...  # noqa: D102
    @property
    def spatial_stride(self) -> int: ...  # noqa: D102
    @property
    def temporal_stride(self) -> int: ...  # noqa: D102


@runtime_checkable
class Tokenizer(Protocol):
    """Prompts -> ids and mask, int32 [B, L]."""

    vocab_size: int

    def __call__(  # noqa: D102
        self, prompts: list[str]
    ) -> tuple[Int[np.ndarray, "B L"], Int[np.ndarray, "B L"]]: ...


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Network:
    """One network of a family.

    Attributes:
      config: class of its configurations.
      build: configuration -> module, with any parameters; remembered by its identity. It takes
        `rngs` as well, where parameters are to be drawn.
      sharding: how its leaves are cut over a mesh.
    """

    config: type
    build: Callable[..., nnx.Module]
    sharding: Rules

    def shapes(self, config: Any) -> dict[str, jax.ShapeDtypeStruct]:
        """Path -> shape of every leaf."""
        return shapes_for(self.build, config)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tiles:
    """Overlapping tiles of an autoencoder, in latent cells (height, width).

    Attributes:
      size: of a tile.
      stride: from one tile to the next.
      corner: weight where tiles overlap in height and in width: the smaller of the two ramps, or
        their product.
    """

    size: tuple[int, int]
    stride: tuple[int, int]
    corner: Literal["min", "product"] = "min"


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Chunks:
    """One way through an autoencoder, chunk by chunk with a cache: memory is flat in time.

    Attributes:
      first: (module, the first frame [B, 1, ...]) -> what it becomes [B, 1, ...], cache.
      next: (module, the next chunk, cache) -> what it becomes, cache. A chunk is one latent frame,
        or `temporal_stride` pixel frames.
    """

    first: Callable[..., tuple[Array, Any]]
    next: Callable[..., tuple[Array, Any]]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Codec:
    """How an autoencoder is run.

    Attributes:
      encode: pixels [B, T, H, W, 3] in [-1, 1] -> latents [B, F, h, w, C]; in chunks, or as a
        function (module, pixels of whole clips), where the encoder looks back over all of them.
      decode: latents -> pixels, not clamped.
      sampling_tiles: geometry while sampling.
      dataset_tiles: geometry while a dataset is encoded.
      original_tiles: (height, width) in latent cells -> how the original decodes, where that is not
        `sampling_tiles`; it then encodes in one piece.
    """

    encode: Chunks | Callable[..., Array]
    decode: Chunks
    sampling_tiles: Tiles
    dataset_tiles: Tiles
    original_tiles: Callable[[tuple[int, int]], Tiles] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Flops:
    """Floating-point operations by formula; a multiply-add counts as two.

    Attributes:
      velocity: (denoiser's configuration, latent shape [B, F, h, w, C]) -> one forward.
      prepare: (denoiser's configuration, clips) -> `Family.prepare`.
      attention: (denoiser's configuration, latent shape) -> the part of `velocity` whose factors
        are activations both, scores and weighted sums.
      rows: (denoiser's configuration, latent shape, path of a linear layer) -> rows that the layer
        maps for each clip.
      text_encoder: (its configuration) -> one padded prompt.
      decode_per_pixel: of the autoencoder, for each pixel of each decoded frame.
    """

    velocity: Callable[..., int]
    prepare: Callable[..., int]
    attention: Callable[..., int]
    rows: Callable[..., int]
    text_encoder: Callable[..., int]
    decode_per_pixel: float


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Reuse:
    """How the blocks of a step are left out.

    Attributes:
      check: (settings of the cache, denoiser's configuration) -> None; raises ValueError for a
        cache that the denoiser has nothing published for.
      left_out: (settings of the cache, number of an expert -> denoiser, timesteps told [S, F],
        which expert takes each step, which steps have another velocity than the one before) ->
        whether each step is without blocks.
      velocity: (denoiser, latents, timesteps told, prepared, residual of an earlier step or None)
        -> what `Family.velocity` gives, and the residual.
    """

    check: Callable[[TeaCache, Any], None]
    left_out: Callable[[TeaCache, Callable[[int], Any], Any, Any, Any], list[bool]]
    velocity: Callable[[Any, Latents, Timesteps, Prepared, Any], tuple[Prediction, Any]]


@runtime_checkable
class MakeTable(Protocol):
    """Plans a run: see `Family.table`."""

    def __call__(  # noqa: D102
        self,
        settings: SamplingConfig,
        multipliers: Float[np.ndarray, " F"],
        *,
        is_conditioned: bool,
        compute_dtype: Precision,
    ) -> NoiseTable: ...


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Family:
    """One model family.

    Attributes:
      name: in manifests, checkpoints and videos.
      networks: by the names of their folders.
      codec: how the autoencoder is run.
      tokenizer: (folder, text length) -> tokenizer; the folder is None where no text is read.
      encode_prompt: (text encoder, ids, mask) -> text features [B, L, E]; where a prompt names a
        class, there is no text encoder, None is passed for it, and this is the number of the class.
      given: (latents of given frames, the autoencoder's configuration) -> what stands in their
        places where the original does not take them as they are; None where it does.
      prepare: (denoiser, text) -> what it attends to, once per prompt.
      prepared_axes: for each leaf of `prepare`, the mesh axes it is cut over; clips over `data`.
      velocity: (denoiser, latents, timesteps told, prepared) -> what the process's solvers take, in
        the latents' dtype: dx/dsigma; or the noise, and behind it where its variance lies.
      table: noise levels, timesteps told and step sizes of a run; all rounding of the original.
      training_schedule: table of levels that training draws from.
      lora_targets: regular expression of the layers that published adapters are laid around.
      flops: of the networks.
      experts: denoiser -> the first noise level it serves, up to the next one's; the highest first.
      sampling: settings published with Pusa.
      negative_prompt: published with them.
      official: settings published with the base model.
      official_negative_prompt: published with those.
      few_steps: what a run in few steps changes in other settings; None where nothing is published.
      multipliers: task -> default noise multipliers, where they are not those of
        `diffusion.tasks`.
      reuse: how the blocks of a step are left out; None where nothing is published.
      process: how clips are noised, what the denoiser learns of it, and which solvers lead back.
      renoised: (noise table) -> the same, for a piece that begins with the end of another; None for
        a model whose clips are not made in pieces.
      fitted: (published settings, configurations of denoiser and autoencoder) -> settings for
        networks of these sizes, where they are not free in them.
      check_prompt: (denoiser's configuration, prompt) -> None; raises ValueError for a prompt that
        the denoiser knows nothing of.
      check_clip: (configurations of denoiser and autoencoder, latent shape [B, F, h, w, C]) ->
        None; raises ValueError for a size that the denoiser cannot take.
      num_classes: denoiser's configuration -> how many classes its prompts number; 0 where it looks
        at none, or they are texts.
    """

    name: str
    networks: Mapping[Name, Network]
    codec: Codec
    tokenizer: Callable[[Any, int], Tokenizer]
    encode_prompt: Callable[[Any, Int[Array, "B L"], Int[Array, "B L"]], Text]
    given: Callable[[np.ndarray, Any], np.ndarray] | None
    prepare: Callable[[Any, Text], Prepared]
    prepared_axes: Any  # PartitionSpecs, as `prepare` returns arrays
    velocity: Callable[[Any, Latents, Timesteps, Prepared], Prediction]
    table: MakeTable
    training_schedule: Schedule
    lora_targets: str
    flops: Flops
    experts: Mapping[Name, float]
    sampling: SamplingConfig
    negative_prompt: str
    official: SamplingConfig
    official_negative_prompt: str
    few_steps: Callable[[SamplingConfig], SamplingConfig] | None
    multipliers: Mapping[str, tuple[float, ...]]
    process: Process = FLOW
    reuse: Reuse | None = None
    renoised: Callable[[NoiseTable], NoiseTable] | None = None
    fitted: Callable[[SamplingConfig, Any, Any], SamplingConfig] = lambda settings, dit, vae: (
        settings
    )
    check_prompt: Callable[[Any, str], None] = lambda dit, prompt: None
    check_clip: Callable[[Any, Any, tuple[int, ...]], None] = lambda dit, vae, shape: None
    num_classes: Callable[[Any], int] = lambda dit: 0

    @property
    def reads_text(self) -> bool:
        """Whether a prompt is text that an encoder reads, and not the number of a class."""
        return "text_encoder" in self.networks

    def levels_of(self, expert: Name) -> tuple[float, float]:
        """The noise levels that a denoiser serves: the first, and where the next one takes over."""
        first = self.experts[expert]
        return first, min((x for x in self.experts.values() if x > first), default=1.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preset:
    """One published model: the sizes of its networks.

    Attributes:
      family: what it belongs to.
      dit, vae, text: configurations of the networks; experts of one model have one; `text` is
        None for a family that reads none.
      hub: name on the Hugging Face Hub; empty for a model that is not there.
    """

    family: Family
    dit: Any
    vae: Any
    text: Any
    hub: str = ""
