"""How much the frames that are made attend to the first frame, at every step of sampling."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from experiments.tiny.measuring import LATENT_FRAMES, Row, fresh
from experiments.tiny_world.evaluate import Model, Sampling, plan
from pusa_jax.demo.world import render
from pusa_jax.devices.sharding import make_mesh
from pusa_jax.diffusion.conditioning import FrameCondition, place
from pusa_jax.diffusion.sampling import rows_of, sample, start
from pusa_jax.diffusion.solvers import EULER, EulerState
from pusa_jax.inference.step import jitted_step, prepare_prompts
from pusa_jax.models.layers import layer_norm, patchify
from pusa_jax.models.rope import Rotary, rotary_table, rotate
from pusa_jax.models.wan.dit import TextKV, WanDiT
from pusa_jax.models.wan.family import WAN21
from pusa_jax.typing import Latents, Timesteps


def shares(model: Model, sampling: Sampling, count: int, seed: int, multiplier: float) -> Row:
    """Samples clips without guidance and looks into self-attention before every step.

    Args:
      model: to look into.
      sampling: how many steps, and the shift.
      count: clips.
      seed: of scenes and noise.
      multiplier: of frame 0; 0 is given, 1 is free.

    Returns:
      step -> share of the attention of frames 1 to F-1 that goes to frame 0, mean over clips,
      layers, heads and tokens; 1/F if all frames were alike.
    """
    scenes = fresh(seed, count)
    first = jnp.asarray(model.encode(np.stack([render(scene)[:1] for scene in scenes])))
    shape = (count, LATENT_FRAMES, *first.shape[2:])
    noise = jax.random.normal(jax.random.key(seed), shape, jnp.float32)
    clean, multipliers = place(
        [FrameCondition(index=0, latents=first, multiplier=multiplier)], noise
    )
    table = plan(model.dit, sampling, multipliers)
    text = jnp.asarray(np.stack([model.text(scene.caption) for scene in scenes]))
    found, rows, scale = {}, rows_of(table), jnp.float32(1)
    mesh = make_mesh({}, jax.local_devices()[:1])
    program = jitted_step(WAN21, mesh)

    def step(state: EulerState, i: int) -> EulerState:
        timesteps = jnp.broadcast_to(jnp.asarray(rows[i].timesteps), state.latents.shape[:2])
        found[str(i)] = float(_share(model.dit, state.latents, timesteps, prompt))
        return program(model.dit, prepared, scale, state, rows[i])

    with jax.set_mesh(mesh):
        # Guidance is off: what is told of the negative prompt is never read.
        prepare = jax.jit(prepare_prompts, static_argnums=0)
        prepared = prepare(WAN21, model.dit, (text, text))
        prompt = jax.tree.map(lambda leaf: leaf[0], prepared)
        sample(step, EULER.init(start(clean, noise, table)), len(rows))
    return found


@jax.jit
def _share(dit: WanDiT, latents: Latents, timesteps: Timesteps, text: TextKV) -> Float[Array, ""]:
    """The pass of `WanDiT`, float32, with an eye on what its self-attention weighs."""
    config = dit.config
    _, f, h, w, _ = latents.shape
    _, ph, pw = config.patch_size
    _, modulation = jax.vmap(jax.vmap(dit.embed_timestep))(timesteps)
    rotary = Rotary(*rotary_table(config.head_dim, f, h // ph, w // pw))
    x = dit.patch_embedding(patchify(latents, (ph, pw)))

    def visit(x, layer):
        block, text_kv = layer
        table = block.modulation[...][None, None] + modulation
        normed = layer_norm(x, config.eps, x.dtype)
        seen = normed * (1 + table[:, :, None, 1]) + table[:, :, None, 0]
        query = rotate(block.self_attn.query(seen), rotary)
        key = rotate(block.self_attn.key_value(seen)[0], rotary)
        scores = jnp.einsum("bfskp,bgtkp->bkfsgt", query, key) / math.sqrt(query.shape[-1])
        weights = jax.nn.softmax(scores.reshape(*scores.shape[:4], -1))
        to_first = weights.reshape(scores.shape)[:, :, 1:, :, 0].sum(-1)
        return block(x, modulation, rotary, text_kv, x.shape[2]), to_first.mean()

    return jax.lax.scan(visit, x, (dit.blocks, text))[1].mean()
