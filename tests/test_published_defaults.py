"""Every published default as a table, held against §7 (tasks) of pusa-v1.md, the sheet of facts.

§6.1, §6.3, §3.5 and §3.10 of it have the flags and the tiles that §7 sums up. Where the library
departs from what is published, the test says DEPARTS and why. Those of training lie in
training/test_published_training.py.
"""

import dataclasses
import hashlib
import re
import types
from pathlib import Path

import numpy as np
import pytest
from flax import nnx
from numbered import frame, frames, told, write_files

from pusa_jax.cli import main
from pusa_jax.cli.job import INPUT_FLAGS, TASK_HELP
from pusa_jax.convert.folders import opened as folders
from pusa_jax.demo import shipped
from pusa_jax.diffusion import tasks
from pusa_jax.diffusion.config import SamplingConfig
from pusa_jax.inference import jobs, loading
from pusa_jax.inference.pipeline import PusaPipeline
from pusa_jax.inference.settings import Configs
from pusa_jax.models.families import FAMILIES, PRESETS
from pusa_jax.models.family import Tiles
from pusa_jax.models.latte.family import LATTE
from pusa_jax.models.mochi.config import ATTENTION_LINEARS
from pusa_jax.models.mochi.family import MOCHI
from pusa_jax.models.wan.config import DiTConfig, VAEConfig
from pusa_jax.models.wan.dit import WanDiT
from pusa_jax.models.wan.family import WAN21, WAN22, WAN22_TI2V
from pusa_jax.models.wan.text import PUSA_NEGATIVE_PROMPT, WAN_NEGATIVE_PROMPT
from pusa_jax.models.wan.vae import WanVAE

F, STRIDE = 21, 4
"""Latent frames of 81 frames, and pixel frames of a latent frame after the first (§7, title)."""

FIRST, SECOND = "0-89.mp4", "100-129.mp4"
KEPT = tuple(range(11))

PUBLISHED = {
    # Row "T2V".
    "t2v": ([], []),
    # Row "I2V": position 0, multiplier 0.2.
    "i2v": (["1.png"], [([1], (0,), (0,), (0.2,))]),
    # Row "start-end images": positions 0,20, multipliers 0.2,0.5; pictures encoded alone (§3.4).
    "start-end": (
        ["1.png", "2.png"],
        [([1], (0,), (0,), (0.2,)), ([2], (0,), (20,), (0.5,))],
    ),
    # Row "completion (start + last 4 frames)": positions 0,20, multipliers 0.3,0.3; frames keep
    # their places, and one pass encodes those before the last that is used (§3.4, Q15).
    "complete": ([FIRST], [([*range(81)], (0, 20), (0, 20), (0.3, 0.3))]),
    # Row "extension, 13 frames given": positions 0,1,2,3, multipliers 0.0,0.3,0.4,0.5. DEPARTS: the
    # original takes the first 13 frames of the file; to continue a clip is to start from its last.
    "extend": (
        [FIRST],
        [([*range(77, 90)], (0, 1, 2, 3), (0, 1, 2, 3), (0.0, 0.3, 0.4, 0.5))],
    ),
    # Row "completion/transition (first 9 + last 12 frames)": positions 0,1,2,18,19,20, all 0.
    # DEPARTS (row "transition between two clips": no V1 script): the ends come from two files, and
    # one more copy of the second clip's first picture makes the causal VAE give later frames.
    "transition": (
        [FIRST, SECOND],
        [
            ([*range(81, 90)], (0, 1, 2), (0, 1, 2), (0.0, 0.0, 0.0)),
            ([100, *range(100, 112)], (1, 2, 3), (18, 19, 20), (0.0, 0.0, 0.0)),
        ],
    ),
    # Row "multi-keyframe interpolation": places as its example 0,10,20. DEPARTS: its multipliers
    # are "not tuned for V1"; those of start-end are taken, the first picture's and the last's.
    "interpolate": (
        ["1.png", "2.png", "3.png"],
        [
            ([1], (0,), (0,), (0.2,)),
            ([2], (0,), (10,), (0.5,)),
            ([3], (0,), (20,), (0.5,)),
        ],
    ),
    # Row "loop": the same image at 0 and 20 with start-end settings.
    "loop": (["1.png"], [([1], (0,), (0,), (0.2,)), ([1], (0,), (20,), (0.5,))]),
}
"""Task -> input files, and (frames, latent frames used, places, multipliers) of each group."""


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    folder = tmp_path_factory.mktemp("media")
    write_files(folder)
    return folder


