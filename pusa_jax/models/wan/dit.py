"""The Wan2.1 diffusion transformer with one timestep per latent frame (Pusa, arXiv 2507.16116).

Activations are [B, F, S, D]: S tokens in each of F latent frames. The time embedding is made once
per frame and its shifts, scales and gates [B, F, 6, D] are broadcast over the S tokens of the
frame, never stored per token. With equal timesteps this is the original text-to-video model:
timesteps [B, 1] give exactly that, one timestep per clip.

    latents [B,F,H,W,C] -> patches -> blocks: x += gate * self_attention(modulate(norm(x)))
    text [B,L,E] -> keys, values ->           x += cross_attention(norm3(x), text)
    timesteps [B,F] -> modulation ->          x += gate * ffn(modulate(norm(x))) -> head -> velocity
"""

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from pusa_jax.devices.sharding import constrain
from pusa_jax.models.attention.attention import cross_attention, pad_tokens, self_attention
from pusa_jax.models.layers import (
    MLP,
    LayerNorm,
    RMSNorm,
    layer_norm,
    patchify,
    time_features,
    unpatchify,
)
from pusa_jax.models.remat import rematerialised
from pusa_jax.models.rope import Rotary, rotary_table, rotate
from pusa_jax.models.wan.config import DiTConfig
from pusa_jax.typing import Latents, Text, Timesteps

Tokens = Float[Array, "B F S D"]
Heads = Float[Array, "B F S K P"]
PromptHeads = Float[Array, "B L K P"]
TextKV = tuple[Float[Array, "*layers B L K P"], Float[Array, "*layers B L K P"]]
"""Keys and values of a prompt for cross-attention."""


def stream_dtype(config: DiTConfig) -> DTypeLike:
    """Dtype of time path, modulation, residual stream and head: float32 in the official code."""
    return jnp.float32 if config.numerics == "wan" else config.compute_dtype


class Attention(nnx.Module):
    """Projections and query-key norms; a norm runs over all heads together, as in the original."""

    def __init__(self, config: DiTConfig, *, rngs: nnx.Rngs):
        linear = functools.partial(
            nnx.Linear,
            config.dim,
            config.dim,
            dtype=config.compute_dtype,
            param_dtype=config.param_dtype,
            rngs=rngs,
        )
        norm = functools.partial(RMSNorm, config.dim, config.eps, param_dtype=config.param_dtype)
        self.head_dim, self.dtype = config.head_dim, config.compute_dtype
        self.q, self.k, self.v, self.o = linear(), linear(), linear(), linear()
        self.norm_q, self.norm_k = norm(), norm()

    def _split(self, x: Float[Array, "*rest D"]) -> Float[Array, "*rest K P"]:
        return x.reshape(*x.shape[:-1], -1, self.head_dim)

    def query(self, x: Tokens) -> Heads:
        """Normed queries, split into heads."""
        return self._split(self.norm_q(self.q(x)))

    def key_value(self, x: Float[Array, "*rest D"]) -> tuple[Array, Array]:
        """Normed keys and plain values, split into heads."""
        return self._split(self.norm_k(self.k(x))), self._split(self.v(x))

    def to_clip(self, query: Heads, key: Heads, value: Heads, tokens: int) -> Tokens:
        """Every token looks at every token of the clip, whatever frame it lies in.

        The first `tokens` of each frame are real, what is padded behind them is not seen.
        """
        return self._out(self_attention(*self._cast(query, key, value), tokens=tokens))

    def to_prompt(self, query: Heads, key: PromptHeads, value: PromptHeads) -> Tokens:
        """Every token looks at every token of the prompt, padding included."""
        return self._out(cross_attention(*self._cast(query, key, value)))

    def _cast(self, *heads: Array) -> tuple[Array, ...]:
        return tuple(x.astype(self.dtype) for x in heads)

    def _out(self, heads: Heads) -> Tokens:
        return self.o(heads.reshape(*heads.shape[:3], -1))  # [B, F, S, K, P] -> [B, F, S, D]


