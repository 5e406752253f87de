"""FVDM's networks against the recorded outputs of FVDM's, Latte's and Diffusers' code."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from golden import Comparison, Golden, remembered

from pusa_jax.convert.files.open import open_tensors
from pusa_jax.convert.latte import dit as dit_tables
from pusa_jax.convert.latte import vae as vae_tables
from pusa_jax.convert.tables import load
from pusa_jax.diffusion.guidance import guided
from pusa_jax.models.latte import vae
from pusa_jax.models.latte.dit import LatteVideo
from pusa_jax.testing.compare import relative_error
from pusa_jax.weights.leaves import assemble, shapes_of

DIT_LIMIT = 5e-6
VAE_LIMIT = 5e-5


def frames_last(x: np.ndarray) -> jnp.ndarray:
    """[B, F, C, H, W] as FVDM holds clips -> [B, F, H, W, C]."""
    return jnp.moveaxis(jnp.asarray(x), 2, -1)


@remembered
def load_dit(golden: Golden) -> LatteVideo:
    """The DiT of a file, whose settings say how many heads there are."""
    source = open_tensors(golden.weights())
    config = dit_tables.config_from_source(source, golden.config)

    def build():
        return LatteVideo(config, rngs=nnx.Rngs(0))

    return assemble(build, load(source, dit_tables.original_rules(config), shapes_of(build)))


@jax.jit
def prediction(dit, latents, timesteps, labels):
    return dit(latents, timesteps, dit.prepare(labels))


@jax.jit
def guided_noise(dit, latents, timesteps, labels, scale):
    """Labels are those of the clips and then of what guidance leads away from."""

    def noise(latents, timesteps, label):
        return dit(latents, timesteps, label)[..., : latents.shape[-1]]

    texts = jnp.stack(jnp.split(dit.prepare(labels), 2))
    return guided(noise, texts, scale)(latents, timesteps)


def check_dit(golden: Golden, case: dict):
    name = case["name"]
    inputs = case.get("inputs_of", name)
    dit, expected = load_dit(golden), frames_last(golden.tensor(f"out.{name}.v"))
    latents = frames_last(golden.tensor(f"in.{inputs}.x"))
    timesteps = jnp.asarray(golden.tensor(f"in.{inputs}.t"), jnp.float32)
    clips = len(latents)
    has_labels = golden.has(f"in.{inputs}.y")
    labels = golden.tensor(f"in.{inputs}.y") if has_labels else np.zeros(clips)
    labels = jnp.asarray(labels, jnp.float32).reshape(-1, 1, 1)
    if "cfg_scale" in case:
        half, scale = clips // 2, jnp.float32(case["cfg_scale"])
        ours = guided_noise(dit, latents[:half], timesteps[:half], labels, scale)
        for which, rows in (("prompt", expected[:half]), ("null label", expected[half:])):
            error = relative_error(ours, rows[..., :4])
            yield Comparison(f"guided noise, half of the {which}", error, DIT_LIMIT)
        latents = jnp.concatenate([latents[:half], latents[:half]])  # the rest is never read
        ours = prediction(dit, latents, timesteps, labels)[..., 4:]
        yield Comparison("variance", relative_error(ours, expected[..., 4:]), DIT_LIMIT)
        return
    ours = prediction(dit, latents, timesteps, labels)
    limit = 1.05 * case.get("rel_diff_to_float32", DIT_LIMIT / 1.05)
    yield Comparison("noise and variance", relative_error(ours, expected), limit)
    if golden.has(f"out.{name}.latte_v"):
        expected = frames_last(golden.tensor(f"out.{name}.latte_v"))
        yield Comparison("Latte's own", relative_error(ours, expected), DIT_LIMIT)
        ours = prediction(dit, latents, timesteps[:, :1], labels)
        yield Comparison("Latte's own, per clip", relative_error(ours, expected), DIT_LIMIT)


@remembered
def load_vae(golden: Golden) -> vae.FrameVAE:
    source = open_tensors(golden.weights())
    config = vae_tables.config_from_source(source, golden.config)

    def build():
        return vae.FrameVAE(config, rngs=nnx.Rngs(0))

    return assemble(build, load(source, vae_tables.diffusers_rules(config), shapes_of(build)))


MOMENTS, ENCODE, DECODE = map(jax.jit, (vae.moments, vae.encode_first, vae.decode_first))


def pictures_last(x: np.ndarray) -> jnp.ndarray:
    """[F, C, H, W] -> a clip [1, F, H, W, C]."""
    return jnp.moveaxis(jnp.asarray(x), 1, -1)[None]


def check_vae(golden: Golden, case: dict):
    model, name = load_vae(golden), case["name"]

    def recorded(what):
        return pictures_last(golden.tensor(what))

    if name == "dec":
        image, _ = DECODE(model, recorded("in.dec.latent"))
        yield Comparison("image", relative_error(image, recorded("out.dec.image")), VAE_LIMIT)
        written = np.clip((np.asarray(image[0]) * 0.5 + 0.5) * 255 + 0.5, 0, 255).astype(np.uint8)
        gap = written.astype(int) - golden.tensor("out.dec.frames_u8")
        yield Comparison("frames", float(np.abs(gap).max()), 1, "grey levels")
        return
    video, scale = recorded("in.enc.video"), golden.config["scaling_factor"]
    mean, log_variance = MOMENTS(model, video)
    yield Comparison("mean", relative_error(mean, recorded("out.enc.mean")), VAE_LIMIT)
    error = relative_error(log_variance, recorded("out.enc.logvar"))
    yield Comparison("log variance", error, VAE_LIMIT)
    drawn = (mean + jnp.exp(log_variance / 2) * recorded("in.enc.noise")) * scale
    yield Comparison("a draw", relative_error(drawn, recorded("out.enc.latent")), VAE_LIMIT)
    latents, _ = ENCODE(model, video)
    error = relative_error(latents, recorded("out.enc.mean") * scale)
    yield Comparison("latents", error, VAE_LIMIT)


CHECKS = {"fvdm_dit": check_dit, "sd_vae": check_vae}
"""Kind -> check."""