def job_of(task, media, **changes):
    inputs = tuple(str(media / name) for name in PUBLISHED[task][0])
    settings = SamplingConfig(height=32, width=32)
    given = {"inputs": inputs, "settings": settings, "fit": "crop"} | changes
    return jobs.Job(task=task, model="m", prompt="", negative_prompt="", **given)


def test_every_task_has_a_row():
    assert set(PUBLISHED) == set(jobs.TASKS) == set(TASK_HELP) == set(jobs.INPUTS_TAKEN)


@pytest.mark.parametrize("task", PUBLISHED)
def test_files_give_the_published_frames_places_and_multipliers(media, task):
    assert told(jobs.read_conditions(job_of(task, media), STRIDE)) == PUBLISHED[task][1]


A, B, C = frame(1), frame(2), frame(3)
FIRST_CLIP, SECOND_CLIP = frames(range(90)), frames(range(100, 130))
FROM_PYTHON = {
    "i2v": lambda: tasks.image_to_video(A),
    "start-end": lambda: tasks.start_end(A, B, F),
    "complete": lambda: tasks.complete(FIRST_CLIP, F, STRIDE),
    "extend": lambda: tasks.extend(FIRST_CLIP[-13:], STRIDE),
    "transition": lambda: tasks.transition(FIRST_CLIP, SECOND_CLIP, F, STRIDE),
    "interpolate": lambda: tasks.interpolate([A, B, C], F),
    "loop": lambda: tasks.loop(A, F),
}


@pytest.mark.parametrize("task", FROM_PYTHON)
def test_functions_give_the_published_frames_places_and_multipliers(task):
    assert told(FROM_PYTHON[task]()) == PUBLISHED[task][1]


def test_an_extension_by_eleven_latent_frames_keeps_its_41_frames_exactly(media):
    """Row "extension, 41 frames given": positions 0..10, multipliers all 0."""
    expected = [([*range(49, 90)], KEPT, KEPT, (0.0,) * 11)]
    assert told(jobs.read_conditions(job_of("extend", media, at=KEPT), STRIDE)) == expected
    assert told(tasks.extend(FIRST_CLIP[49:], STRIDE, KEPT)) == expected


def test_clip_start_0_takes_the_frames_the_original_takes(media):
    """Row "extension, 13 frames given", as the V2V script reads them: from the start."""
    (condition,) = told(jobs.read_conditions(job_of("extend", media, clip_start=0), STRIDE))
    assert condition[0] == list(range(13))


SAMPLING = {
    # §7, column "Wan2.1 standard": 30 steps, cfg 3; §6.1: 720 x 1280, 81 frames, seed 0, tiling on.
    "num_steps": 30,
    "guidance_scale": 3.0,
    "height": 720,
    "width": 1280,
    "num_frames": 81,
    # DEPARTS (§3.10): the scripts save Wan2.1 at 25 fps; 16 is what the model was trained at.
    "fps": 16,
    "seed": 0,
    "tiled": True,
    # §3.7: one guidance scale for both experts, which change where the family says; §2: Euler.
    "low_guidance_scale": None,
    "guidance_schedule": None,
    "guidance_until": 1.0,
    "rows": "even",
    "teacache": None,
    "boundary": None,
    "solver": "euler",
    # §6.3 and §3.2: sigma_shift 5.0, which no script overrides.
    "shift": 5.0,
    # §3.11 Q1: timesteps rounded as the original's.
    "original_timesteps": True,
    # Mochi sheet §8.1: conditioning latents are not normalised; of Wan they are.
    "original_conditions": True,
    "levels": None,
}


def test_settings_are_the_published_ones():
    assert dataclasses.asdict(SamplingConfig()) == SAMPLING


