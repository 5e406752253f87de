"""FVDM's published settings (configs/*/*_sample_video.yaml; the sheet of FVDM, §5), and labels."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from pusa_jax.diffusion.config import SamplingConfig
from pusa_jax.inference.settings import Configs
from pusa_jax.models.families import PRESETS
from pusa_jax.models.latte.config import DiTConfig, VAEConfig
from pusa_jax.models.latte.dit import LatteVideo
from pusa_jax.models.latte.family import LATTE, check_clip, fitted, prepare
from pusa_jax.models.latte.labels import NO_CLASS, Labels, as_features, check_label
from pusa_jax.testing.compare import random_module

TINY = DiTConfig(
    dim=8, num_heads=2, num_layers=2, num_classes=3, num_frames=4, grid=(2, 3), freq_dim=8
)


def test_fvdm_samples_50_steps_of_ddim_with_guidance_7():
    published = SamplingConfig(
        height=256, width=256, num_frames=16, fps=8, num_steps=50, guidance_scale=7.0,
        solver="ddim", tiled=False,
    )  # fmt: skip
    assert LATTE.sampling == LATTE.official == published
    assert LATTE.few_steps is None
    assert LATTE.negative_prompt == LATTE.official_negative_prompt == ""
    assert (LATTE.training_schedule, LATTE.experts) == ("linear_betas", {"dit": 0.0})
    assert {*LATTE.multipliers} == {
        "i2v", "start-end", "interpolate", "complete", "extend", "transition", "loop"
    }  # fmt: skip
    assert not any(sum(LATTE.multipliers.values(), ()))


def test_presets_have_the_published_widths():
    sizes = {name: (p.dit.dim, p.dit.num_layers, p.dit.num_heads, p.dit.num_classes)
             for name, p in PRESETS.items() if p.family is LATTE}  # fmt: skip
    assert sizes == {
        "fvdm-s-2": (384, 12, 6, 0),
        "fvdm-b-2": (768, 12, 12, 0),
        "fvdm-l-2": (1024, 24, 16, 0),
        "fvdm-xl-2": (1152, 28, 16, 0),
        "fvdm-t-2": (192, 6, 3, 0),
        "fvdm-xl-2-ucf101": (1152, 28, 16, 101),
    }


def test_settings_follow_the_tables_of_positions():
    vae = VAEConfig(block_out_channels=(32, 32))
    found = fitted(LATTE.sampling, TINY, vae)
    assert (found.height, found.width, found.num_frames) == (8, 12, 4)
    free = dataclasses.replace(TINY, num_classes=0)
    assert (found.guidance_scale, fitted(found, free, vae).guidance_scale) == (7.0, 1.0)
    assert Configs(dit=TINY, vae=vae).fitted(LATTE, official=True) == found


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 5, 4, 6, 4), "5 frames, .* positions for 4; longer .* as with --overlap 2"),
        ((1, 3, 4, 6, 4), r"3 frames, .* positions for 4\.$"),
        ((1, 4, 6, 6, 4), r"clips of 48x48 pixels, height x width, .* positions for 32x48\.$"),
    ],
)
def test_sizes_without_a_position_are_refused(shape, message):
    check_clip(TINY, VAEConfig(), (1, 4, 4, 6, 4))
    with pytest.raises(ValueError, match=message):
        check_clip(TINY, VAEConfig(), shape)


def test_prompts_are_numbers_of_classes_or_nothing():
    ids, mask = Labels()(["2", "", " 0 "])
    assert ids.tolist() == [[2], [NO_CLASS], [0]]
    assert mask.tolist() == [[1], [1], [1]]
    features = as_features(None, jnp.asarray(ids), jnp.asarray(mask))
    assert features.tolist() == [[[2.0]], [[-1.0]], [[0.0]]]


@pytest.mark.parametrize("prompt", ["a cat", "-1", "1.0", "257", "٣", "9" * 40])
def test_other_prompts_are_refused(prompt):
    with pytest.raises(ValueError, match="the label must be the number of a class, 0 to 256, got"):
        Labels()([prompt])


def test_a_label_must_be_one_of_the_model():
    check_label(TINY, "2")
    check_label(TINY, "")
    with pytest.raises(ValueError, match=r"label 3 is outside .*: use 0 to 2\."):
        check_label(TINY, "3")
    with pytest.raises(ValueError, match=r"a class, 0 to 2, got 'a cat'\."):
        check_label(TINY, "a cat")
    with pytest.raises(ValueError, match=r"knows no classes, got label 0; leave it out\."):
        check_label(dataclasses.replace(TINY, num_classes=0), "0")


def test_no_class_is_the_last_row_of_the_table():
    dit = random_module(lambda: LatteVideo(TINY, rngs=nnx.Rngs(0)))
    found = prepare(dit, jnp.asarray([[[1.0]], [[float(NO_CLASS)]]]))
    assert np.array_equal(found, dit.label_embedding[...][jnp.asarray([1, 3])])
