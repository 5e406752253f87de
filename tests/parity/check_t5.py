"""The UMT5 encoder with recorded weights, read through the tables of both layouts."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from golden import Comparison, Golden, remembered

from pusa_jax.convert.files.open import open_tensors
from pusa_jax.convert.tables import load
from pusa_jax.convert.wan import text
from pusa_jax.models.t5 import T5Encoder, TextConfig, relative_position_bucket
from pusa_jax.models.wan.text import encode_prompt
from pusa_jax.testing.compare import relative_error
from pusa_jax.weights.leaves import assemble, shapes_of

LIMIT = 5e-5
HIDDEN, MASKED = jax.jit(lambda model, *tokens: model(*tokens)), jax.jit(encode_prompt)
OUTPUTS = {"wan": ("hidden", "hidden_masked_to_zero"), "hf": ("hf_valid",)}


def config_of(golden: Golden) -> TextConfig:
    fields = {field.name for field in dataclasses.fields(TextConfig)}
    return TextConfig(**{name: v for name, v in golden.config.items() if name in fields})


@remembered
def encoder_of(golden: Golden, role: str) -> T5Encoder:
    config = config_of(golden)
    rules = {"wan": text.original_rules, "hf": text.transformers_rules}[role](config)
    ignored = {"wan": None, "hf": text.TRANSFORMERS_IGNORED}[role]

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


CHECKS = {"umt5": check_umt5}