def test_mochi_carries_the_settings_of_pusa_v05():
    """Sheet of Pusa V0.5 on Mochi, §7, §8.2 and §8.4."""
    size = {"height": 480, "width": 848, "num_frames": 163, "fps": 30}
    assert MOCHI.sampling == SamplingConfig(**size, num_steps=30, guidance_scale=4.5)
    assert MOCHI.official == SamplingConfig(**size, num_steps=64, guidance_scale=6.0)
    assert MOCHI.negative_prompt == MOCHI.official_negative_prompt == ""
    assert MOCHI.multipliers == {
        "i2v": (0.0,),
        "start-end": (0.3, 0.7),
        "interpolate": (0.3, 0.7),
        "extend": (0.1, 0.3, 0.3, 0.3),
        "transition": (0.1, 0.3, 0.3, 0.3, 0.3, 0.3),
        "loop": (0.3, 0.7),
    }
    assert (MOCHI.experts, MOCHI.lora_targets) == ({"dit": 0.0}, ATTENTION_LINEARS)


def test_families_carry_the_published_sampling():
    for preset in PRESETS.values():
        if preset.family in (MOCHI, LATTE):
            continue
        assert preset.family.negative_prompt == PUSA_NEGATIVE_PROMPT
        assert preset.family.official_negative_prompt == WAN_NEGATIVE_PROMPT
    assert WAN21.sampling == WAN22.sampling == SamplingConfig()
    # DEPARTS (§7 has no row for it): the steps, guidance and shift of A14B, the base model's size.
    large = {"height": 704, "width": 1280, "num_frames": 121, "fps": 24}
    assert WAN22_TI2V.sampling == SamplingConfig(**large)


OFFICIAL = {
    # wan.md §1.1, column by column: sample_shift, sample_steps, guidance (low, high), fps, frames.
    "wan2.1": (5.0, 50, None, 5.0, 16, 81, 720, 1280),
    "wan2.2": (12.0, 40, 3.0, 4.0, 16, 81, 720, 1280),
    "wan2.2-ti2v": (5.0, 50, None, 5.0, 24, 121, 704, 1280),
}


@pytest.mark.parametrize("name", OFFICIAL)
def test_families_carry_the_settings_of_the_base_model(name):
    found = FAMILIES[name].official
    shift, steps, low, high, fps, frames, height, width = OFFICIAL[name]
    assert (found.shift, found.num_steps, found.fps, found.num_frames) == (
        shift, steps, fps, frames,
    )  # fmt: skip
    assert (found.low_guidance_scale, found.guidance_scale) == (low, high)
    assert (found.height, found.width) == (height, width)
    # Row "solver default"; the official code encodes and decodes in one piece.
    assert (found.solver, found.tiled) == ("unipc", False)


