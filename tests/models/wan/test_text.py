import dataclasses
import hashlib
import json
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from pusa_jax.convert import t5
from pusa_jax.convert.files.mapped import ArrayTensors
from pusa_jax.convert.tables import TensorInfo, bind, dump, load
from pusa_jax.convert.violations import ConversionError
from pusa_jax.models.prompts import Tokenizer, encode_prompt
from pusa_jax.models.t5 import Attention, T5Encoder, TextConfig, relative_position_bucket
from pusa_jax.models.wan.text import (
    PUSA_NEGATIVE_PROMPT,
    WAN_NEGATIVE_PROMPT,
    clean_prompt,
    tokenizer,
)
from pusa_jax.progress import PusaWarning
from pusa_jax.testing.compare import assert_close, relative_error
from pusa_jax.testing.tokenizer import save_tiny_tokenizer
from pusa_jax.weights.leaves import assemble, leaves_of, shapes_of

CONFIG = TextConfig(
    vocab=40, dim=24, dim_attn=32, dim_ffn=40, num_heads=4, num_layers=3, text_len=16
)
FULL = TextConfig()
KEYS = Path(__file__).resolve().parents[4] / "shared" / "reference" / "keys"
TABLES = {
    "original": (t5.original_rules, None),
    "transformers": (t5.transformers_rules, t5.TRANSFORMERS_IGNORED),
}
SPOTS = {
    -128: 15, -64: 14, -16: 10, -8: 8, -7: 7, 0: 0,
    1: 17, 7: 23, 8: 24, 16: 26, 64: 30, 91: 31, 600: 31,
}  # fmt: skip
"""Offset -> bucket for 32 buckets up to distance 128, from a run of the original."""


def builder(config=CONFIG):
    return lambda: T5Encoder(config, rngs=nnx.Rngs(0))


@pytest.fixture(scope="module")
def encoder():
    return builder()()


@pytest.fixture(scope="module")
def encode():
    return jax.jit(encode_prompt)


def prompts(*lengths, padded_to):
    """Random token ids of the given lengths; the same row whatever the padding."""
    rows = [np.random.default_rng(n).integers(2, CONFIG.vocab, n) for n in lengths]
    ids = np.stack([np.pad(row, (0, padded_to - len(row))) for row in rows]).astype(np.int32)
    mask = (np.arange(padded_to)[None] < np.asarray(lengths)[:, None]).astype(np.int32)
    return jnp.asarray(ids), jnp.asarray(mask)


def test_buckets_have_the_recorded_values():
    offsets = np.asarray(list(SPOTS))
    assert relative_position_bucket(offsets, 32, 128).tolist() == list(SPOTS.values())


def test_buckets_of_keys_after_the_query_are_those_before_it_shifted_by_half():
    distance = np.arange(1, 300)
    before = relative_position_bucket(-distance, 24, 100)
    assert np.array_equal(relative_position_bucket(distance, 24, 100), before + 12)
    assert (np.diff(before) >= 0).all()
    assert before.max() == 11


def test_features_of_tokens_do_not_depend_on_padding_or_on_the_batch(encoder, encode):
    together = encode(encoder, *prompts(5, 9, padded_to=16))
    for row, length in enumerate((5, 9)):
        alone = encode(encoder, *prompts(length, padded_to=length))
        assert_close(together[row, :length], alone[0], 1e-6)


def test_every_prompt_of_a_batch_is_zeroed_after_its_own_end(encoder, encode):
    text = np.asarray(encode(encoder, *prompts(5, 9, 16, padded_to=16)))
    filled = np.abs(text).max(-1) > 0
    assert filled.sum(1).tolist() == [5, 9, 16]
    assert filled[0, :5].all()
    assert filled[1, :9].all()


def test_features_depend_on_the_order_of_tokens(encoder, encode):
    ids, mask = prompts(9, padded_to=9)
    swapped = ids.at[0, 2].set(ids[0, 6]).at[0, 6].set(ids[0, 2])
    features, others = encode(encoder, ids, mask), encode(encoder, swapped, mask)
    assert relative_error(others[0, 2], features[0, 6]) > 1e-3


