"""How the record of Wan builds its networks."""

import jax
import pytest
from flax import nnx

from pusa_jax.models.t5 import TextConfig
from pusa_jax.models.wan.config import DiTConfig, VAEConfig
from pusa_jax.models.wan.family import WAN21
from pusa_jax.weights.leaves import leaves_of

CONFIGS = {
    "dit": DiTConfig(
        dim=24, ffn_dim=32, num_heads=2, num_layers=1, text_dim=16, text_len=8, freq_dim=16
    ),
    "vae": VAEConfig(dim=4, dim_mult=(1,), num_res_blocks=1, temporal_downsample=()),
    "text_encoder": TextConfig(vocab=5, dim=16, dim_attn=16, dim_ffn=16, num_heads=2, num_layers=1),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_network_is_drawn_from_the_keys_it_is_given_and_has_a_shape_without(name):
    build, config = WAN21.networks[name].build, CONFIGS[name]

    def drawing(seed):
        return str(jax.make_jaxpr(lambda: leaves_of(build(config, nnx.Rngs(seed))))())

    assert drawing(1) == drawing(1) != drawing(0)
    given = jax.eval_shape(lambda: leaves_of(build(config, nnx.Rngs(1))))
    assert given == jax.eval_shape(lambda: leaves_of(build(config)))
