"""Mochi's networks against the recorded outputs of Pusa V0.5's and the official code."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from golden import Comparison, Golden, remembered
from watched import WatchedPipeline

from pusa_jax.convert.files.open import open_tensors
from pusa_jax.convert.mochi import vae as vae_tables
from pusa_jax.convert.mochi.dit import config_from_source, original_rules
from pusa_jax.convert.tables import dump, load
from pusa_jax.diffusion.conditioning import FrameCondition
from pusa_jax.diffusion.grids import linear_quadratic
from pusa_jax.diffusion.timesteps import LevelConfig, level_table
from pusa_jax.inference.autoencoder import Autoencoder
from pusa_jax.models.family import Tiles
from pusa_jax.models.mochi import vae
from pusa_jax.models.mochi.config import LATENT_MEAN, LATENT_STD, VAEConfig
from pusa_jax.models.mochi.dit import MochiDiT
from pusa_jax.models.mochi.family import MOCHI
from pusa_jax.testing.compare import (
    from_house_layout,
    random_module,
    relative_error,
    to_house_layout,
)
from pusa_jax.training.objective import ObjectiveConfig, noised_batch_at
from pusa_jax.training.state import OptimizerConfig, apply_gradients, fresh_state
from pusa_jax.training.step import Recipe, loss_of, model_shapes, network
from pusa_jax.weights.leaves import assemble, shapes_of

DIT_LIMIT = 1e-5
VAE_LIMIT = 5e-5
LOSS_LIMIT, GRADIENT_LIMIT = 1e-5, 2e-4
ENCODER_LIMIT = 1e-4
"""The original's float32 sines of up to 800 radians cost it 1.5e-5 here."""


@remembered
def load_dit(path) -> MochiDiT:
    source = open_tensors(path)
    config = config_from_source(source)

    def build():
        return MochiDiT(config, rngs=nnx.Rngs(0))

    return assemble(build, load(source, original_rules(config), shapes_of(build)))


def text_of(golden: Golden, where: str) -> np.ndarray:
    """Recorded features with rows of zeros where there is no token."""
    features, mask = (golden.tensor(f"in.{where}.{what}") for what in ("y_feat", "y_mask"))
    return features * mask[..., None].astype(np.float32)


@jax.jit
def way_to_data(dit, latents, timesteps, text):
    return dit(latents, timesteps, dit.prepare_text(text))


def check_dit(golden: Golden, case: dict):
    name = case["name"]
    ours = way_to_data(
        load_dit(golden.weights()),
        to_house_layout(golden.tensor(f"in.{name}.x")),
        1000 * (1 - jnp.asarray(golden.tensor(f"in.{name}.sigma"))),
        jnp.asarray(text_of(golden, name)),
    )
    expected = golden.tensor(f"out.{name}.v")
    yield Comparison("clean - noise", relative_error(from_house_layout(ours), expected), DIT_LIMIT)


class InOneFile:
    """Encoder and decoder files seen as one, as the tables name their tensors."""

    def __init__(self, files: dict):
        self.parts = {role: open_tensors(path) for role, path in files.items()}
        self.tensors = {
            f"{role}.{name}": info
            for role, part in self.parts.items()
            for name, info in part.tensors.items()
        }

    def read(self, name, index=None):
        role, _, name = name.partition(".")
        return self.parts[role].read(name, index)


@remembered
def load_decoder(golden: Golden) -> vae.MochiVAE:
    """The autoencoder of a file that names its decoder only."""
    path = golden.weights()
    encoder = path.with_name(path.name.replace("decoder", "encoder"))
    return load_pieces({"encoder": encoder, "decoder": path})


@remembered
def load_vae(golden: Golden) -> vae.MochiVAE:
    return load_pieces({role: golden.weights(role) for role in ("encoder", "decoder")})


