"""Adapters against PEFT itself."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from pusa_jax.models.adapters import AdaptedLinear
from pusa_jax.testing.compare import assert_close

torch = pytest.importorskip("torch", reason="needs the extra [test]")
peft = pytest.importorskip("peft", reason="needs the extra [test]")
pytestmark = pytest.mark.torch


@pytest.mark.parametrize(("rank", "alpha"), [(3, 6.0), (4, 4.0)])
def test_an_adapted_layer_is_that_of_peft(rank, alpha):
    torch.manual_seed(0)
    config = peft.LoraConfig(r=rank, lora_alpha=alpha, target_modules=["q"])
    theirs = peft.inject_adapter_in_model(config, torch.nn.ModuleDict({"q": torch.nn.Linear(9, 5)}))
    layer = theirs["q"]
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    assert not b.any() and a.abs().max() <= 1 / 3
    torch.nn.init.normal_(b)

    base = nnx.Linear(9, 5, rngs=nnx.Rngs(0))
    base.kernel.set_value(jnp.asarray(layer.base_layer.weight.detach().numpy().T))
    base.bias.set_value(jnp.asarray(layer.base_layer.bias.detach().numpy()))
    factors = (jnp.asarray(x.detach().numpy().T) for x in (a, b))
    ours = AdaptedLinear(base, *factors, scale=alpha / rank)
    x = np.random.default_rng(0).standard_normal((7, 9), np.float32)
    with torch.no_grad():
        assert_close(ours(jnp.asarray(x)), layer(torch.from_numpy(x)).numpy(), 1e-6)
