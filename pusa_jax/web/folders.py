"""The folders that the page may read and write, and the one place where its names become paths.

A name comes from a browser: it counts only if it is one of those that were offered.
"""

import dataclasses
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from pusa_jax.listing import listed

TINY = "tiny"
"""The model that comes along, `inference.packaged.NAME`, whose module imports JAX."""

LORAS = "loras"
"""Folder of LoRA files below that of the models; they may also lie beside the models."""

LORA_ENDINGS = (".safetensors", ".pt", ".pth", ".ckpt")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Folders:
    """Where things are.

    Attributes:
      output: results, and below `inputs` what was uploaded for them.
      uploads: where the server puts what a browser sends.
      models: models and LoRA files that are offered; None offers the tiny model alone.
    """

    output: Path
    uploads: Path
    models: Path | None = None

    def model_names(self) -> list[str]:
        """The tiny model and the folders below `models`."""
        return [TINY, *(path.name for path in self._below("") if path.is_dir())]

    def lora_names(self) -> list[str]:
        """LoRA files, beside the models and in their folder `loras`."""
        found = [*self._below(""), *self._below(LORAS)]
        files = [p for p in found if p.is_file() and p.suffix.lower() in LORA_ENDINGS]
        return [path.relative_to(str(self.models)).as_posix() for path in files]

    def result_names(self) -> list[str]:
        """Videos that were made, the newest first."""
        files = [p for p in self.output.glob("*.mp4") if is_inside(p, self.output)]
        return [p.name for p in sorted(files, key=lambda p: (-p.stat().st_mtime_ns, p.name))]

    def model(self, name: str) -> str:
        """The path of a model, or the name of the tiny one; ValueError if it is not offered."""
        _check("model", name, names := self.model_names())
        return name if name == names[0] else str(Path(str(self.models), name))

    def lora(self, name: str) -> str:
        """The path of a LoRA file; ValueError if it is not offered."""
        _check("LoRA file", name, self.lora_names())
        return str(Path(str(self.models), name))

    def result(self, name: str) -> Path:
        """The path of a video that was made; ValueError if there is none of this name."""
        _check("result", name, self.result_names())
        return self.output / name

    def taken(self, path: str, look: Callable[[Path], str]) -> str:
        """Where an uploaded file lies from now on, so that its video can be made again.

        Args:
          path: of the upload.
          look: raises ValueError for a file that is not of the right kind, before it is kept.

        Raises:
          ValueError: it is neither an upload nor one that was taken earlier.
        """
        from pusa_jax.files import fingerprints  # imports JAX

        inputs = self.output / "inputs"
        if is_inside(path, inputs):
            return os.path.realpath(path)
        if not is_inside(path, self.uploads):
            raise ValueError(f"{path!r:.80} was not uploaded; drop the file on the timeline.")
        look(Path(path))
        name = fingerprints.of_file(path)[: fingerprints.SHORT] + Path(path).suffix.lower()
        inputs.mkdir(parents=True, exist_ok=True)
        if not (inputs / name).exists():
            shutil.copyfile(path, inputs / name)
        return str((inputs / name).resolve())

    def _below(self, folder: str) -> list[Path]:
        """What lies in a folder of `models`, sorted; links that lead out of it are left out."""
        if self.models is None or not (place := self.models / folder).is_dir():
            return []
        shown = (p for p in sorted(place.iterdir()) if not p.name.startswith(".") and p != place)
        return [p for p in shown if is_inside(p, self.models) and p.name != LORAS]


def is_inside(path: str | Path, folder: Path) -> bool:
    """Whether a path is there and, all links followed, lies below a folder."""
    real = Path(os.path.realpath(path))
    return real.exists() and Path(os.path.realpath(folder)) in real.parents


def _check(what: str, name: str, names: list[str]) -> None:
    if name not in names:
        raise ValueError(f"there is no {what} {name!r:.80} here; there are {listed(names)}.")
