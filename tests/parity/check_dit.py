"""The DiT against the recorded outputs of Pusa's and the official Wan2.1 code."""

import jax
import jax.numpy as jnp
from flax import nnx
from golden import Comparison, Golden, remembered

from pusa_jax.convert.files.open import open_tensors
from pusa_jax.convert.tables import load
from pusa_jax.convert.wan.dit import original_rules
from pusa_jax.models.wan.config import DiTConfig
from pusa_jax.models.wan.dit import WanDiT
from pusa_jax.testing.compare import from_house_layout, relative_error, to_house_layout
from pusa_jax.weights.leaves import assemble, shapes_of

LIMIT_FLOAT32 = 5e-6
LIMIT_BFLOAT16 = 2e-2


@remembered
def load_dit(path, recorded: dict, dtype: str = "float32") -> WanDiT:
    """A tiny DiT from a weights file and the configuration a golden file states."""
    recorded = {k: v for k, v in recorded.items() if k != "has_image_input"}
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


CHECKS = {"wan_dit_pusa": check, "wan_dit_base": check}
