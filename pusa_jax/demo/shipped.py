"""The models that come along with the package, and how they are best sampled."""

from pusa_jax.diffusion.config import SamplingConfig
from pusa_jax.inference import packaged

FOLDER = packaged.FOLDER
"""In the published layout; its README.md says how the weights came about and what they can do."""

LORA = (str(FOLDER / "pusa_lora.safetensors"), 1.0)
"""Pusa's adapters and their strength."""

NEGATIVE_PROMPT = ""
"""What the models were trained to be guided away from."""

SETTINGS = SamplingConfig(height=48, width=48, num_frames=33, num_steps=10, guidance_scale=2.0)