def test_experts_of_wan22_change_at_the_published_boundary():
    """pusa-v1.md §3.7: low if T < 875; §7: extension 0.2,0.4,0.4,0.4."""
    assert WAN22.experts == {"dit": 0.875, "dit_low": 0.0}
    assert WAN22.multipliers == WAN22_TI2V.multipliers == {"extend": (0.2, 0.4, 0.4, 0.4)}
    for family in (WAN21, WAN22_TI2V):
        assert family.experts == {"dit": 0.0}


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"boundary": -0.1}, "the boundary between experts must be 0 to 1, got -0.1"),
        ({"boundary": 1.5}, "the boundary between experts must be 0 to 1, got 1.5"),
        ({"boundary": float("nan")}, "the boundary between experts must be 0 to 1, got nan"),
        ({"low_guidance_scale": float("inf")}, "the guidance scale must be a number, got inf"),
    ],
)
def test_settings_of_experts_are_checked(setting, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        SamplingConfig(**setting)


def test_a_job_says_the_rest():
    """DEPARTS (§6.1): pictures are cropped, not stretched."""
    job = jobs.Job(task="t2v", model="m", prompt="", negative_prompt="")
    assert (job.fit, job.dtype) == ("crop", "bfloat16")
    assert (job.settings, job.lora, job.inputs, job.mesh) == (SamplingConfig(), (), (), None)
    assert (job.at, job.multipliers, job.clip_start) == (None, None, None)


class StoppedError(ValueError):
    """Ends a command line where its job would be prepared."""


def job_from(monkeypatch, *line):
    """The job, and the output, that a command line makes."""
    seen = []

    def opened(folder, **loras):
        configs = Configs(dit=PRESETS["wan2.1-t2v-14b"].dit, vae=VAEConfig())
        return types.SimpleNamespace(folder=folder, family=folder.family, configs=configs)

    def prepare(job, output, model, numbered):
        assert numbered  # or it would replace the video of the run before
        seen.append((job, output))
        raise StoppedError

    def found(path):
        family = WAN22 if path == "two" else WAN21
        return types.SimpleNamespace(path=Path(path), family=family)

    monkeypatch.setattr(folders, "ModelFolder", found)
    monkeypatch.setattr(loading, "open_model", opened)
    monkeypatch.setattr(jobs, "prepare", prepare)
    assert main.main([str(word) for word in line]) == main.USAGE_ERROR
    return seen[0]


@pytest.mark.parametrize("task", PUBLISHED)
def test_a_command_line_without_flags_is_the_python_default(monkeypatch, task):
    files = PUBLISHED[task][0]
    given = [INPUT_FLAGS[task][0], *files] if files else []
    line = [task, "--model", "m", "--prompt", "p", *given]
    expected = jobs.Job(
        task=task,
        model="m",
        prompt="p",
        negative_prompt=PUSA_NEGATIVE_PROMPT,
        inputs=tuple(files),
    )
    assert job_from(monkeypatch, *line) == (expected, f"outputs/{task}.mp4")


def test_a_lora_is_merged_with_strength_1_4(monkeypatch):
    """Column "Wan2.1 standard": alpha 1.4."""
    line = ["t2v", "--model", "m", "--prompt", "", "--lora_path", "a", "--lora_path", "b"]
    assert job_from(monkeypatch, *line)[0].lora == (("a", 1.4), ("b", 1.4))


def test_without_a_model_the_tiny_one_is_sampled_as_it_was_trained(monkeypatch):
    job, _ = job_from(monkeypatch, "t2v", "--prompt", "p")
    assert job == jobs.Job(
        task="t2v",
        model=str(shipped.FOLDER),
        prompt="p",
        negative_prompt="",
        lora=((str(shipped.FOLDER / "pusa_lora.safetensors"), 1.0),),
        dtype="float32",
        settings=SamplingConfig(
            height=48, width=48, num_frames=33, num_steps=10, guidance_scale=2.0
        ),
    )


HELD_BACK = {
    "num_inference_steps": ("num_steps", "30", "10"),
    "cfg_scale": ("guidance_scale", "3.0", "2.0"),
    "height": ("height", "720", "48"),
    "width": ("width", "1280", "48"),
    "num_frames": ("num_frames", "81", "33"),
}


def test_help_states_the_defaults_that_are_taken(capsys):
    with pytest.raises(SystemExit):
        main.main(["t2v", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for flag, (name, real, tiny) in HELD_BACK.items():
        others = r"(; \w+: [\d.]+)*"  # of other families
        shown = rf"--{flag} [A-Z_]+ [^()]*\(default: {real}{others}; tiny model: {tiny}\)"
        assert re.search(shown, text), flag
        assert float(real) == getattr(SamplingConfig(), name)
        assert float(tiny) == getattr(shipped.SETTINGS, name)
    for flag, value in {"lora_alpha": "1.4", "shift": "5.0", "seed": "0"}.items():
        assert re.search(rf"--{flag} [A-Z_]+ [^()]*\(default: {value}\)", text), flag


def digest(text):
    return hashlib.sha256(text.encode()).hexdigest()


def test_negative_prompts_are_the_published_ones():
    """§6: 392 characters and their SHA-256; Wan's own is the text in §6 of wan.md."""
    assert len(PUSA_NEGATIVE_PROMPT) == 392
    assert PUSA_NEGATIVE_PROMPT.startswith("Bright tones, overexposed, static, blurred details,")
    published = "e488b06083693241fbe71bed61a3eb0035f4ec96d858d235be1662c226452fac"
    assert digest(PUSA_NEGATIVE_PROMPT) == published
    assert WAN_NEGATIVE_PROMPT.startswith("色调艳丽，过曝，静态，细节模糊不清，字幕，")
    assert (
        digest(WAN_NEGATIVE_PROMPT)
        == "ce96e0324e4b54ce4b6e867f669ca520952e1a34cc116543516b1897f0d3c47e"
    )


class NoTokenizer:
    """Nothing is tokenized here."""

    vocab_size = 0

    def __call__(self, prompts):
        raise AssertionError(prompts)


@pytest.fixture(scope="module")
def pipe():
    """A pipeline of networks without weights, whose VAE is not run."""
    dit = DiTConfig(dim=24, ffn_dim=32, num_heads=2, num_layers=1, text_dim=16, freq_dim=16)
    return PusaPipeline(
        family=WAN21,
        dit=nnx.eval_shape(lambda: WanDiT(dit, rngs=nnx.Rngs(0))),
        autoencoder=nnx.eval_shape(lambda: WanVAE(VAEConfig(dim=8), rngs=nnx.Rngs(0))),
        text_encoder=lambda: pytest.fail("no prompt is encoded here"),
        tokenizer=NoTokenizer(),
    )


ROWS, COLUMNS = (0, 15, 30, 45, 60), (0, 26, 52, 78, 104, 130)


def test_tiles_are_the_published_ones_in_latent_cells():
    """§3.2 and §3.5: tile (30, 52), stride (15, 26); §5.1, of a dataset: 34/34 and 18/16."""
    assert WAN21.codec.sampling_tiles == Tiles(size=(30, 52), stride=(15, 26))
    assert WAN21.codec.dataset_tiles == Tiles(size=(34, 34), stride=(18, 16))


def test_the_pipeline_encodes_in_the_published_tiles(monkeypatch, pipe):
    """§3.5: at 720 x 1280, rows 0,15,30,45,60 and columns 0,26,52,78,104,130, 8 pixels a cell."""
    y, x = np.mgrid[:90, :160].astype(np.float32).repeat(8, axis=1).repeat(8, axis=2)
    pixels = np.stack([y, x, x], axis=-1)[None, None]
    seen = []

    def encode(tile):
        seen.append((*tile[0, 0, 0, 0, :2], tile.shape[2] // 8, tile.shape[3] // 8))
        return np.zeros((1, 1, tile.shape[2] // 8, tile.shape[3] // 8, 16), np.float32)

    monkeypatch.setattr(pipe.autoencoder, "_encode", encode)
    assert pipe.encode(pixels, True).shape == (1, 1, 90, 160, 16)
    assert seen == [(r, c, 30, min(52, 160 - c)) for r in ROWS for c in COLUMNS]
    seen.clear()
    pipe.encode(pixels, False)
    assert seen == [(0, 0, 90, 160)]


def test_the_pipeline_decodes_in_the_published_tiles(monkeypatch, pipe):
    latents = np.zeros((1, 1, 90, 160, 16), np.float32)
    latents[..., :2] = np.moveaxis(np.mgrid[:90, :160], 0, -1)
    seen, progress = [], []

    def decode(tile, on_progress=None):
        seen.append((*tile[0, 0, 0, 0, :2], *tile.shape[2:4]))
        return np.zeros((1, 1, tile.shape[2] * 8, tile.shape[3] * 8, 3), np.float32)

    monkeypatch.setattr(pipe.autoencoder, "_decode", decode)
    decoded = pipe.decode(latents, True, lambda *step: progress.append(step))
    assert decoded.shape == (1, 720, 1280, 3)
    assert seen == [(r, c, 30, min(52, 160 - c)) for r in ROWS for c in COLUMNS]
    assert progress[0] == ("decode", 0, 1) and progress[-1] == ("decode", 30, 30)
    seen.clear()
    pipe.decode(latents, False)
    assert seen == [(0, 0, 90, 160)]
