"""The DiT against the recorded outputs of Pusa's and the official Wan2.1 and Wan2.2 code."""

import dataclasses
import math
from unittest import mock

import jax
import jax.numpy as jnp
from flax import nnx
from golden import Comparison, Golden, remembered

from pusa_jax.convert.files.open import open_tensors
from pusa_jax.convert.tables import load
from pusa_jax.convert.wan.dit import original_rules
from pusa_jax.models.rope import Rotary, rotary_table
from pusa_jax.models.wan import dit as wan_dit
from pusa_jax.models.wan.config import DiTConfig
from pusa_jax.models.wan.dit import WanDiT
from pusa_jax.testing.compare import from_house_layout, relative_error, to_house_layout
from pusa_jax.weights.leaves import assemble, shapes_of

LIMIT_FLOAT32 = 5e-6
LIMIT_BFLOAT16 = 2e-2
FIELDS = {field.name for field in dataclasses.fields(DiTConfig)}


@remembered
def load_dit(path, recorded: dict, dtype: str = "float32") -> WanDiT:
    """A tiny DiT from a weights file and the configuration a golden file states."""
    recorded = {k: v for k, v in recorded.items() if k in FIELDS}
    config = DiTConfig(
        **recorded | {"patch_size": tuple(recorded["patch_size"])},
        param_dtype=dtype,
        compute_dtype=dtype,
    )

    def build():
        return WanDiT(config, rngs=nnx.Rngs(0))

    return assemble(
        build, load(open_tensors(path), original_rules(config), shapes_of(build), dtype=dtype)
    )


@jax.jit
def velocity(dit, latents, timesteps, text):
    return dit(latents, timesteps, dit.project_text(text))


def check(golden: Golden, case: dict):
    name, dtype = case["name"], case.get("dtype", "float32")
    dit = load_dit(golden.weights(), golden.config, dtype)
    if golden.has(f"in.{name}.timestep"):
        timesteps = jnp.asarray(golden.tensor(f"in.{name}.timestep"))
    else:
        timesteps = jnp.asarray(golden.tensor(f"in.{name}.t"))[:, None]
    inputs = (
        to_house_layout(golden.tensor(f"in.{name}.x")),
        timesteps,
        jnp.asarray(golden.tensor(f"in.{name}.context")),
    )
    latents, timesteps, text = (x.astype(dtype) for x in inputs)
    ours = velocity(dit, latents, timesteps.astype(jnp.float32), text)
    limit = LIMIT_FLOAT32 if dtype == "float32" else LIMIT_BFLOAT16
    expected = golden.tensor(f"out.{name}.v")
    yield Comparison(f"velocity {dtype}", relative_error(from_house_layout(ours), expected), limit)


def check_ti2v(golden: Golden, case: dict):
    """The official TI2V model, told one timestep per token.

    Where all tokens of a latent frame share theirs, as in every published use, that is the shipped
    model as it is. To hold it against the other recordings as well, each token is given as a latent
    frame of one patch, and the table of angles that of the places they come from.
    """
    name = case["name"]
    dit = load_dit(golden.weights(), golden.config)
    latents = to_house_layout(golden.tensor(f"in.{name}.x"))
    text = jnp.asarray(golden.tensor(f"in.{name}.context"))
    b, f, h, w, c = latents.shape
    grid = (f, h // 2, w // 2)
    told = golden.tensor(f"in.{name}.t")[:, : math.prod(grid)].reshape(b, f, -1)  # without padding
    expected = golden.tensor(f"out.{name}.v")
    if (told == told[:, :, :1]).all():
        ours = velocity(dit, latents, jnp.asarray(told[:, :, 0]), text)
        error = relative_error(from_house_layout(ours), expected)
        yield Comparison("velocity float32", error, LIMIT_FLOAT32)
    angles = Rotary(
        *(x.reshape(-1, 1, 1, x.shape[-1]) for x in rotary_table(dit.config.head_dim, *grid))
    )
    patches = latents.reshape(b, f, h // 2, 2, w // 2, 2, c).transpose(0, 1, 2, 4, 3, 5, 6)
    with mock.patch.object(wan_dit, "rotary_table", return_value=angles):
        ours = dit(
            patches.reshape(b, -1, 2, 2, c),
            jnp.asarray(told.reshape(b, -1)),
            dit.project_text(text),
        )
    ours = ours.reshape(b, *grid, 2, 2, c).transpose(0, 1, 2, 4, 3, 5, 6).reshape(b, f, h, w, c)
    error = relative_error(from_house_layout(ours), expected)
    yield Comparison("velocity float32", error, LIMIT_FLOAT32)


CHECKS = {"wan_dit_pusa": check, "wan_dit_base": check, "wan22_dit": check_ti2v}