def load_pieces(files: dict) -> vae.MochiVAE:
    source = InOneFile(files)
    config = vae_tables.config_from_source(source)

    def build():
        return vae.MochiVAE(config, rngs=nnx.Rngs(0))

    return assemble(build, load(source, vae_tables.original_rules(config), shapes_of(build)))


MOMENTS, DECODE_FIRST, DECODE_NEXT = map(jax.jit, (vae.moments, vae.decode_first, vae.decode_next))


def decoded(model: vae.MochiVAE, latents) -> np.ndarray:
    """Pixels of latents as the VAE has them, whole and frame by frame, which must agree."""
    mean, std = np.asarray([model.config.latent_mean, model.config.latent_std], np.float32)
    normalised = (np.asarray(latents) - mean) / std
    frames, cache = DECODE_FIRST(model, normalised[:, :1])
    parts = [frames]
    for i in range(1, normalised.shape[1]):
        frames, cache = DECODE_NEXT(model, normalised[:, i : i + 1], cache)
        parts.append(frames)
    return np.concatenate(parts, axis=1)


def check_vae(golden: Golden, case: dict):
    name, model = case["name"], load_vae(golden)
    if case["do"] == "enc":
        video = to_house_layout(golden.tensor(f"in.{name}.video"))
        fourier = from_house_layout(jax.jit(vae.fourier_features)(video[:, :1]))
        expected = golden.tensor(f"out.{name}.fourier")
        yield Comparison("Fourier features", relative_error(fourier, expected), ENCODER_LIMIT)
        for what, ours in zip(("mean", "logvar"), MOMENTS(model, video), strict=True):
            expected = golden.tensor(f"out.{name}.{what}")
            error = relative_error(from_house_layout(ours), expected)
            yield Comparison(what, error, ENCODER_LIMIT)
        return
    latents = to_house_layout(golden.tensor(f"in.{name}.latent"))
    streamed = decoded(model, latents)
    expected = golden.tensor(f"out.{name}.decoded")
    yield Comparison("decoded", relative_error(from_house_layout(streamed), expected), VAE_LIMIT)
    frames = np.clip((streamed + 1) / 2, 0, 1)
    yield Comparison(
        "frames", relative_error(frames, golden.tensor(f"out.{name}.frames")), VAE_LIMIT
    )


def halves(length: int, count: int, overlap: int) -> tuple[int, int]:
    """Size and stride of the original's tiles: a half of the length and half of the overlap."""
    if count == 1:
        return length, length
    return length // 2 + overlap // 2, length // 2 - overlap // 2


def check_tiled(golden: Golden, case: dict):
    """The original's tiles, halves that fade into each other, as a geometry of our runner.

    `tiled_full` is described and not a target: it decodes groups of latent frames as clips of their
    own, so that its video is shorter than its latents are long.
    """
    name, latents = case["name"], to_house_layout(golden.tensor(case["input"]))
    if name == "tiled_full":
        first = latents.shape[1] % case["frame_batch_size"] + case["frame_batch_size"]
        later = (latents.shape[1] - first) // case["frame_batch_size"]
        frames = 6 * (first - 1) + 1 + later * (6 * (case["frame_batch_size"] - 1) + 1)
        gap = abs(frames - case["frames_total"])
        yield Comparison("frames of groups decoded as clips", float(gap), 0.0, "count")
        return
    model = load_decoder(golden)
    mean, std = np.asarray([model.config.latent_mean, model.config.latent_std], np.float32)
    coder = Autoencoder(model, MOCHI.codec, model.config)
    tiles = None
    if "overlap" in case:
        _, _, h, w, _ = latents.shape
        sizes = [
            halves(n, case[f"num_tiles_{axis}"], case["overlap"])
            for n, axis in ((h, "h"), (w, "w"))
        ]
        size, stride = zip(*sizes, strict=True)
        tiles = Tiles(size=size, stride=stride, corner="product")
    frames = (coder.decode((np.asarray(latents) - mean) / std, tiles) + 1) / 2
    yield Comparison("frames", relative_error(frames, golden.tensor(f"out.{name}.frames")), 5e-6)


