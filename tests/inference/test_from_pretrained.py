"""What weights a pipeline has that was loaded from a folder and LoRA files."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pusa_jax.convert.folders.opened import ModelFolder
from pusa_jax.convert.lora import read_lora, write_lora
from pusa_jax.convert.wan.foreign import WAN21
from pusa_jax.devices.sharding import make_mesh
from pusa_jax.inference.pipeline import PusaPipeline
from pusa_jax.models.lora import LoRA, LowRank, Target, merge
from pusa_jax.progress import PusaWarning
from pusa_jax.testing.published import DIT, write_published_folder
from pusa_jax.weights.leaves import leaves_of

UP = "blocks/ffn/up"
MESH = make_mesh({}, jax.devices()[:1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model, and two LoRA files whose order shows in bfloat16."""
    folder = tmp_path_factory.mktemp("model")
    write_published_folder(folder)
    rng = np.random.default_rng(0)
    for name, size in (("a", 0.01), ("b", 3.0)):
        down = rng.standard_normal((2, DIT.dim)).astype(np.float32)
        up = size * rng.standard_normal((DIT.ffn_dim, 2)).astype(np.float32)
        modules = {Target(UP, layer): LowRank(down, up) for layer in range(DIT.num_layers)}
        write_lora(folder / f"{name}.safetensors", LoRA(modules), WAN21.lora)
    return folder


def dtypes(module):
    return {leaf.dtype for leaf in leaves_of(module).values()}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_lora_files_are_merged_in_their_order_with_their_strengths(folder, dtype):
    files = [(folder / "a.safetensors", 0.5), (folder / "b.safetensors", 1.4)]
    pipe = PusaPipeline.from_pretrained(folder, dtype=dtype, lora=files, mesh=MESH)
    [expert] = pipe.experts
    config, expected = ModelFolder(folder).load("dit", dtype)
    for file, strength in files:
        expected = merge(expected, read_lora(file, WAN21.lora), strength)
    found = leaves_of(expert.dit)
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[path], leaf) for path, leaf in expected.items())
    assert dtypes(expert.dit) == {jnp.dtype(dtype)} and config.dim == DIT.dim
    assert (expert.dit.config.param_dtype, expert.dit.config.compute_dtype) == (dtype, dtype)


def test_what_a_lora_file_leaves_open_is_a_warning(folder):
    odd = folder / "odd.safetensors"
    lora = read_lora(folder / "a.safetensors", WAN21.lora)
    write_lora(odd, lora, WAN21.lora, metadata={"network_alpha": "1"})
    with pytest.warns(PusaWarning, match=r"odd\.safetensors: its header says network_alpha=1"):
        PusaPipeline.from_pretrained(folder, lora=[(odd, 1.0)], mesh=MESH)


def test_the_autoencoder_is_float32_and_the_text_encoder_as_the_denoiser(folder):
    pipe = PusaPipeline.from_pretrained(folder, mesh=MESH)
    assert dtypes(pipe.autoencoder.module) == {jnp.dtype("float32")}
    assert dtypes(pipe.experts[0].dit) == {jnp.dtype("bfloat16")}
    assert dtypes(pipe._text_encoder()) == {jnp.dtype("bfloat16")}


def test_loading_is_told_part_by_part(folder):
    told = []
    PusaPipeline.from_pretrained(folder, mesh=MESH, on_progress=lambda *part: told.append(part))
    assert told == [("load", 0, 2), ("load", 1, 2), ("load", 2, 2)]
