"""Every published default of training as a table, held against §5 of pusa-v1.md.

Where the library departs from what is published, the test says DEPARTS and why.
"""

from pathlib import Path

import pytest

from pusa_jax.cli.run_flags import parse
from pusa_jax.models.adapters import AdapterConfig
from pusa_jax.models.wan.family import WAN21
from pusa_jax.training.config import ModelConfig, RunConfig

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
TRAINING = {
    # §5.3: the 900-iteration checkpoint, global batch 8, 150 steps an epoch, every epoch kept.
    "steps": 900,
    "data.batch_size": 8,
    "checkpoint.every": 150,
    "checkpoint.keep_every": 150,
    "optimizer.accumulate": 1,
    # §5.1: 480 x 832, 81 frames.
    "data.height": 480,
    "data.width": 832,
    "data.num_frames": 81,
    # §5.3: rank 512, alpha 512, on q,k,v,o,ffn.0,ffn.2 of both attentions (§4.1), PEFT's default.
    "adapter.rank": 512,
    "adapter.alpha": 512.0,
    "adapter.targets": "blocks/(self_attn|cross_attn)/[qkvo]|blocks/ffn/(up|down)",
    "adapter.init": "kaiming",
    # §5.2: AdamW at 1e-5 with torch's defaults; no schedule, clipping or average.
    "optimizer.learning_rate": 1e-5,
    "optimizer.beta1": 0.9,
    "optimizer.beta2": 0.999,
    "optimizer.eps": 1e-8,
    "optimizer.weight_decay": 0.01,
    "optimizer.warmup_steps": 0,
    "optimizer.decay": "constant",
    "optimizer.clip_norm": 0.0,
    "optimizer.clip_from": 0,
    "optimizer.ema_decay": 0.0,
    # §5.2: every latent frame its own index into the shift-5 table, timesteps through bfloat16,
    # mean error times mean weight (§2.6), no prompt dropped.
    "objective.levels.sampler": "independent",
    "objective.levels.probability": 1.0,
    "objective.levels.shift": 5.0,
    "objective.levels.rounding": "bfloat16",
    "objective.weighting": "pusa",
    "objective.text_dropout": 0.0,
    # §5.2: DiT in bfloat16 by DiffSynth's rounding points, each block recomputed going back.
    "model.preset": "wan2.1-t2v-14b",
    "model.dtype": "bfloat16",
    "model.numerics": "diffsynth",
    "model.remat": "full",
    # §7 and §8.3: pictures of progress by 10 steps at guidance 3, with an exact first frame.
    "samples.num_steps": 10,
    "samples.guidance_scale": 3.0,
    "samples.multiplier": 0.0,
}
FVDM = {
    # Sheet of FVDM, §3 and §4: AdamW at 1e-4 without decay, schedule or warm-up, average with
    # 0.9999, float32, PTSS with p = 0.2, seed 3407, clips of 16 x 256 x 256.
    "adapter": None,
    "seed": 3407,
    "model.dtype": "float32",
    "objective.levels.sampler": "ptss",
    "objective.levels.probability": 0.2,
    "objective.levels.rounding": "none",
    "objective.weighting": "none",
    "optimizer.learning_rate": 1e-4,
    "optimizer.weight_decay": 0.0,
    "optimizer.ema_decay": 0.9999,
    "data.height": 256,
    "data.width": 256,
    "data.num_frames": 16,
    # §5: DDIM of 50 steps, guidance where there are classes.
    "samples.num_steps": 50,
    "samples.guidance_scale": 1.0,
    # §4.1: checkpoints from 50k on were evaluated.
    "checkpoint.every": 10_000,
    "checkpoint.keep_every": 50_000,
}
CLIPPED = {"optimizer.clip_norm": 0.1, "optimizer.clip_from": 100_000}
OTHERS = {
    "pusa_full_14b": {"adapter": None},
    # No 1.3B model is published: the recipe of 14B at half its rank.
    "pusa_lora_1.3b": {
        "model.preset": "wan2.1-t2v-1.3b",
        "adapter.rank": 256,
        "adapter.alpha": 256.0,
    },
    # The recipe on each expert of A14B and on TI2V-5B, whose size and length are its base model's.
    "pusa_wan22_high_14b": {"model.preset": "wan2.2-t2v-a14b", "model.expert": "dit"},
    "pusa_wan22_low_14b": {"model.preset": "wan2.2-t2v-a14b", "model.expert": "dit_low"},
    "pusa_lora_ti2v_5b": {
        "model.preset": "wan2.2-ti2v-5b",
        "data.height": 704,
        "data.width": 1280,
        "data.num_frames": 121,
    },
    # Sheet of Pusa V0.5, §9: 500 steps of 32 clips, plain error, one caption in ten dropped.
    "pusa_v05_full_mochi": {
        "model.preset": "mochi-1-preview",
        "adapter": None,
        "steps": 500,
        "objective.weighting": "none",
        "objective.text_dropout": 0.1,
        "objective.levels.rounding": "none",
        "data.batch_size": 32,
        "data.width": 848,
        "data.num_frames": 163,
        "checkpoint.every": 100,
        "checkpoint.keep_every": 100,
        "samples.guidance_scale": 4.5,
    },
    # The same sheet: genmo's trainer of LoRA.
    "mochi_lora": {
        "model.preset": "mochi-1-preview",
        "adapter.rank": 16,
        "adapter.alpha": 16.0,
        "adapter.targets": "(blocks|last)/(visual|text)/[qkvo]",
        "steps": 2000,
        "objective.weighting": "none",
        "objective.text_dropout": 0.1,
        "objective.levels.sampler": "shared",
        "objective.levels.even": True,
        "objective.levels.rounding": "none",
        "optimizer.learning_rate": 2e-4,
        "optimizer.warmup_steps": 200,
        "optimizer.decay": "cosine",
        "data.batch_size": 1,
        "data.width": 848,
        "data.num_frames": 37,
        "checkpoint.every": 200,
        "checkpoint.keep_every": 200,
        "samples.guidance_scale": 4.5,
    },
    # Sheet of FVDM, §4.1: the table of settings.
    "fvdm_ffs_b2": FVDM | {"model.preset": "fvdm-b-2", "steps": 300_002, "data.batch_size": 3},
    "fvdm_sky_xl2": FVDM
    | CLIPPED
    | {"model.preset": "fvdm-xl-2", "steps": 400_002, "data.batch_size": 4},
    "fvdm_taichi_xl2": FVDM | {"model.preset": "fvdm-xl-2", "steps": 500_002, "data.batch_size": 4},
    "fvdm_ucf_xl2": FVDM
    | CLIPPED
    | {
        "model.preset": "fvdm-xl-2-ucf101",
        "steps": 500_002,
        "data.batch_size": 4,
        "objective.text_dropout": 0.1,
        "samples.guidance_scale": 7.0,
    },
    # §8.8: p = 0.2, AdamW lr 1e-4, weight decay 0, plain squared error, average with 0.9999.
    "fvdm_ptss_1.3b": {
        "model.preset": "wan2.1-t2v-1.3b",
        "adapter": None,
        "objective.levels.sampler": "ptss",
        "objective.levels.probability": 0.2,
        "objective.weighting": "none",
        "optimizer.learning_rate": 1e-4,
        "optimizer.weight_decay": 0.0,
        "optimizer.ema_decay": 0.9999,
    },
}