def check_schedule(golden: Golden, case: dict):
    """Schedules by their names in the file: steps, threshold and, for some, linear steps."""
    for steps, threshold, linear in golden.meta["rows"]:
        name = f"out.steps{steps}_thr{threshold}" + (f"_lin{linear}" if linear else "")
        gap = np.abs(linear_quadratic(steps, threshold, linear) - golden.tensor(name)).max()
        yield Comparison(name, float(gap), 1e-9, "units")


SIDES = ("prompt", "")
ANY_VAE = VAEConfig(
    encoder_dims=(4, 4, 4, 4), decoder_dims=(4, 4, 4, 4), num_res_blocks=(1,) * 5, num_groups=2,
    head_dim=2,
)  # fmt: skip
"""Decodes what is not compared."""


@remembered
def pipeline_of(golden: Golden) -> WatchedPipeline:
    rows = text_of(golden, "a")  # of the prompt, of the empty prompt
    decoder = random_module(lambda: vae.MochiVAE(ANY_VAE, rngs=nnx.Rngs(0)))
    texts = dict(zip(SIDES, rows, strict=True))
    return WatchedPipeline(load_dit(golden.weights()), decoder, texts, MOCHI)


def multipliers_of(case: dict, places: list[int]) -> list[float]:
    """As the scripts take them: the image script turns a list of places into a quarter each."""
    given = case["noise_multiplier"]
    if case.get("pipeline") == "ti2v":
        return [0.25] * len(places) if isinstance(case["condition_frame_idx"], list) else [given]
    return json.loads(given) if isinstance(given, str) else given


def check_trace(golden: Golden, case: dict):
    """A run of the shipped pipeline with recorded noise, text features and given latents."""
    name, pipe, limit = case["name"], pipeline_of(golden), golden.meta["recommended_rel_tolerance"]
    noise = to_house_layout(golden.tensor("in.a.noise"))
    _, f, h, w, _ = noise.shape
    given = []
    if "condition_frame_idx" in case:
        places = case["condition_frame_idx"]
        places = [places] if isinstance(places, int) else places
        clean = to_house_layout(golden.tensor("in.a.cond_latents"))
        for i, multiplier in zip(places, multipliers_of(case, places), strict=True):
            latents = clean[:, i % f : i % f + 1]
            given.append(FrameCondition(index=i % f, latents=latents, multiplier=multiplier))
    steps, linear = case["steps"], case.get("linear_steps")
    levels = linear_quadratic(steps, case["threshold_noise"], linear)[:-1]
    scales = case.get("cfg_schedule")
    settings = dataclasses.replace(
        MOCHI.sampling,
        height=8 * h,
        width=8 * w,
        num_frames=6 * (f - 1) + 1,
        num_steps=steps,
        levels=None if linear is None else tuple(levels.tolist()),
        guidance_scale=case.get("cfg", 1.0),
        guidance_schedule=None if scales is None else tuple(scales),
        tiled=False,
    )
    prompt, negative = SIDES
    output = pipe(
        prompt, conditions=given, negative_prompt=negative, settings=settings, noise=noise
    )
    told, expected = 1 - pipe.told() / 1000, golden.tensor(f"out.{name}.sigma")
    error = relative_error(told, np.broadcast_to(expected, told.shape))
    yield Comparison("sigma", error, 2e-6)
    if golden.has(f"out.{name}.schedule"):
        gap = np.abs([*levels, 0.0] - golden.tensor(f"out.{name}.schedule")).max()
        yield Comparison("schedule", float(gap), 1e-7, "units")
    expected = golden.tensor(f"out.{name}.latents")
    ours = jnp.moveaxis(jnp.asarray(pipe.trace()), -1, 1)[: len(expected)]
    yield Comparison("latents", relative_error(ours, expected), limit)
    mean, std = np.asarray([ANY_VAE.latent_mean, ANY_VAE.latent_std], np.float32)
    final = from_house_layout(output.latents * std + mean)
    expected = golden.tensor(f"out.{name}.vae_latents")
    yield Comparison("latents of the VAE", relative_error(final, expected), limit)


