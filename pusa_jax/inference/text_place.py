"""Where the text encoder of a pipeline is between prompts."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from flax import nnx

from pusa_jax.inference.experts import waiting, working

Place = Literal["devices", "host", "files", "nowhere"]

PLACES: dict[Place, str] = {
    "devices": "stays on the devices, beside the denoisers",
    "host": "waits in the host's memory and is copied to the devices for new prompts",
    "files": "is read anew for new prompts: neither devices nor host have room to keep it",
    "nowhere": "is not there: prompts are numbers of classes",
}
"""Where the text encoder is between prompts, in words."""


def free_on_host() -> int:
    """Bytes of this machine's memory that nothing uses; 0 where it does not say."""
    info = Path("/proc/meminfo")
    lines = info.read_text("utf-8").splitlines() if info.is_file() else []
    found = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return 1024 * int(found[0]) if found else 0


def kept(load: Callable[[], nnx.Module], place: Place) -> Callable[[], nnx.Module | None]:
    """A text encoder that is called for when a new prompt is met; None where there is none.

    Args:
      load: reads it to the devices.
      place: where it is kept, if it is.
    """
    here: list[nnx.Module] = []

    def encoder() -> nnx.Module | None:
        if place == "nowhere":
            return None
        if place == "files":
            return load()
        if not here:
            here.append(load() if place == "devices" else waiting(load()))
        return here[0] if place == "devices" else working(here[0])

    return encoder