class Block(nnx.Module):
    """Self-attention, cross-attention to the prompt and feed-forward, each added to the stream."""

    def __init__(self, config: DiTConfig, *, rngs: nnx.Rngs):
        self.eps, self.dtype = config.eps, stream_dtype(config)
        init = jax.random.normal(rngs.params(), (6, config.dim)) / config.dim**0.5
        self.modulation = nnx.Param(init.astype(config.param_dtype))
        self.self_attn = Attention(config, rngs=rngs)
        self.norm3 = LayerNorm(
            config.dim, config.eps, dtype=self.dtype, param_dtype=config.param_dtype
        )
        self.cross_attn = Attention(config, rngs=rngs)
        self.ffn = MLP(
            (config.dim, config.ffn_dim, config.dim),
            "gelu",
            dtype=config.compute_dtype,
            param_dtype=config.param_dtype,
            rngs=rngs,
        )

    def __call__(
        self,
        x: Tokens,
        modulation: Float[Array, "B f 6 D"],
        rotary: Rotary,
        text: TextKV,
        tokens: int,
    ) -> Tokens:
        """Runs one layer.

        Args:
          x: residual stream.
          modulation: that of the timesteps, f = F or 1.
          rotary: angles of every token.
          text: keys and values of the prompt for this layer.
          tokens: how many of the S tokens of a frame are not padding.
        """
        table = self.modulation[...].astype(self.dtype)[None, None] + modulation
        shift1, scale1, gate1, shift2, scale2, gate2 = (
            table[:, :, None, i] for i in range(6)
        )  # each [B, f, 1, D], f = F or 1

        h = layer_norm(x, self.eps, self.dtype) * (1 + scale1) + shift1
        key, value = self.self_attn.key_value(h)
        query = rotate(self.self_attn.query(h), rotary)
        h = self.self_attn.to_clip(query, rotate(key, rotary), value, tokens)
        x = x + gate1 * h.astype(self.dtype)

        h = self.cross_attn.to_prompt(self.cross_attn.query(self.norm3(x)), *text)
        x = x + h.astype(self.dtype)

        h = layer_norm(x, self.eps, self.dtype) * (1 + scale2) + shift2
        return x + gate2 * self.ffn(h).astype(self.dtype)


class Head(nnx.Module):
    """Final modulated norm and projection to patches; uses the time embedding itself."""

    def __init__(self, config: DiTConfig, *, rngs: nnx.Rngs):
        self.eps, self.dtype = config.eps, stream_dtype(config)
        _, ph, pw = config.patch_size
        init = jax.random.normal(rngs.params(), (2, config.dim)) / config.dim**0.5
        self.modulation = nnx.Param(init.astype(config.param_dtype))
        self.linear = nnx.Linear(
            config.dim,
            ph * pw * config.out_dim,
            dtype=self.dtype,
            param_dtype=config.param_dtype,
            rngs=rngs,
        )

    def __call__(self, x: Tokens, time: Float[Array, "B f D"]) -> Float[Array, "B F S patch"]:
        """Tokens and time embedding -> patches."""
        shift, scale = self.modulation[...].astype(self.dtype)[:, None, None] + time[None]
        h = layer_norm(x, self.eps, self.dtype)
        return self.linear(h * (1 + scale[:, :, None]) + shift[:, :, None])