def flat(tree, prefix=""):
    """Names with dots -> values of nested settings."""
    out = {}
    for name, value in tree.items():
        inner = flat(value, f"{prefix}{name}.") if isinstance(value, dict) else None
        out |= {f"{prefix}{name}": value} if inner is None else inner
    return out


@pytest.mark.parametrize("name", ["pusa_v1_lora_14b", *OTHERS])
def test_training_configs_have_the_published_settings(name):
    changes = OTHERS.get(name, {})
    expected = TRAINING | changes
    if "adapter" in changes:
        expected = {k: v for k, v in expected.items() if not k.startswith("adapter.")}
    found = flat(parse([f"--config={CONFIGS / name}.py"])[0].record())
    assert {key: found[key] for key in expected} == expected


def test_python_defaults_of_training_are_those_of_the_config():
    """DEPARTS: ptss is FVDM's, so that p = 0.2 (§8.8) is the default where nobody asks for Pusa."""
    found = flat(
        RunConfig(
            model=ModelConfig(preset="wan2.1-t2v-14b"),
            adapter=AdapterConfig(targets=WAN21.lora_targets),
        ).record()
    )
    own = {
        "objective.levels.probability": 0.2,
        "checkpoint.every": 100,
        "checkpoint.keep_every": 0,
    }
    expected = TRAINING | own
    assert {key: found[key] for key in expected} == expected
