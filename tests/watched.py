"""The shipped pipeline on recorded texts, with everything that its compiled step is given kept."""

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from pusa_jax.diffusion.sampling import Row
from pusa_jax.inference.pipeline import Expert, PusaPipeline
from pusa_jax.models.family import Family
from pusa_jax.models.prompts import Tokenizer
from pusa_jax.models.t5 import T5Encoder
from pusa_jax.models.wan.family import WAN21


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
    """One call of the compiled step: which network, guidance scale, its row, latents around it."""

    dit: nnx.Module
    scale: float
    row: Row
    before: np.ndarray
    after: np.ndarray


class RecordedTexts(T5Encoder):
    """A text encoder that looks features up by the first id, see `RowTokenizer`."""

    def __init__(self, features: np.ndarray):
        self.features = nnx.Param(jnp.asarray(features))

    def __call__(self, ids, mask):
        return self.features[...][ids[:, 0]]


class RowTokenizer(Tokenizer):
    """Gives a prompt's place among the known ones as its ids; no row is padding."""

    def __init__(self, prompts: list[str], text_len: int):
        self.prompts, self.text_len, self.vocab_size = prompts, text_len, len(prompts)

    def __call__(self, prompts):
        rows = np.asarray([[self.prompts.index(prompt)] for prompt in prompts], np.int32)
        ids = np.broadcast_to(rows, (len(prompts), self.text_len))
        return ids, np.ones_like(ids)


class WatchedPipeline(PusaPipeline):
    """`PusaPipeline` that keeps the steps of its last run."""

    def __init__(
        self,
        dit: nnx.Module | Sequence[Expert],
        autoencoder: nnx.Module,
        texts: Mapping[str, np.ndarray] | None,
        family: Family = WAN21,
        *,
        one_at_a_time: bool = False,
    ):
        """Takes the features [L, E] of every prompt that will be asked for, None for labels."""
        if texts is None:
            encoder, tokenizer = None, family.tokenizer(None, 1)
        else:
            features = np.stack([*texts.values()])
            encoder = RecordedTexts(features)
            tokenizer = RowTokenizer([*texts], features.shape[1])
        super().__init__(
            family=family,
            dit=dit,
            autoencoder=autoencoder,
            text_encoder=lambda: encoder,
            tokenizer=tokenizer,
            one_at_a_time=one_at_a_time,
        )
        self.steps: list[Step] = []

    def batch(self, *args, **kwargs):
        self.steps = []
        return super().batch(*args, **kwargs)

    def _compiled_step(self, *given):
        return self._watched(super()._compiled_step(*given))

    def _reusing_step(self, *given):
        return self._watched(super()._reusing_step(*given))

    def _watched(self, step):
        def watched(dit, prepared, scale, state, row):
            new = step(dit, prepared, scale, state, row)
            kept = {"before": np.asarray(state.latents), "after": np.asarray(new.latents)}
            row = jax.tree.map(np.asarray, row)
            self.steps.append(Step(dit=dit, scale=float(scale), row=row, **kept))
            return new

        return watched

    def told(self) -> np.ndarray:
        """Timesteps [S, F] of the last run."""
        return np.stack([step.row.timesteps for step in self.steps])

    def step_sizes(self) -> np.ndarray:
        """Changes of sigma [S, F] of the last run."""
        return np.stack([step.row.coefficients for step in self.steps])

    def trace(self) -> np.ndarray:
        """Latents [S + 1, F, H, W, C] before the first step of the last run and after each."""
        return np.concatenate([self.steps[0].before, *(step.after for step in self.steps)])