def test_scores_are_not_scaled_and_the_bias_is_added_to_them():
    """One head of dimension 2 with weights set by hand: what the softmax sees is known."""
    config = dataclasses.replace(CONFIG, dim=2, dim_attn=2, num_heads=1)
    factors = {"q/kernel": 2.0, "k/kernel": 3.0, "v/kernel": 5.0, "o/kernel": 1.0}
    leaves = {path: factor * jnp.eye(2) for path, factor in factors.items()}
    attention = assemble(lambda: Attention(config, rngs=nnx.Rngs(0)), leaves)
    x = jnp.asarray([[[1.0, 0.0], [-1.0, 0.0]]])
    bias = jnp.asarray([[[[0.0, 11.0], [0.0, 0.0]]]])
    out = attention(x, bias)  # scores of query 0: 6 + 0 and -6 + 11
    assert_close(out[0, 0, 0], 5 * np.tanh((6 - 5) / 2), 1e-6)


def test_bfloat16_encoder_is_close_to_float32(encoder, encode):
    config = dataclasses.replace(CONFIG, param_dtype="bfloat16", compute_dtype="bfloat16")
    rounded = {path: leaf.astype(jnp.bfloat16) for path, leaf in leaves_of(encoder).items()}
    wide = assemble(builder(), {path: leaf.astype(jnp.float32) for path, leaf in rounded.items()})
    tokens = prompts(5, 16, padded_to=16)
    with jax.numpy_dtype_promotion("strict"):
        text = encode(assemble(builder(config), rounded), *tokens)
    assert text.dtype == jnp.bfloat16
    # 8 bits of mantissa, 3 layers: a few units in the last place.
    assert_close(text.astype(jnp.float32), encode(wide, *tokens), 2e-2)


def test_full_size_has_the_published_number_of_parameters():
    sizes = [leaf.size for leaf in shapes_of(builder(FULL)).values()]
    assert sum(sizes) == 5_680_910_336


@dataclasses.dataclass(frozen=True)
class Shapes:
    """A checkpoint of which only names and shapes are known."""

    tensors: dict[str, TensorInfo]

    def read(self, name, index=None):
        raise AssertionError(f"{name} was read")


@pytest.mark.parametrize("layout", TABLES)
def test_tables_cover_the_published_tensors_to_the_last_one(layout):
    file = KEYS / f"umt5-xxl-encoder.{layout}.json"
    if not file.exists():
        pytest.skip(f"{file.name} is not here")
    published = json.loads(file.read_text())["tensors"]
    source = Shapes({k: TensorInfo(tuple(s), np.dtype(np.float32)) for k, s in published.items()})
    rules, ignored = TABLES[layout]
    leaves = bind(source, rules(FULL), shapes_of(builder(FULL)), ignored=ignored)
    used = {name for leaf in leaves for name in leaf.rule.names(leaf.shape)}
    assert len(used) == 242
    unused = published.keys() - used
    assert unused == ({"encoder.embed_tokens.weight"} if layout == "transformers" else set())
    assert unused <= set(ignored or ())


@pytest.mark.parametrize("layout", TABLES)
def test_tables_are_exact_both_ways(layout, encoder):
    rules, ignored = TABLES[layout]
    leaves = leaves_of(encoder)
    tensors = dict(dump(leaves, rules(CONFIG)))
    assert len(tensors) == 2 + 10 * CONFIG.num_layers
    again = load(ArrayTensors(tensors), rules(CONFIG), shapes_of(builder()), ignored=ignored)
    assert all(jnp.array_equal(again[path], leaf) for path, leaf in leaves.items())


