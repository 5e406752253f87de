"""The Mochi diffusion transformer (AsymmDiT): two streams of tokens, one attention, F timesteps.

Frames F, places in a frame S = height * width, text tokens L; the visual stream is wider (D) than
the text's (Y), and both make heads of the same width, so that they attend to each other.

    timesteps [B,F] -> time + pooled text = c [B,F,D], its mean over frames [B,D] for the text
    latents [B,F,H,W,C] -> patches -> x [B,F,S,D]      text [B,L,E] -> y [B,L,Y]
    blocks:  x += tanh(gate) * norm(attention of x to x and y)     likewise y
             x += tanh(gate) * norm(mlp(norm(x) * (1 + scale)))    likewise y
    last block: as before, but y only gives keys and values
    head: layer_norm(x) * (1 + scale) + shift -> patches -> clean - noise [B,F,H,W,C]

A clip may also come with one timestep per clip, [B,1]: then this is Mochi itself. What a level
feeds, the modulation, has an axis of length F or 1 and is broadcast over the places of a frame.
Sources: asymm_models_joint.py and layers.py of genmoai/mochi, and of Pusa V0.5.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from pusa_jax.devices.sharding import constrain
from pusa_jax.models.attention.attention import pad_tokens
from pusa_jax.models.attention.joint import Clip, Prompt, joint_attention
from pusa_jax.models.layers import MLP, RMSNorm, layer_norm, patchify, time_features, unpatchify
from pusa_jax.models.mochi.config import DiTConfig
from pusa_jax.models.remat import rematerialised
from pusa_jax.models.rope import Rotary, rotate
from pusa_jax.typing import Latents, Text, Timesteps

Tokens = Float[Array, "B ..."]
"""Of the clip [B, F, S, D], or of its prompt [B, L, Y]."""

AREA = 192.0**2
"""Places that a frame is stretched to: positions of any size cover the same interval."""


class PreparedText(NamedTuple):
    """What the blocks need of a prompt."""

    tokens: Float[Array, "B L Y"]
    pooled: Float[Array, "B D"]
    lengths: Int[Array, " B"]


def rms_norm(x: Tokens, eps: float) -> Tokens:
    """Gives x / rms(x) over the last axis, without a weight; float32."""
    wide = x.astype(jnp.float32)
    return wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + eps)


class SwiGLU(nnx.Module):
    """down(silu(gate(x)) * up(x)), without biases."""

    def __init__(self, dim: int, hidden: int, config: DiTConfig, *, rngs: nnx.Rngs):
        linear = _linears(config, rngs, use_bias=False)
        self.gate, self.up = linear(dim, hidden), linear(dim, hidden)
        self.down = linear(hidden, dim)

    def __call__(self, x: Tokens) -> Tokens:
        """Maps the last axis."""
        return self.down(jax.nn.silu(self.gate(x)) * self.up(x))


def _linears(config: DiTConfig, rngs: nnx.Rngs, *, use_bias: bool = True):
    return functools.partial(
        nnx.Linear,
        use_bias=use_bias,
        dtype=config.compute_dtype,
        param_dtype=config.param_dtype,
        rngs=rngs,
    )


class Source(nnx.Module):
    """What a stream gives to attention: modulated norm, heads of queries, keys and values."""

    def __init__(self, dim: int, chunks: int, config: DiTConfig, *, rngs: nnx.Rngs):
        """Makes a stream of `dim` channels, modulated by `chunks` vectors, the first its scale."""
        heads = _linears(config, rngs, use_bias=False)
        self.head_dim, self.eps, self.dtype = config.head_dim, config.eps, config.compute_dtype
        self.chunks = chunks
        self.modulation = _linears(config, rngs)(config.dim, chunks * dim)
        self.q, self.k, self.v = (heads(dim, config.dim) for _ in range(3))
        norm = functools.partial(
            RMSNorm, config.head_dim, config.qk_eps, param_dtype=config.param_dtype
        )
        self.norm_q, self.norm_k = norm(), norm()

    def modulate(self, c: Float[Array, "B *f D"]) -> list[Float[Array, "B *f 1 _"]]:
        """Chunks of the modulation, with an axis to be broadcast over tokens."""
        out = self.modulation(jax.nn.silu(c))[..., None, :]
        return jnp.split(out, self.chunks, axis=-1)

    def normed(self, x: Tokens, scale: Array) -> Tokens:
        """Gives x / rms(x) * (1 + scale)."""
        return (rms_norm(x, self.eps) * (1 + scale.astype(jnp.float32))).astype(self.dtype)

    def heads(self, x: Tokens) -> tuple[Array, Array, Array]:
        """Queries and keys, each normed by head, and values: [B, *tokens, K, P]."""
        query, key, value = (
            p(x).reshape(*x.shape[:-1], -1, self.head_dim) for p in (self.q, self.k, self.v)
        )
        return self.norm_q(query), self.norm_k(key), value


class Stream(Source):
    """A stream that takes results of attention back and has a feed-forward."""

    def __init__(self, dim: int, hidden: int, config: DiTConfig, *, rngs: nnx.Rngs):
        super().__init__(dim, 4, config, rngs=rngs)
        self.o = _linears(config, rngs)(config.dim, dim)
        self.mlp = SwiGLU(dim, hidden, config, rngs=rngs)

    def add(self, x: Tokens, branch: Tokens, gate: Array) -> Tokens:
        """Gives x + tanh(gate) * branch / rms(branch)."""
        gated = rms_norm(branch, self.eps) * jnp.tanh(gate).astype(jnp.float32)
        return x + gated.astype(x.dtype)

    def after_attention(self, x: Tokens, heads: Array, chunks: list[Array]) -> Tokens:
        """The rest of a block: the results [B, *tokens, K, P] added, then the feed-forward."""
        gate, scale_mlp, gate_mlp = chunks
        x = self.add(x, self.o(heads.reshape(*heads.shape[:-2], -1)), gate)
        return self.add(x, self.mlp(self.normed(x, scale_mlp)), gate_mlp)


class Levels(NamedTuple):
    """What the noise levels feed to the blocks."""

    clip: Float[Array, "B f D"]
    prompt: Float[Array, "B D"]  # mean over frames


class Places(NamedTuple):
    """What attention needs to know of the tokens."""

    rotary: Rotary  # of the clip's tokens; the prompt's are not turned
    tokens: int  # of a frame that are not padding
    lengths: Int[Array, " B"]  # of the prompts


class Block(nnx.Module):
    """Joint attention and a feed-forward in both streams."""

    def __init__(self, config: DiTConfig, *, rngs: nnx.Rngs):
        self.visual = Stream(config.dim, config.ffn_dim, config, rngs=rngs)
        self.text = Stream(config.context_dim, config.context_ffn_dim, config, rngs=rngs)

    def __call__(
        self, x: Float[Array, "B F S D"], y: Float[Array, "B L Y"], c: Levels, places: Places
    ) -> tuple[Float[Array, "B F S D"], Float[Array, "B L Y"]]:
        """Runs one layer on both streams."""
        scale_x, *chunks_x = self.visual.modulate(c.clip)  # each [B, f, 1, D]
        scale_y, *chunks_y = self.text.modulate(c.prompt)  # each [B, 1, Y]
        seen_x, seen_y = attention_of(self.visual, self.text, (x, scale_x), (y, scale_y), places)
        x = self.visual.after_attention(x, seen_x, chunks_x)
        return x, self.text.after_attention(y, seen_y, chunks_y)


class LastBlock(nnx.Module):
    """The last layer: nobody reads the text stream after it, so it only gives keys and values."""

    def __init__(self, config: DiTConfig, *, rngs: nnx.Rngs):
        self.visual = Stream(config.dim, config.ffn_dim, config, rngs=rngs)
        self.text = Source(config.context_dim, 1, config, rngs=rngs)

    def __call__(
        self, x: Float[Array, "B F S D"], y: Float[Array, "B L Y"], c: Levels, places: Places
    ) -> Float[Array, "B F S D"]:
        """Runs the layer on the visual stream."""
        scale_x, *chunks_x = self.visual.modulate(c.clip)
        (scale_y,) = self.text.modulate(c.prompt)
        seen, _ = attention_of(self.visual, self.text, (x, scale_x), (y, scale_y), places)
        return self.visual.after_attention(x, seen, chunks_x)


def attention_of(
    visual: Source,
    text: Source,
    x: tuple[Tokens, Array],
    y: tuple[Tokens, Array],
    places: Places,
) -> tuple[Float[Array, "B F S K P"], Float[Array, "B L K P"]]:
    """Both streams, each (tokens, scale of its norm), normed and attended to each other."""
    query, key, value = visual.heads(visual.normed(*x))
    clip = Clip(rotate(query, places.rotary), rotate(key, places.rotary), value)
    prompt = Prompt(*text.heads(text.normed(*y)))
    dtype = visual.dtype
    clip, prompt = jax.tree.map(lambda heads: heads.astype(dtype), (clip, prompt))
    return joint_attention(clip, prompt, places.lengths, tokens=places.tokens)


class TextPool(nnx.Module):
    """One vector of a prompt: its mean token looks at itself and at all tokens."""

    def __init__(self, config: DiTConfig, *, rngs: nnx.Rngs):
        linear = _linears(config, rngs)
        self.num_heads = config.pool_heads
        self.q, self.k, self.v = (linear(config.text_dim, config.text_dim) for _ in range(3))
        self.o = linear(config.text_dim, config.dim)

    def __call__(self, text: Text, is_token: Bool[Array, "B L"]) -> Float[Array, "B D"]:
        """Features and where they are tokens -> pooled vector."""
        count = jnp.maximum(is_token.sum(1, keepdims=True), 1)
        mean = (text * is_token[..., None]).sum(1) / count.astype(text.dtype)  # [B, E]
        rows = jnp.concatenate([mean[:, None], text], axis=1)  # [B, 1 + L, E]
        seen = jnp.pad(is_token, ((0, 0), (1, 0)), constant_values=True)
        query, key, value = (
            x.reshape(*x.shape[:-1], self.num_heads, -1)
            for x in (self.q(mean[:, None]), self.k(rows), self.v(rows))
        )
        out = jax.nn.dot_product_attention(query, key, value, mask=seen[:, None, None])
        return self.o(out.reshape(len(text), -1))


class Head(nnx.Module):
    """Final layer norm, modulated by level and prompt, and projection to patches."""

    def __init__(self, config: DiTConfig, *, rngs: nnx.Rngs):
        linear = _linears(config, rngs)
        _, ph, pw = config.patch_size
        self.eps, self.dtype = config.eps, config.compute_dtype
        self.shift, self.scale = linear(config.dim, config.dim), linear(config.dim, config.dim)
        self.linear = linear(config.dim, ph * pw * config.out_dim)

    def __call__(
        self, x: Float[Array, "B F S D"], c: Float[Array, "B f D"]
    ) -> Float[Array, "B F S patch"]:
        """Tokens -> patches."""
        shift, scale = (p(jax.nn.silu(c))[:, :, None] for p in (self.shift, self.scale))
        h = layer_norm(x, self.eps, jnp.float32) * (1 + scale) + shift
        return self.linear(h.astype(self.dtype))


class MochiDiT(nnx.Module):
    """Predicts clean - noise from noisy latents, prompt and per-frame timesteps."""

    def __init__(self, config: DiTConfig, *, rngs: nnx.Rngs):
        self.config = config
        _, ph, pw = config.patch_size
        linear, dim = _linears(config, rngs), config.dim
        self.patch_embedding = linear(ph * pw * config.in_dim, dim)
        self.time_embedding = MLP(
            (config.freq_dim, dim, dim),
            "silu",
            dtype=config.compute_dtype,
            param_dtype=config.param_dtype,
            rngs=rngs,
        )
        self.text_pool = TextPool(config, rngs=rngs)
        self.text_embedding = linear(config.text_dim, config.context_dim)
        frequencies = jax.random.normal(rngs.params(), (3, config.num_heads, config.head_dim // 2))
        self.pos_frequencies = nnx.Param(frequencies.astype(config.param_dtype))
        self.blocks = jax.vmap(lambda r: Block(config, rngs=r))(rngs.split(config.num_layers - 1))
        self.last = LastBlock(config, rngs=rngs)
        self.head = Head(config, rngs=rngs)

    def prepare_text(self, text: Text) -> PreparedText:
        """What the blocks need of prompts: once per prompt, not once per step.

        Args:
          text: features, behind the last token rows of zeros: what is zero throughout is no token.
            A prompt without any token is the original's empty prompt, which has no influence.
        """
        text = text.astype(self.config.compute_dtype)
        is_token = (text != 0).any(-1)  # [B, L]
        return PreparedText(
            tokens=self.text_embedding(text),
            pooled=self.text_pool(text, is_token),
            lengths=is_token.sum(1).astype(jnp.int32),
        )

    def embed_timestep(self, timestep: Float[Array, ""]) -> Float[Array, " D"]:
        """One timestep -> embedding; mapped over batch and frames by `vmap`."""
        features = time_features(timestep, self.config.freq_dim)
        return self.time_embedding(features.astype(self.config.compute_dtype))

    def rotary(self, frames: int, height: int, width: int) -> Rotary:
        """Angles of every token and head: its place, weighted by learned frequencies; float32."""
        learned = self.pos_frequencies[...].astype(jnp.float32)  # [3, K, half]
        grid = positions(frames, height, width)[..., None, None]  # [3, F, S, 1, 1]
        angles = sum(grid[i] * learned[i][None, None] for i in range(3))  # [F, S, K, half]
        return Rotary(jnp.cos(angles), jnp.sin(angles))

    def __call__(self, latents: Latents, timesteps: Timesteps, text: PreparedText) -> Latents:
        """Predicts the way from noise to data.

        Args:
          latents: noisy latents [B, F, H, W, in_dim]; H and W divisible by the patch size.
          timesteps: 1000 * (1 - sigma) in [0, 1000], [B, F], or [B, 1] for one per clip.
          text: what `prepare_text` returned for the prompts.

        Returns:
          clean - noise, [B, F, H, W, out_dim], in the compute dtype.

        Raises:
          ValueError: height or width is not divisible by the patch size, or the number of timesteps
            is neither 1 nor F.
        """
        config = self.config
        b, f, h, w, _ = latents.shape
        _, ph, pw = config.patch_size
        if h % ph or w % pw:
            raise ValueError(f"latent size must be divisible by {ph}x{pw}, got {h}x{w}.")
        if timesteps.shape not in ((b, f), (b, 1)):
            raise ValueError(f"timesteps must be {(b, f)} or {(b, 1)}, got {timesteps.shape}.")

        time = jax.vmap(jax.vmap(self.embed_timestep))(timesteps)  # [B, f, D]
        clip = time + text.pooled[:, None].astype(time.dtype)
        c = Levels(clip=clip, prompt=clip.mean(1))
        rotary = Rotary(*(pad_tokens(t, axis=1) for t in self.rotary(f, h // ph, w // pw)))
        places = Places(rotary, (h // ph) * (w // pw), text.lengths)
        x = self.patch_embedding(patchify(latents, (ph, pw)))
        x = constrain(pad_tokens(x, axis=2), "data", None, "context", None)

        def run_block(streams, block):
            return block(*streams, c, places), None

        block = rematerialised(run_block, config.remat)
        (x, y), _ = jax.lax.scan(block, (x, text.tokens), self.blocks)
        x = rematerialised(lambda x, y: self.last(x, y, c, places), config.remat)(x, y)
        x = self.head(x, c.clip)[:, :, : places.tokens]
        return unpatchify(x, (h, w), (ph, pw))


def positions(frames: int, height: int, width: int) -> Float[np.ndarray, "3 F S"]:
    """Frame, row and column of every token: frames count up, rows and columns lie around 0.

    A frame of height x width places is scaled to an area of `AREA`, so that a position means the
    same part of a picture at any size (asymm_models_joint.py: create_position_matrix).
    """
    scale = math.sqrt(AREA / (height * width))
    row, column = ((np.arange(n) - n / 2 + 0.5) * scale for n in (height, width))
    grid = np.meshgrid(np.arange(frames), row, column, indexing="ij")
    return np.stack(grid).reshape(3, frames, -1).astype(np.float32)
