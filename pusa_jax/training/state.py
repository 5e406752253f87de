"""What a training run carries from step to step, and the optimizer that changes it.

What is trained lies in float32 whatever the networks compute in: at a learning rate of 1e-5 an
update is far below what bfloat16 can add to a weight.
"""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key

Params = dict[str, jax.Array]
"""Path -> trained array, float32: adapters, or all leaves of the model."""

Decay = Literal["constant", "linear", "cosine"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW; the defaults are torch's with Pusa's learning rate, which is all the original uses.

    Attributes:
      learning_rate: its value behind the warm-up.
      warmup_steps: steps in which the learning rate rises linearly from 0.
      decay: how it goes on to the last step: constant, or falling to 0.
      beta1: decay of the first moment.
      beta2: decay of the second moment.
      eps: added to the root of the second moment.
      weight_decay: decoupled decay, multiplied by the learning rate.
      clip_norm: largest norm of all gradients together; 0 for no clipping.
      clip_from: step from which gradients are clipped; those before pass as they are.
      ema_decay: decay of the running average of what is trained; 0 for no average.
      accumulate: number of parts in which a batch is computed, one after the other.
    """

    learning_rate: float = 1e-5
    warmup_steps: int = 0
    decay: Decay = "constant"
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.01
    clip_norm: float = 0.0
    clip_from: int = 0
    ema_decay: float = 0.0
    accumulate: int = 1

    def __post_init__(self):
        for name in ("learning_rate", "warmup_steps", "weight_decay", "clip_norm", "clip_from"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}.")
        for name in ("beta1", "beta2", "ema_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)}.")
        if self.accumulate < 1:
            raise ValueError(f"accumulate must be at least 1, got {self.accumulate}.")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainState:
    """Everything that changes; a run continues from it as if it had never stopped.

    The fields hold arrays, or in their places shapes, shardings or whatever a tree maps to.

    Attributes:
      step: optimizer steps taken, int32.
      params: what is trained, float32 by path.
      opt_state: moments and counters.
      ema: running average of `params`; empty without one.
      key: root of all randomness; never changes, steps fold their number in.
    """

    step: Any
    params: Any
    opt_state: Any
    ema: Any
    key: Any


def learning_rate(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Step -> learning rate of a run of so many steps."""
    peak, rest = config.learning_rate, max(steps - config.warmup_steps, 1)
    match config.decay:
        case "linear":
            course = optax.linear_schedule(peak, 0.0, rest)
        case "cosine":
            course = optax.cosine_decay_schedule(peak, rest)
        case _:
            course = optax.constant_schedule(peak)
    if not config.warmup_steps:
        return course
    warmup = optax.linear_schedule(0.0, peak, config.warmup_steps)
    return optax.join_schedules([warmup, course], [config.warmup_steps])


def optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """The transformation of gradients into updates."""
    adamw = optax.adamw(
        learning_rate(config, steps),
        b1=config.beta1,
        b2=config.beta2,
        eps=config.eps,
        weight_decay=config.weight_decay,
    )
    if not config.clip_norm:
        return adamw
    clip = optax.clip_by_global_norm(config.clip_norm)
    if config.clip_from:
        clip = optax.conditionally_transform(clip, _from_step(config.clip_from))
    return optax.chain(clip, adamw)


def _from_step(first: int) -> Any:
    """Whether a step is the first of these or a later one."""
    return lambda step, **others: step >= first


def fresh_state(
    params: Params, config: OptimizerConfig, steps: int, key: Key[Array, ""]
) -> TrainState:
    """The state before the first step; `params` are cast to float32."""
    params = {path: leaf.astype(jnp.float32) for path, leaf in params.items()}
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=optimizer(config, steps).init(params),
        ema=jax.tree.map(jnp.copy, params) if config.ema_decay else {},
        key=key,
    )


def apply_gradients(
    state: TrainState, grads: Params, config: OptimizerConfig, steps: int
) -> tuple[TrainState, Float[Array, ""]]:
    """The state after one step, and the norm of its gradients before clipping."""
    updates, opt_state = optimizer(config, steps).update(grads, state.opt_state, state.params)
    params: Any = optax.apply_updates(state.params, updates)
    decay = config.ema_decay
    ema = {path: decay * mean + (1 - decay) * params[path] for path, mean in state.ema.items()}
    new = TrainState(
        step=state.step + 1, params=params, opt_state=opt_state, ema=ema, key=state.key
    )
    return new, optax.tree.norm(grads)