def test_only_the_tied_embedding_may_be_there_twice(encoder):
    rules = t5.transformers_rules(CONFIG)
    tensors = dict(dump(leaves_of(encoder), rules))
    tied = tensors | {"encoder.embed_tokens.weight": tensors["shared.weight"]}
    abstract, ignored = shapes_of(builder()), t5.TRANSFORMERS_IGNORED
    assert load(ArrayTensors(tied), rules, abstract, ignored=ignored)
    with pytest.raises(ConversionError, match=r"lm_head\.weight"):
        bind(ArrayTensors(tied | {"lm_head.weight": np.zeros(1)}), rules, abstract, ignored=ignored)


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("", ""),
        ("  a\tcat \n\n sits\u3000 here ", "a cat sits here"),
        ("salt &amp;amp; pepper &lt;3", "salt & pepper <3"),
        ("It\u2019s", "It's"),
        ("donâ€™t", "don't"),
        ("cafÃ©", "café"),
        ("色调，过曝", "色调,过曝"),
        ("ＡＢ", "AB"),
    ],
)
def test_prompts_are_cleaned_as_in_the_original(raw, clean):
    assert clean_prompt(raw) == clean


def test_cleaning_twice_changes_nothing():
    for prompt in (WAN_NEGATIVE_PROMPT, PUSA_NEGATIVE_PROMPT, "  x &amp; y "):
        assert clean_prompt(clean_prompt(prompt)) == clean_prompt(prompt)


def test_negative_prompts_are_the_published_ones():
    digest = hashlib.sha256(PUSA_NEGATIVE_PROMPT.encode()).hexdigest()
    assert digest == "e488b06083693241fbe71bed61a3eb0035f4ec96d858d235be1662c226452fac"
    assert len(PUSA_NEGATIVE_PROMPT) == 392
    assert WAN_NEGATIVE_PROMPT.count("，") == 27
    assert "," not in WAN_NEGATIVE_PROMPT


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    assert save_tiny_tokenizer(folder, "a cat sits on the red hill red".split()) == 105
    return folder


def test_prompts_become_words_then_the_end_then_padding(folder):
    tokenize = tokenizer(folder, 8)
    long = "red red red red red red red red red"
    message = f"the prompt '{long}'.* has 10 tokens, of which the model takes 8; its end is cut off"
    with pytest.warns(PusaWarning, match=message):
        ids, mask = tokenize(["the  cat", "", long])
    assert (ids.dtype, mask.dtype, ids.shape) == (np.int32, np.int32, (3, 8))
    assert ids[0, :4].tolist() == [104, 99, 1, 0]
    assert ids[1].tolist() == [1] + 7 * [0]
    assert ids[2, -1] == 1
    assert mask.sum(1).tolist() == [3, 1, 8]
    assert ids.max() < tokenize.vocab_size == 105


def test_a_prompt_that_just_fits_is_no_matter_of_warning(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, mask = tokenizer(folder, 8)(["red red red red red red red"])
    assert mask.sum() == 8


def test_unknown_words_are_spelled_and_unknown_characters_marked(folder):
    ids, mask = tokenizer(folder, 16)(["dog 中"])
    assert mask.sum() == 7  # space d o g, space unknown, end
    assert (ids == 2).sum() == 1


def test_an_empty_prompt_can_have_no_token_at_all(folder):
    """As Mochi's: then nothing of it reaches the DiT."""
    masked = Tokenizer(folder, 8, clean=str, is_empty_masked=True)
    ids, mask = masked(["", "cat"])
    assert ids[0].tolist() == mask[0].tolist() == [0] * 8
    assert mask[1].tolist() == [1, 1] + [0] * 6


@pytest.mark.parametrize("content", ["", "{", "{}", '{"model": 3}'])
def test_a_broken_tokenizer_file_is_named_in_one_line(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ValueError, match=r"tokenizer\.json is not a tokenizer file: [^\n]+$"):
        tokenizer(tmp_path, 8)


def test_a_tokenizer_with_other_special_tokens_is_refused(folder, tmp_path):
    content = (folder / "tokenizer.json").read_text().replace("<pad>", "<s>")
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ValueError, match=r"not a T5 tokenizer: expected ids \(0, 1\)"):
        tokenizer(tmp_path, 8)


def test_a_folder_without_tokenizer_json_says_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"found none; copy it there"):
        tokenizer(tmp_path, 8)
    (tmp_path / "spiece.model").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match=r"found only spiece\.model; copy it there"):
        tokenizer(tmp_path, 8)
