"""Mochi's networks against the recorded outputs of Pusa V0.5's and the official code."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from golden import Comparison, Golden, remembered

from pusa_jax.convert.files.open import open_tensors
from pusa_jax.convert.mochi.dit import config_from_source, original_rules
from pusa_jax.convert.tables import load
from pusa_jax.models.mochi.dit import MochiDiT
from pusa_jax.testing.compare import from_house_layout, relative_error, to_house_layout
from pusa_jax.weights.leaves import assemble, shapes_of

DIT_LIMIT = 1e-5


@remembered
def load_dit(path) -> MochiDiT:
    source = open_tensors(path)
    config = config_from_source(source)

    def build():
        return MochiDiT(config, rngs=nnx.Rngs(0))

    return assemble(build, load(source, original_rules(config), shapes_of(build)))


def text_of(golden: Golden, where: str) -> np.ndarray:
    """Recorded features with rows of zeros where there is no token."""
    features, mask = (golden.tensor(f"in.{where}.{what}") for what in ("y_feat", "y_mask"))
    return features * mask[..., None].astype(np.float32)


@jax.jit
def way_to_data(dit, latents, timesteps, text):
    return dit(latents, timesteps, dit.prepare_text(text))


def check_dit(golden: Golden, case: dict):
    name = case["name"]
    ours = way_to_data(
        load_dit(golden.weights()),
        to_house_layout(golden.tensor(f"in.{name}.x")),
        1000 * (1 - jnp.asarray(golden.tensor(f"in.{name}.sigma"))),
        jnp.asarray(text_of(golden, name)),
    )
    expected = golden.tensor(f"out.{name}.v")
    yield Comparison("clean - noise", relative_error(from_house_layout(ours), expected), DIT_LIMIT)


CHECKS = {"mochi_dit": check_dit}
"""Kind -> check."""
