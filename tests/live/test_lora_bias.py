"""Adapters whose up factor has a bias, merged as PEFT merges them."""

import numpy as np
import pytest

from pusa_jax.convert.lora import read_lora
from pusa_jax.convert.wan.foreign import WAN21
from pusa_jax.models.lora import merge

torch = pytest.importorskip("torch", reason="needs the extra [test]")
peft = pytest.importorskip("peft", reason="needs the extra [test]")

pytestmark = pytest.mark.torch


class Layer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        block = torch.nn.Module()
        block.ffn = torch.nn.Sequential(torch.nn.Linear(6, 8))
        self.blocks = torch.nn.ModuleList([block])

    def forward(self, x):
        return self.blocks[0].ffn(x)


@pytest.mark.parametrize("is_stabilised", [False, True])
def test_a_bias_of_the_up_factor_is_merged_as_by_peft(tmp_path, is_stabilised):
    torch.manual_seed(0)
    linear = (base := Layer()).blocks[0].ffn[0]
    leaves = {
        "blocks/ffn/up/kernel": linear.weight.detach().numpy().T[None].copy(),
        "blocks/ffn/up/bias": linear.bias.detach().numpy()[None].copy(),
    }
    config = peft.LoraConfig(
        r=2, lora_alpha=6, target_modules=["ffn.0"], lora_bias=True, use_rslora=is_stabilised
    )
    model = peft.get_peft_model(base, config)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter)
    model.save_pretrained(tmp_path)
    ours = merge(leaves, read_lora(tmp_path, WAN21.lora), 1.0)
    theirs = model.merge_and_unload().blocks[0].ffn[0]
    for path, tensor in (("kernel", theirs.weight.T), ("bias", theirs.bias)):
        found = np.asarray(ours[f"blocks/ffn/up/{path}"][0])
        np.testing.assert_allclose(found, tensor.detach().numpy(), rtol=1e-6, atol=1e-6)
