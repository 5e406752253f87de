"""Which LoRA files go into which expert, in which order, and what is said of wrong ones."""

import json
import re

import numpy as np
import pytest

from pusa_jax.convert.files.mapped import ArrayTensors
from pusa_jax.convert.files.safetensors import write_safetensors
from pusa_jax.convert.folders import merging
from pusa_jax.convert.folders.merging import files_of_experts, is_for_few_steps, read_adapters
from pusa_jax.convert.folders.summary import summary
from pusa_jax.models.wan.config import DiTConfig
from pusa_jax.models.wan.family import WAN21, WAN22

DIT = DiTConfig(dim=4, ffn_dim=8, num_heads=1, num_layers=1, text_dim=4, freq_dim=4)


def write(path, alpha=None, metadata=None, rank=2):
    path.parent.mkdir(parents=True, exist_ok=True)
    name = "diffusion_model.blocks.0.self_attn.q"
    arrays = {
        f"{name}.lora_down.weight": np.ones((rank, 4), np.float32),
        f"{name}.lora_up.weight": np.ones((4, rank), np.float32),
    }
    if alpha is not None:
        arrays[f"{name}.alpha"] = np.asarray(alpha, np.float32)
    write_safetensors(path, ArrayTensors(arrays), metadata=metadata)
    return path


def merged(adapters):
    return [(a.strength, a.rule, next(iter(a.lora.modules.values())).alpha) for a in adapters]


def test_a_distillation_comes_first_at_its_own_strength(tmp_path):
    fast = [write(tmp_path / f"{n}_noise_model.safetensors", alpha=8) for n in ("high", "low")]
    pusa = [write(tmp_path / f"{n}_noise_pusa.safetensors") for n in ("high", "low")]
    found = read_adapters(WAN22, DIT, [(pusa[0], 1.5)], [(pusa[1], 1.4)], fast)
    assert merged(found["dit"]) == [(1.0, "lightx2v", 8.0), (1.5, "file_alpha", None)]
    assert merged(found["dit_low"]) == [(1.0, "lightx2v", 8.0), (1.4, "file_alpha", None)]


def test_a_distillation_without_alpha_is_merged_as_trained(tmp_path):
    """Pusa's loader would divide by the rank."""
    found = read_adapters(WAN21, DIT, lightx2v=[write(tmp_path / "x.safetensors")])
    assert merged(found["dit"]) == [(1.0, "file_alpha", None)]


def test_files_of_a_folder_are_told_apart_by_their_names(tmp_path):
    """As in Wan2.2-T2V-A14B-4steps-lora-rank64-Seko-V1.1."""
    high, low = (write(tmp_path / f"{n}_noise_model.safetensors") for n in ("high", "low"))
    assert files_of_experts(WAN22, [tmp_path]) == {"dit": high, "dit_low": low}
    # Pusa's scripts merge the one for low noise into Wan2.1.
    assert files_of_experts(WAN21, [tmp_path]) == {"dit": low}
    assert files_of_experts(WAN22, [low, high]) == {"dit": low, "dit_low": high}  # as given
    high.unlink()
    assert files_of_experts(WAN21, [tmp_path]) == {"dit": low}
    with pytest.raises(FileNotFoundError, match=r"files there: low_noise_model\.safetensors"):
        files_of_experts(WAN22, [tmp_path])


@pytest.mark.parametrize("family", [WAN21, WAN22])
@pytest.mark.parametrize("number", [3, 0])
def test_a_wrong_number_of_files_is_refused(family, number, tmp_path):
    needs = re.escape(f"{family.name} needs {len(family.experts)} LightX2V file")
    (tmp_path / "x").touch()
    with pytest.raises(ValueError, match=f"{needs}.*got {number}"):
        files_of_experts(family, [tmp_path / "x"] * number)


@pytest.mark.parametrize("family", [WAN21, WAN22])
@pytest.mark.parametrize("number", [1, 2])
def test_a_lightx2v_file_that_is_not_there_is_said_to_be_missing(family, number, tmp_path):
    gone = tmp_path / "lightx2v_high_noise.safetensors"
    with pytest.raises(FileNotFoundError, match=f"(no file or folder|no checkpoint file) {gone}"):
        read_adapters(family, DIT, lightx2v=[gone] * number)