def check_train(golden: Golden, case: dict):
    """Pusa V0.5's step: clips without normalisation in, the normalised difference as the target."""
    name, source = case["name"], open_tensors(golden.weights())
    config = config_from_source(source)
    recipe = Recipe(
        family=MOCHI,
        dit=config,
        adapter=None,
        objective=ObjectiveConfig(weighting="none"),
        statistics=(LATENT_MEAN, LATENT_STD),
        optimizer=OptimizerConfig(learning_rate=1e-5),
        steps=10,
    )
    params = load(source, original_rules(config), model_shapes(recipe))
    raw, noise = (to_house_layout(golden.tensor(f"in.{name}.{x}")) for x in ("z_0", "noise"))
    mean, std = np.asarray([LATENT_MEAN, LATENT_STD], np.float32)
    drawn = level_table(LevelConfig(schedule="linear_quadratic", rounding="none"))
    levels = drawn.at(jnp.asarray(golden.tensor(f"in.{name}.step_index")))
    text = text_of(golden, name)
    text = np.zeros_like(text) if case["caption_dropped"] else text
    clean = jnp.asarray((np.asarray(raw) - mean) / std)
    task = noised_batch_at(clean, noise, levels, jnp.asarray(text), recipe.statistics)

    def recorded(what):
        return golden.tensor(f"out.{name}.{what}")

    yield Comparison("sigma", relative_error(levels.sigmas, recorded("sigma")), 2e-6)

    @jax.jit
    def step(params):
        return jax.value_and_grad(lambda p: loss_of(recipe, p, {}, task), has_aux=True)(params)

    @jax.jit
    def predict(params):
        dit = network(recipe, params, {})
        return dit(task.noised, levels.timesteps, dit.prepare_text(task.text))

    predicted = from_house_layout(predict(params))
    yield Comparison("prediction", relative_error(predicted, recorded("pred")), DIT_LIMIT)
    (loss, _), grads = step(params)
    yield Comparison("loss", relative_error(loss, recorded("loss")), LOSS_LIMIT)
    for theirs, grad in dump(grads, original_rules(config)):
        if golden.has(f"out.{name}.gradnorm.{theirs}"):
            norm = np.linalg.norm(grad.astype(np.float64))
            error = relative_error(norm, recorded(f"gradnorm.{theirs}"))
            yield Comparison(f"norm of the gradient of {theirs}", error, GRADIENT_LIMIT)
        if golden.has(f"out.{name}.grad.{theirs}"):
            error = relative_error(grad, recorded(f"grad.{theirs}"))
            yield Comparison(f"gradient of {theirs}", error, GRADIENT_LIMIT)
    if golden.has(f"out.{name}.adamw_losses"):
        losses, ours = recorded("adamw_losses"), []
        state = fresh_state(params, recipe.optimizer, recipe.steps, jax.random.key(0))
        update = jax.jit(
            lambda state, grads: apply_gradients(state, grads, recipe.optimizer, recipe.steps)
        )
        for _ in losses:
            (loss, _), grads = step(state.params)
            ours.append(float(loss))
            state, _ = update(state, grads)
        error = relative_error(np.asarray(ours), losses)
        yield Comparison("losses of AdamW steps", error, LOSS_LIMIT)


CHECKS = {
    "mochi_train": check_train,
    "mochi_dit": check_dit,
    "mochi_vae": check_vae,
    "mochi_vae_tiled": check_tiled,
    "mochi_schedule": check_schedule,
    "mochi_trace": check_trace,
}
"""Kind -> check."""
