"""The DiT against the installed Diffusers model, on random configurations and inputs."""

import jax
import numpy as np
import pytest
from flax import nnx

from pusa_jax.convert.files.mapped import ArrayTensors
from pusa_jax.convert.tables import load
from pusa_jax.convert.wan.dit import diffusers_rules
from pusa_jax.models.wan.config import DiTConfig
from pusa_jax.models.wan.dit import WanDiT
from pusa_jax.testing.compare import assert_close, from_house_layout, to_house_layout
from pusa_jax.weights.leaves import assemble, shapes_of

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.torch

LIMIT = 5e-6
"""Most of what is seen (3e-6) is the timestep's sinusoid, which Diffusers takes in float32."""

CONFIGS = {
    "2 heads of 24": DiTConfig(
        dim=48, ffn_dim=80, num_heads=2, num_layers=2, text_dim=24, text_len=7, freq_dim=32
    ),
    "5 heads of 12": DiTConfig(
        dim=60, ffn_dim=96, num_heads=5, num_layers=1, text_dim=16, text_len=5, freq_dim=256
    ),
    "48 channels": DiTConfig(
        dim=48, ffn_dim=80, num_heads=2, num_layers=2, text_dim=24, text_len=7, freq_dim=32,
        in_dim=48, out_dim=48,
    ),
}  # fmt: skip


def random_peer(config: DiTConfig):
    """A Diffusers model with every parameter random, none left at its constant start."""
    torch.manual_seed(0)
    peer = diffusers.WanTransformer3DModel(
        patch_size=config.patch_size,
        num_attention_heads=config.num_heads,
        attention_head_dim=config.head_dim,
        in_channels=config.in_dim,
        out_channels=config.out_dim,
        text_dim=config.text_dim,
        freq_dim=config.freq_dim,
        ffn_dim=config.ffn_dim,
        num_layers=config.num_layers,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        eps=config.eps,
        rope_max_seq_len=64,
    ).eval()
    with torch.no_grad():
        for name, parameter in peer.named_parameters():
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 25
            parameter.normal_(std=fan_in**-0.5)
            if "norm" in name and name.endswith("weight"):
                parameter.add_(1.0)
    return peer


def ours_with_its_weights(peer, config: DiTConfig) -> WanDiT:
    tensors = {name: tensor.detach().numpy() for name, tensor in peer.state_dict().items()}

    def build():
        return WanDiT(config, rngs=nnx.Rngs(0))

    return assemble(build, load(ArrayTensors(tensors), diffusers_rules(config), shapes_of(build)))


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
@pytest.mark.parametrize("per_frame", [False, True], ids=["scalar", "per frame"])
def test_velocity_agrees_with_diffusers(config, per_frame):
    """Per frame: Diffusers takes a timestep for every token, as its Wan2.2 TI2V model needs."""
    peer = random_peer(config)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, config.in_dim, 3, 6, 10), np.float32)
    text = rng.standard_normal((2, config.text_len, config.text_dim), np.float32)
    timesteps = np.asarray([[999.0, 0.0, 250.0], [37.0, 612.0, 937.5]], np.float32)
    if not per_frame:
        timesteps = np.repeat(timesteps[:, :1], 3, axis=1)
    told = np.repeat(timesteps, 3 * 5, axis=1) if per_frame else timesteps[:, 0]
    with torch.no_grad():
        expected = peer(*(torch.from_numpy(a) for a in (x, told, text))).sample.numpy()
    run = jax.jit(lambda d, x, t, c: d(x, t, d.project_text(c)))
    ours = run(ours_with_its_weights(peer, config), to_house_layout(x), timesteps, text)
    assert_close(from_house_layout(ours), expected, LIMIT, "velocity")
