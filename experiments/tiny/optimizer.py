"""How the small networks of studies are trained from nothing."""

from pusa_jax.training.state import OptimizerConfig


def from_nothing(rate: float, steps: int) -> OptimizerConfig:
    """A short warm-up, then a rate that falls along a cosine, and an average of what is trained."""
    return OptimizerConfig(
        learning_rate=rate,
        warmup_steps=min(50, steps // 2),
        decay="cosine",
        beta2=0.99,
        weight_decay=0.0,
        clip_norm=1.0,
        ema_decay=0.99,
    )
