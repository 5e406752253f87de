"""Fingerprints keep the bits they had when files were written, and tell apart what they promise."""

import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pusa_jax.files import fingerprints

WEIGHTS = {
    "b/kernel": np.arange(12, dtype=np.float32).reshape(3, 4),
    "a/bias": np.linspace(-1, 1, 10_000, dtype=np.float32),
}


def test_bits_are_those_that_lie_in_files(tmp_path):
    (tmp_path / "file").write_bytes(b"some")
    assert fingerprints.of_file(tmp_path / "file") == hashlib.sha256(b"some").hexdigest()
    latents = np.arange(6, dtype=np.float32)
    assert fingerprints.of_latents(latents) == hashlib.sha256(latents.tobytes()).hexdigest()
    assert fingerprints.of_list([("a.mp4", "a cat"), ("b.mp4", "é")]) == "b26fcbfc4ecc3519"
    assert fingerprints.of_weights(WEIGHTS) == "d6e690182f9c93fc"
    placed = {path: jnp.asarray(leaf) for path, leaf in WEIGHTS.items()}
    assert int(fingerprints.of_placed_weights(placed)) == 1101017944
    half = {path: jnp.asarray(leaf, jnp.bfloat16) for path, leaf in WEIGHTS.items()}
    assert int(fingerprints.of_placed_weights(half)) == 1469137064


def test_lists_are_told_apart_by_order_and_captions():
    one, two = ("a.mp4", "a cat"), ("b.mp4", "a dog")
    prints = [[one, two], [two, one], [one], [one, ("b.mp4", "a dog.")]]
    assert len({fingerprints.of_list(clips) for clips in prints}) == len(prints)


@pytest.mark.parametrize("change", ["path", "shape", "values"])
def test_weights_are_told_apart_by_path_shape_and_values(change):
    kernel = WEIGHTS["b/kernel"]
    other = {
        "path": {"c/kernel": kernel},
        "shape": {"b/kernel": kernel.reshape(4, 3)},
        "values": {"b/kernel": kernel + 1},
    }[change]
    known = {"b/kernel": kernel}
    assert fingerprints.of_weights(other) != fingerprints.of_weights(known)
    assert fingerprints.of_weights({"b/kernel": jnp.asarray(kernel)}) == fingerprints.of_weights(
        known
    )


def test_a_mesh_does_not_change_a_fingerprint_and_one_bit_does():
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.NamedSharding(mesh, jax.P("x"))
    bias = WEIGHTS["a/bias"]
    whole = int(fingerprints.of_placed_weights({"a": jnp.asarray(bias)}))
    assert (
        int(jax.jit(fingerprints.of_placed_weights)({"a": jax.device_put(bias, sharding)})) == whole
    )
    bits = bias.view(np.uint32).copy()
    bits[5000] ^= 1
    assert int(fingerprints.of_placed_weights({"a": jnp.asarray(bits.view(np.float32))})) != whole
