"""Pusa in JAX: video diffusion with one timestep per latent frame.

    import pusa_jax as pj

    pipe = pj.PusaPipeline.from_pretrained("Wan2.1-T2V-14B", lora=[("PusaV1/pusa_v1.pt", 1.4)])
    image = pj.fit(pj.read_image("photo.jpg"), 480, 832, "crop")
    settings = pj.SamplingConfig(height=480, width=832)
    result = pipe("a cat", conditions=pj.tasks.image_to_video(image), settings=settings)
    pj.write_video("cat.mp4", result.frames, settings.fps, result.settings)

Names are looked up when they are first used, so that importing the package costs nothing.
"""

TYPE_CHECKING = False  # as type checkers know it; `typing` itself takes a command's first moments

if TYPE_CHECKING:
    from pusa_jax.diffusion import tasks as tasks
    from pusa_jax.diffusion.conditioning import FrameCondition as FrameCondition
    from pusa_jax.diffusion.config import SamplingConfig as SamplingConfig
    from pusa_jax.diffusion.tasks import Condition as Condition
    from pusa_jax.inference.clips import Clip as Clip
    from pusa_jax.inference.pipeline import Expert as Expert
    from pusa_jax.inference.pipeline import Output as Output
    from pusa_jax.inference.pipeline import PusaPipeline as PusaPipeline
    from pusa_jax.media.video import fit as fit
    from pusa_jax.media.video import read_image as read_image
    from pusa_jax.media.video import read_video as read_video
    from pusa_jax.media.video import write_video as write_video

__version__ = "0.1.0"

_HOMES = {
    "Clip": "inference.clips",
    "Condition": "diffusion.tasks",
    "Expert": "inference.pipeline",
    "FrameCondition": "diffusion.conditioning",
    "Output": "inference.pipeline",
    "PusaPipeline": "inference.pipeline",
    "SamplingConfig": "diffusion.config",
    "fit": "media.video",
    "read_image": "media.video",
    "read_video": "media.video",
    "tasks": "diffusion",
    "write_video": "media.video",
}
"""Public name -> the module it lives in."""

__all__ = [*sorted(_HOMES), "__version__"]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> object:
    import importlib

    if name not in _HOMES:
        raise AttributeError(f"pusa_jax has no {name!r}; it has {', '.join(__all__)}.")
    if name == "tasks":
        return importlib.import_module("pusa_jax.diffusion.tasks")
    return getattr(importlib.import_module(f"pusa_jax.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
