"""What the program of a step is given."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from pusa_jax.devices.sharding import make_mesh
from pusa_jax.diffusion.config import SamplingConfig
from pusa_jax.diffusion.sampling import rows_of
from pusa_jax.diffusion.solvers import EULER
from pusa_jax.inference.step import jitted_step, prepare_prompts
from pusa_jax.models.wan.config import DiTConfig
from pusa_jax.models.wan.dit import WanDiT
from pusa_jax.models.wan.family import WAN21

DIT = DiTConfig(dim=24, ffn_dim=32, num_heads=2, num_layers=1, text_dim=16, text_len=8, freq_dim=16)
SETTINGS = SamplingConfig(num_steps=2)


def test_weights_that_a_step_does_not_read_are_among_its_arguments():
    """As planning counts them: what prepares the text lies on the devices all the same."""
    dit = nnx.eval_shape(lambda: WanDiT(DIT, rngs=nnx.Rngs(0)))
    text = jax.ShapeDtypeStruct((1, 8, 16), jnp.float32)
    prepared = jax.eval_shape(lambda d, t: prepare_prompts(WAN21, d, (t, t)), dit, text)
    table = WAN21.table(SETTINGS, np.ones(2), is_conditioned=False, compute_dtype="float32")
    state = jax.eval_shape(EULER.init, jax.ShapeDtypeStruct((1, 2, 4, 4, 16), jnp.float32))
    arguments = (dit, prepared, np.float32(3), state, rows_of(table, EULER)[0])
    mesh = make_mesh({}, jax.devices()[:1])
    with jax.set_mesh(mesh):
        program = jitted_step(WAN21, mesh).lower(*arguments).compile()
    given = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(arguments))
    assert program.memory_analysis().argument_size_in_bytes >= given
