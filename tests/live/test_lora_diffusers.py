"""The LoRA we write, loaded by Diffusers and PEFT themselves."""

import numpy as np
import pytest
from flax import nnx

from pusa_jax.convert.files.mapped import ArrayTensors
from pusa_jax.convert.lora import write_lora
from pusa_jax.convert.tables import dump, load
from pusa_jax.convert.wan.dit import config_from_source, diffusers_rules
from pusa_jax.convert.wan.foreign import WAN21
from pusa_jax.models.lora import LoRA, LowRank, Target, merge
from pusa_jax.models.wan.dit import WanDiT
from pusa_jax.testing.compare import assert_close
from pusa_jax.weights.leaves import shapes_of

torch = pytest.importorskip("torch", reason="needs the extra [test]")
diffusers = pytest.importorskip("diffusers", reason="needs the extra [test]")
pytestmark = pytest.mark.torch

LAYERS, DIM, FFN, RANK = 2, 24, 40, 3


def transformer():
    torch.manual_seed(0)
    return diffusers.WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=DIM // 2,
        ffn_dim=FFN,
        num_layers=LAYERS,
        text_dim=8,
        freq_dim=16,
    )


def tensors(model):
    return {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}


def adapters(alpha):
    rng = np.random.default_rng(0)
    sizes = {f"blocks/{a}_attn/{p}": (DIM, DIM) for a in ("self", "cross") for p in "qkvo"}
    sizes |= {"blocks/ffn/up": (DIM, FFN), "blocks/ffn/down": (FFN, DIM)}
    return LoRA(
        {
            Target(path, layer): LowRank(
                rng.standard_normal((RANK, into)).astype(np.float32),
                rng.standard_normal((out, RANK)).astype(np.float32),
                alpha,
            )
            for path, (into, out) in sizes.items()
            for layer in range(LAYERS)
        }
    )


@pytest.mark.parametrize("alpha", [None, 6.0])
def test_diffusers_fuses_what_we_merge(tmp_path, alpha):
    model, lora = transformer(), adapters(alpha)
    source = ArrayTensors(tensors(model))
    config = config_from_source(source, dict(model.config))
    rules = diffusers_rules(config)
    leaves = load(source, rules, shapes_of(lambda: WanDiT(config, rngs=nnx.Rngs(0))))
    ours = dict(dump(merge(leaves, lora, 1.4), rules))

    write_lora(tmp_path / "lora.safetensors", lora, WAN21.lora, dtype="float32")
    pipe = diffusers.WanPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=None,
        transformer=model,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
    )
    pipe.load_lora_weights(str(tmp_path), weight_name="lora.safetensors")
    used = [name for name in model.state_dict() if "lora_" in name]
    assert len(used) == 2 * len(lora.modules)
    pipe.fuse_lora(lora_scale=1.4)
    pipe.unload_lora_weights()
    theirs = tensors(model)
    assert theirs.keys() == ours.keys()
    for name, tensor in ours.items():
        assert_close(tensor, theirs[name], 1e-6, name)
