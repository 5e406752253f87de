"""The UMT5 encoder with recorded weights, read through the tables of both layouts."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from golden import Comparison, Golden, remembered

from pusa_jax.convert import t5
from pusa_jax.convert.files.open import open_tensors
from pusa_jax.convert.tables import load
from pusa_jax.models.prompts import encode_prompt
from pusa_jax.models.t5 import T5Encoder, TextConfig, relative_position_bucket
from pusa_jax.testing.compare import relative_error
from pusa_jax.weights.leaves import assemble, shapes_of

LIMIT = 5e-5
T5_LIMIT = 5e-6
HIDDEN, MASKED = jax.jit(lambda model, *tokens: model(*tokens)), jax.jit(encode_prompt)
OUTPUTS = {"wan": ("hidden", "hidden_masked_to_zero"), "hf": ("hf_valid",)}


def config_of(golden: Golden) -> TextConfig:
    fields = {field.name for field in dataclasses.fields(TextConfig)}
    return TextConfig(**{name: v for name, v in golden.config.items() if name in fields})


@remembered
def encoder_of(golden: Golden, role: str) -> T5Encoder:
    config = config_of(golden)
    rules = {"wan": t5.original_rules, "hf": t5.transformers_rules}[role](config)
    ignored = {"wan": None, "hf": t5.TRANSFORMERS_IGNORED}[role]

    def build():
        return T5Encoder(config, rngs=nnx.Rngs(0))

    source = open_tensors(golden.weights(role))
    return assemble(build, load(source, rules, shapes_of(build), ignored=ignored))


def check_umt5(golden: Golden, case: dict):
    config, reach = config_of(golden), golden.config["bucket_range"]
    offsets = np.arange(-reach, reach + 1)
    buckets = relative_position_bucket(offsets, config.num_buckets, config.max_distance)
    wrong = np.count_nonzero(buckets != golden.tensor("out.bucket_of_relative_position"))
    yield Comparison("relative position buckets that differ", float(wrong), 0, "count")

    name = case["name"]
    ids, mask = (
        jnp.asarray(golden.tensor(f"in.{name}.{what}").astype(np.int32)) for what in ("ids", "mask")
    )
    for role in golden.meta["weights_file"]:
        encoder = encoder_of(golden, role)
        features = {
            "hidden": HIDDEN(encoder, ids, mask),
            "masked": MASKED(encoder, ids, mask),
        }
        for output in OUTPUTS[role]:
            expected = golden.tensor(f"out.{name}.{output}")
            actual = features["hidden" if output == "hidden" else "masked"]
            yield Comparison(f"{role} {output}", relative_error(actual, expected), LIMIT)


@remembered
def t5_of(golden: Golden) -> T5Encoder:
    source = open_tensors(golden.weights())
    config = t5.config_from_source(source, golden.config)
    assert config.shared_positions

    def build():
        return T5Encoder(config, rngs=nnx.Rngs(0))

    return assemble(build, load(source, t5.transformers_rules(config), shapes_of(build)))


def check_t5(golden: Golden, case: dict):
    """T5 v1.1; rows of padding are compared as well."""
    name = case["name"]
    if name == "bucket":
        config = t5_of(golden).config
        buckets = relative_position_bucket(
            golden.tensor("in.bucket.delta"), config.num_buckets, config.max_distance
        )
        wrong = np.count_nonzero(buckets != golden.tensor("out.bucket.bucket"))
        yield Comparison("relative position buckets that differ", float(wrong), 0, "count")
        return
    ids = jnp.asarray(golden.tensor(f"in.{name}.ids").astype(np.int32))
    has_mask = golden.has(f"in.{name}.mask")
    mask = golden.tensor(f"in.{name}.mask").astype(np.int32) if has_mask else np.ones(ids.shape)
    hidden = HIDDEN(t5_of(golden), ids, jnp.asarray(mask, jnp.int32))
    expected = golden.tensor(f"out.{name}.hidden")
    yield Comparison("features", relative_error(hidden, expected), T5_LIMIT)


CHECKS = {"umt5": check_umt5, "t5v11_encoder": check_t5}
