"""LatteVIDEO written out in NumPy, float64, from the published description and tensor names."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from pusa_jax.convert.latte.dit import original_rules
from pusa_jax.convert.tables import dump
from pusa_jax.models.latte.config import DiTConfig
from pusa_jax.models.latte.dit import LatteVideo
from pusa_jax.testing.compare import assert_close, random_module
from pusa_jax.weights.leaves import leaves_of

CONFIG = DiTConfig(
    dim=24, num_heads=3, num_layers=4, num_classes=4, num_frames=5, grid=(2, 3), freq_dim=16
)


class Written:
    """The network of published tensors `w`; one clip, frames F, places S, width D."""

    def __init__(self, w):
        self.w = {name: x.astype(np.float64) for name, x in w.items()}

    def linear(self, name, x):
        return x @ self.w[f"{name}.weight"].T + self.w[f"{name}.bias"]

    def modulated(self, x, shift, scale):
        x = x - x.mean(-1, keepdims=True)
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * (1 + scale) + shift

    def modulation(self, name, c, count):
        chunks = np.split(self.linear(f"{name}.adaLN_modulation.1", silu(c)), count, axis=-1)
        return [chunk[:, None] for chunk in chunks]  # each [F, 1, D]

    def attention(self, name, x):
        """Of rows x [n, tokens, D] by themselves."""
        q, k, v = (
            part.reshape(*x.shape[:2], CONFIG.num_heads, -1)
            for part in np.split(self.linear(f"{name}.qkv", x), 3, axis=-1)
        )
        scores = np.einsum("nqhc,nkhc->nhqk", q, k) / np.sqrt(q.shape[-1])
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        return self.linear(
            f"{name}.proj", np.einsum("nhqk,nkhc->nqhc", weights, v).reshape(x.shape)
        )

    def block(self, name, x, c, *, is_temporal):
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(name, c, 6)
        h = self.modulated(x, shift1, scale1)
        h = h.swapaxes(0, 1) if is_temporal else h
        h = self.attention(f"{name}.attn", h)
        x = x + gate1 * (h.swapaxes(0, 1) if is_temporal else h)
        h = gelu(self.linear(f"{name}.mlp.fc1", self.modulated(x, shift2, scale2)))
        return x + gate2 * self.linear(f"{name}.mlp.fc2", h)

    def __call__(self, latents, timesteps, label):
        """Latents [F, C, H, W] as published -> [F, 2 C, H, W]."""
        f, channels, h, w = latents.shape
        angles = timesteps[:, None] * 10_000.0 ** (-np.arange(8) / 8)
        time = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
        c = self.linear("t_embedder.mlp.2", silu(self.linear("t_embedder.mlp.0", time)))
        c = c + self.w["y_embedder.embedding_table.weight"][label]
        cut = latents.reshape(f, channels, h // 2, 2, w // 2, 2)
        x = np.einsum("fcipjq,dcpq->fijd", cut, self.w["x_embedder.proj.weight"])
        x = x.reshape(f, -1, CONFIG.dim) + self.w["x_embedder.proj.bias"] + self.w["pos_embed"]
        for i in range(CONFIG.num_layers // 2):
            x = self.block(f"blocks_spatial.{i}", x, c, is_temporal=False)
            if i == 0:
                x = x + self.w["temp_embed"][0][:, None]
            x = self.block(f"blocks_temp.{i}", x, c, is_temporal=True)
        x = self.linear(
            "final_layer.linear", self.modulated(x, *self.modulation("final_layer", c, 2))
        )
        return np.einsum("fijpqc->fcipjq", x.reshape(f, h // 2, w // 2, 2, 2, -1)).reshape(
            f, -1, h, w
        )


def silu(x):
    return x / (1 + np.exp(-x))


def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


@pytest.mark.parametrize("label", [1, 4])
def test_the_network_is_what_is_published(label):
    dit = random_module(lambda: LatteVideo(CONFIG, rngs=nnx.Rngs(0)))
    written = Written(dict(dump(leaves_of(dit), original_rules(CONFIG))))
    latents = np.random.default_rng(1).standard_normal((5, 4, 4, 6)).astype(np.float32)
    timesteps = np.asarray([999.0, 0, 517, 3, 120], np.float32)
    expected = written(latents.astype(np.float64), timesteps.astype(np.float64), label)
    run = jax.jit(lambda d, x, t, y: d(x, t, d.prepare(y)))
    labels = jnp.full((1, 1, 1), label, jnp.float32)
    found = run(dit, np.moveaxis(latents, 1, -1)[None], timesteps[None], labels)
    assert_close(np.moveaxis(found[0], -1, 1), expected, 2e-6)