class WanDiT(nnx.Module):
    """Predicts the velocity, noise - clean, from noisy latents, prompt and per-frame timesteps."""

    def __init__(self, config: DiTConfig, *, rngs: nnx.Rngs):
        self.config = config
        _, ph, pw = config.patch_size
        kept, dim = {"param_dtype": config.param_dtype, "rngs": rngs}, config.dim
        linear = functools.partial(nnx.Linear, **kept)
        mlp = functools.partial(MLP, **kept)
        time_dtype = stream_dtype(config)
        self.patch_embedding = linear(ph * pw * config.in_dim, dim, dtype=config.compute_dtype)
        self.text_embedding = mlp((config.text_dim, dim, dim), "gelu", dtype=config.compute_dtype)
        self.time_embedding = mlp((config.freq_dim, dim, dim), "silu", dtype=time_dtype)
        self.time_projection = linear(dim, 6 * dim, dtype=time_dtype)
        self.blocks = jax.vmap(lambda r: Block(config, rngs=r))(rngs.split(config.num_layers))
        self.head = Head(config, rngs=rngs)

    def embed_timestep(
        self, timestep: Float[Array, ""]
    ) -> tuple[Float[Array, " D"], Float[Array, "6 D"]]:
        """One timestep -> time embedding and modulation; mapped over batch and frames by `vmap`."""
        features = time_features(timestep, self.config.freq_dim)
        time = self.time_embedding(features.astype(stream_dtype(self.config)))
        return time, self.time_projection(jax.nn.silu(time)).reshape(6, -1)

    def project_text(self, text: Text) -> TextKV:
        """Keys and values of a prompt for every block: once per prompt, not once per step.

        Args:
          text: features padded with zero rows to the length the model was trained with; the padding
            is attended to (there is no mask in the original).

        Returns:
          keys and values, each [layers, B, L, K, P]; on a mesh they are spread over `context` by
          their place in the prompt until a layer needs them.
        """
        embedded = self.text_embedding(text)
        # Layer by layer: all at once would gather the projections of all layers on every device.
        project = rematerialised(lambda attn: attn.key_value(embedded), self.config.remat)
        key, value = jax.lax.map(project, self.blocks.cross_attn)
        axes = (None, "data", "context", "tensor", None)
        return constrain(key, *axes), constrain(value, *axes)

    def __call__(self, latents: Latents, timesteps: Timesteps, text: TextKV) -> Latents:
        """Predicts the velocity.

        Args:
          latents: noisy latents [B, F, H, W, in_dim]; H and W divisible by the patch size.
          timesteps: 1000 * sigma in [0, 1000], [B, F], or [B, 1] for one timestep per clip.
          text: what `project_text` returned for the prompts.

        Returns:
          noise - clean, [B, F, H, W, out_dim], float32 or the compute dtype (see `numerics`).

        Raises:
          ValueError: height or width is not divisible by the patch size, or the number of timesteps
            is neither 1 nor F.
        """
        b, f, h, w, _ = latents.shape
        _, ph, pw = self.config.patch_size
        if h % ph or w % pw:
            raise ValueError(f"latent size must be divisible by {ph}x{pw}, got {h}x{w}.")
        if timesteps.shape not in ((b, f), (b, 1)):
            raise ValueError(f"timesteps must be {(b, f)} or {(b, 1)}, got {timesteps.shape}.")
        time, modulation = jax.vmap(jax.vmap(self.embed_timestep))(timesteps)
        x = self.run_blocks(self.embed(latents), modulation, text, (h // ph, w // pw))
        return self.predict(x, time, (h, w))

    def embed(self, latents: Latents) -> Tokens:
        """Latents -> the residual stream that enters the blocks, padded for the mesh."""
        patches = patchify(latents, self.config.patch_size[1:])
        x = self.patch_embedding(patches).astype(stream_dtype(self.config))
        return constrain(pad_tokens(x, axis=2), "data", None, "context", None)

    def run_blocks(
        self, x: Tokens, modulation: Float[Array, "B f 6 D"], text: TextKV, grid: tuple[int, int]
    ) -> Tokens:
        """The stream behind all blocks; `grid` is how many patches a frame is high and wide."""
        tokens = grid[0] * grid[1]
        angles = rotary_table(self.config.head_dim, x.shape[1], *grid)
        rotary = Rotary(*(pad_tokens(table, axis=1) for table in angles))

        def run_block(x, layer):
            block, text_kv = layer
            return block(x, modulation, rotary, text_kv, tokens), None

        run_block = rematerialised(run_block, self.config.remat)
        return jax.lax.scan(run_block, x, (self.blocks, text))[0]

    def predict(self, x: Tokens, time: Float[Array, "B f D"], size: tuple[int, int]) -> Latents:
        """The stream behind the blocks -> velocity of latents of a size."""
        h, w = size
        _, ph, pw = self.config.patch_size
        tokens = (h // ph) * (w // pw)
        return unpatchify(self.head(x, time)[:, :, :tokens], size, (ph, pw))
