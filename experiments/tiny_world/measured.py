"""A model folder measured: the autoencoder alone, and every task with and without the adapters."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from experiments.tiny_world import evaluate
from experiments.tiny_world.codec import Codec
from experiments.tiny_world.evaluate import Model, Sampling, measure
from pusa_jax.convert.folders.lora_files import LoRAs
from pusa_jax.convert.foreign import LORA_FILE
from pusa_jax.demo.world import World
from pusa_jax.inference.loading import load_module, open_model
from pusa_jax.inference.text_encoder import TextEncoder

TASKS = {
    "text-to-video": evaluate.TEXT_TO_VIDEO,
    "image-to-video": evaluate.IMAGE_TO_VIDEO,
    "start-end": evaluate.START_END,
    "extension": evaluate.EXTENSION,
}


def load(folder: Path, loras: LoRAs = ()) -> Model:
    """The models of a published folder, adapters merged.

    Raises:
      FileNotFoundError, ValueError: one line saying what is missing or wrong.
    """
    model = open_model(folder, loras)
    codec, encoder = Codec(folder), TextEncoder(model.folder, "float32")
    dit: Any = load_module(model, "dit", "float32")
    length = dit.config.text_len

    @functools.cache
    def text(caption: str) -> np.ndarray:
        features = encoder(caption)
        return np.pad(features, ((0, length - len(features)), (0, 0)))

    return Model(dit=dit, encode=codec.encode, decode=codec.decode, text=text)


def report(
    folder: Path,
    world: World,
    count: int,
    sampling: Sampling,
    on_result: Callable[[str, dict[str, float]], None] = lambda name, found: None,
) -> dict[str, Any]:
    """Measures base and adapters on every task.

    Args:
      folder: published; the adapters lie in it.
      world: whose captions are asked for.
      count: clips per task.
      sampling: how.
      on_result: told about each.
    """
    found: dict[str, Any] = {"count": count, "steps": sampling.num_steps}
    models: dict[str, LoRAs] = {"base": ()}
    if (folder / LORA_FILE).is_file():
        models["pusa"] = ((folder / LORA_FILE, 1.0),)
    for name, loras in models.items():
        model = load(folder, loras)
        for task, given in TASKS.items():
            result = measure(model, world, given, count, sampling)
            found[f"{task}, {name}"] = result
            on_result(f"{task}, {name}", result)
    return found