HIGH = [
    "high_noise_pusa", "wan2.2_t2v_lightx2v_4steps_lora_v1.1_high_noise", "Style-HighNoise",
    "my_HIGH", "wan22-high-14b", "style_high_lora",
]  # fmt: skip
NEITHER = ["pusa_v1", "flow", "highlights", "slow_motion", "high_noise_low_noise", "lowpoly"]


@pytest.mark.parametrize("name", HIGH)
def test_a_lora_for_the_other_expert_is_refused_by_its_name(tmp_path, name):
    high = write(tmp_path / f"{name}.safetensors")
    low = write(tmp_path / f"{re.sub('(?i)high', 'low', name)}.safetensors")
    read_adapters(WAN22, DIT, [(high, 1.0)], [(low, 1.0)])
    words = r"looks like a LoRA of the high-noise expert by its name, but is given for the low-noi"
    with pytest.raises(ValueError, match=words) as error:
        read_adapters(WAN22, DIT, low_lora=[(high, 1.0)])
    assert str(high) in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(ValueError, match="of the low-noise expert by its name, but is given for"):
        read_adapters(WAN22, DIT, [(low, 1.0)])
    with pytest.raises(ValueError, match="exchange them"):
        read_adapters(WAN22, DIT, lightx2v=[low, high])
    read_adapters(WAN21, DIT, [(high, 1.0), (low, 1.0)])  # no expert, no wrong one


def test_a_lora_for_the_other_expert_is_refused_by_its_metadata(tmp_path):
    file = write(tmp_path / "pusa.safetensors", metadata={"name": "pusa low_noise", "steps": "9"})
    read_adapters(WAN22, DIT, low_lora=[(file, 1.0)])
    with pytest.raises(ValueError, match="of the low-noise expert by its metadata, but is given"):
        read_adapters(WAN22, DIT, [(file, 1.0)])
    assert "looks like one for the low-noise expert of wan2.2, by its metadata" in summary(file)


def test_name_or_metadata_for_the_right_expert_is_enough(tmp_path):
    file = write(tmp_path / "high_noise.safetensors", metadata={"made_from": "low_noise"})
    read_adapters(WAN22, DIT, [(file, 1.0)], [(file, 1.0)])


def test_long_metadata_says_nothing(tmp_path):
    settings = json.dumps({"prompt": "high noise " * merging.LONGEST_NAME})
    file = write(tmp_path / "pusa.safetensors", metadata={"settings": settings})
    read_adapters(WAN22, DIT, low_lora=[(file, 1.0)])


@pytest.mark.parametrize("name", NEITHER)
def test_other_names_say_nothing(tmp_path, name):
    file = write(tmp_path / f"{name}.safetensors")
    read_adapters(WAN22, DIT, [(file, 1.0)], [(file, 1.0)])
    assert "looks like" not in summary(file)


def test_a_model_of_one_denoiser_has_no_low_noise(tmp_path):
    with pytest.raises(ValueError, match=r"wan2\.1 has only one denoiser; give it as its LoRA"):
        read_adapters(WAN21, DIT, low_lora=[(tmp_path / "x", 1.0)])


@pytest.mark.parametrize("strength", [float("nan"), float("inf")])
def test_a_strength_is_a_number(tmp_path, strength):
    with pytest.raises(ValueError, match=r"strength of .* must be a number"):
        read_adapters(WAN22, DIT, low_lora=[(write(tmp_path / "x.safetensors"), strength)])


def test_a_lora_of_another_size_names_its_file(tmp_path):
    file = write(tmp_path / "x.safetensors")
    other = DiTConfig(dim=8, ffn_dim=8, num_heads=1, num_layers=1, text_dim=4, freq_dim=4)
    with pytest.raises(ValueError, match=r"x\.safetensors: 1 of 1 LoRA modules do not fit"):
        read_adapters(WAN22, other, low_lora=[(file, 1.0)])


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("Wan2.2-T2V-A14B-4steps-lora-rank64-Seko-V1.1/high_noise_model.safetensors", True),
        ("Wan21_T2V_14B_lightx2v_cfg_step_distill_lora_rank32.safetensors", True),
        ("Wan2.2-Lightning_4-step.safetensors", True),
        ("high_noise_pusa.safetensors", False),
        ("pusa_24steps.safetensors", False),
    ],
)
def test_files_for_a_few_steps_are_known_by_their_names(tmp_path, path, expected):
    assert is_for_few_steps(tmp_path / path) is expected
