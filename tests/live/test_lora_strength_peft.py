"""Patterns in settings against PEFT itself."""

import json

import numpy as np
import pytest

from pusa_jax.convert.lora import read_lora
from pusa_jax.convert.wan.foreign import WAN21
from pusa_jax.models.lora import Target

torch = pytest.importorskip("torch", reason="needs the extra [test]")
peft = pytest.importorskip("peft", reason="needs the extra [test]")
pytestmark = pytest.mark.torch

PATTERNS = [
    {r"blocks\.\d+\.self_attn\.q": 12},
    {"^blocks.0.self_attn.q": 12, "q": 3},
    {"^self_attn.q": 12},
    {"q": 12, r"self_attn\.q": 3},
    {r".*\.(q|k)": 12, "blocks.1.self_attn.k": 3},
    {"attn.q": 12},
    {"self_attn.q|k": 12},
]


class Attention(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.k = torch.nn.Linear(5, 5), torch.nn.Linear(5, 5)


class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.self_attn = Attention()


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = torch.nn.ModuleList([Block(), Block()])


@pytest.mark.parametrize("stabilised", [False, True])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_strength_of_each_module_is_that_of_peft(tmp_path, pattern, stabilised):
    config = peft.LoraConfig(
        r=4, lora_alpha=6, target_modules=["q", "k"], alpha_pattern=pattern,
        rank_pattern={r"blocks\.1\..*": 2}, use_rslora=stabilised,
    )  # fmt: skip
    model = peft.get_peft_model(Model(), config)
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["alpha_pattern"] == pattern
    lora = read_lora(tmp_path, WAN21.lora)
    for layer, block in enumerate(model.base_model.model.blocks):
        for name in "qk":
            ours = lora.modules[Target(f"blocks/self_attn/{name}", layer)]
            theirs = getattr(block.self_attn, name).scaling["default"]
            np.testing.assert_allclose(ours.alpha / ours.rank, theirs, rtol=1e-12)
