"""Weights merged by the reference loaders from every LoRA dialect; the DiT with them."""

import ml_dtypes
import numpy as np
from check_dit import velocity
from flax import nnx
from golden import Comparison, Golden, remembered

from pusa_jax.convert.files.open import open_tensors
from pusa_jax.convert.lora import read_lora
from pusa_jax.convert.tables import dump, load
from pusa_jax.convert.wan.dit import config_from_source, original_rules
from pusa_jax.convert.wan.foreign import WAN21
from pusa_jax.models.lora import merge
from pusa_jax.models.wan.dit import WanDiT
from pusa_jax.testing.compare import from_house_layout, relative_error, to_house_layout
from pusa_jax.weights.leaves import assemble, shapes_of

RULES = {
    "pusa.load_lora": "pusa",
    "pusa.load_lora_lightx2v": "lightx2v",
    "diffsynth.fuse_lora_to_base_model": "file_alpha",
    "diffusers.native": "file_alpha",
    "diffusers.kohya": "file_alpha",
    "diffusers.wan": "file_alpha",
}
"""Loader of the reference -> merge rule with its arithmetic."""


@remembered
def base(golden: Golden, dtype: str):
    source = open_tensors(golden.weights("base"))
    config = config_from_source(source, golden.config)

    def build():
        return WanDiT(config, rngs=nnx.Rngs(0))

    leaves = load(source, original_rules(config), shapes_of(build), dtype=dtype)
    return config, build, leaves


def ulps(actual: np.ndarray, expected: np.ndarray) -> int:
    """Largest distance in representable bfloat16 numbers."""

    def order(x):
        bits = x.view(np.int16).astype(np.int32)
        return np.where(bits < 0, -(bits & 0x7FFF), bits)

    return int(np.abs(order(actual) - order(expected)).max())


def check_merge(golden: Golden, case: dict):
    dtype = case.get("dtype", "float32")
    config, build, leaves = base(golden, dtype)
    for step in case["steps"]:
        lora = read_lora(golden.weights(step["file"]), WAN21.lora)
        leaves = merge(leaves, lora, step["multiplier"], RULES[step["loader"]])

    recorded = case.get("same_as", case["name"])
    expected = {
        name: golden.tensor(key)
        for name in open_tensors(golden.weights("base")).tensors
        if golden.has(key := f"out.{recorded}.merged.{name}")
    }
    ours = dict(dump(leaves, original_rules(config)))
    for name, tensor in expected.items():
        if dtype == "bfloat16":
            assert ours[name].dtype == tensor.dtype == ml_dtypes.bfloat16
            yield Comparison(name, ulps(ours[name], tensor), 2, "bfloat16 ulp")
        else:
            yield Comparison(name, relative_error(ours[name], tensor), 1e-6)

    if golden.has(f"out.{case['name']}.v"):
        dit = assemble(build, leaves)
        latents = to_house_layout(golden.tensor("in.x"))
        ours = velocity(dit, latents, golden.tensor("in.timestep"), golden.tensor("in.context"))
        error = relative_error(from_house_layout(ours), golden.tensor(f"out.{case['name']}.v"))
        yield Comparison("velocity", error, 5e-6)


CHECKS = {"lora_merge": check_merge}
