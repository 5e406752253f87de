"""The Diffusers layout we write, loaded by Diffusers and transformers themselves."""

import ml_dtypes
import numpy as np
import pytest

from pusa_jax.convert.folders.export import export_folder
from pusa_jax.convert.tables import dump
from pusa_jax.convert.wan.foreign import WAN21 as FOREIGN
from pusa_jax.models.t5 import TextConfig
from pusa_jax.models.wan.config import DiTConfig, VAEConfig
from pusa_jax.models.wan.family import WAN21

torch = pytest.importorskip("torch", reason="needs the extra [test]")
diffusers = pytest.importorskip("diffusers", reason="needs the extra [test]")
transformers = pytest.importorskip("transformers", reason="needs the extra [test]")
pytestmark = pytest.mark.torch

NETWORKS = {
    "dit": (
        DiTConfig(dim=24, ffn_dim=40, num_heads=2, num_layers=2, text_dim=8, freq_dim=16),
        diffusers.WanTransformer3DModel,
    ),
    "vae": (VAEConfig(dim=4), diffusers.AutoencoderKLWan),
    "text_encoder": (
        TextConfig(vocab=10, dim=8, dim_attn=8, dim_ffn=12, num_heads=2, num_layers=2),
        transformers.UMT5EncoderModel,
    ),
}
FOLDERS = {"dit": "transformer", "vae": "vae", "text_encoder": "text_encoder"}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    rng = np.random.default_rng(0)
    networks = []
    for name, (config, _) in NETWORKS.items():
        dtype = ml_dtypes.bfloat16 if name == "text_encoder" else np.float32
        shapes = WAN21.networks[name].shapes(config)
        leaves = {p: rng.standard_normal(s.shape).astype(dtype) for p, s in shapes.items()}
        networks.append((name, config, leaves))
    folder = tmp_path_factory.mktemp("export") / "out"
    export_folder(networks, folder, family=WAN21, layout="diffusers", shard_bytes=20_000)
    return folder, {name: (config, leaves) for name, config, leaves in networks}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_tensor_arrives(exported, name):
    folder, networks = exported
    config, leaves = networks[name]
    options = {"output_loading_info": True}
    if name == "text_encoder":
        options["dtype"] = torch.bfloat16
    model, info = NETWORKS[name][1].from_pretrained(folder / FOLDERS[name], **options)
    assert not any(info.values()), info
    theirs = model.state_dict()
    ours = dict(dump(leaves, FOREIGN.networks[name].rules["diffusers"](config)))
    assert theirs.keys() - ours.keys() <= FOREIGN.networks[name].ignored.keys()
    for key, array in ours.items():
        tensor = theirs[key]
        assert str(tensor.dtype) == f"torch.{array.dtype}"
        np.testing.assert_array_equal(tensor.float().numpy(), array.astype(np.float32), err_msg=key)


def test_statistics_and_scheduler_arrive(exported):
    folder, _ = exported
    vae = diffusers.AutoencoderKLWan.from_pretrained(folder / "vae")
    np.testing.assert_array_equal(vae.config.latents_mean, VAEConfig().latent_mean)
    np.testing.assert_array_equal(vae.config.latents_std, VAEConfig().latent_std)
    scheduler = diffusers.UniPCMultistepScheduler.from_pretrained(folder / "scheduler")
    assert scheduler.config.use_flow_sigmas and scheduler.config.flow_shift == 3.0
    index = diffusers.WanPipeline.load_config(folder)
    assert set(index) >= {"transformer", "vae", "text_encoder", "tokenizer", "scheduler"}
