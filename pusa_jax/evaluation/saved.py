"""Statistics of real clips in a file, so that others need not have the clips."""

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pusa_jax.evaluation.frechet import Statistics
from pusa_jax.files.atomic import replacing


def write_statistics(path: Path, found: Statistics, settings: Mapping[str, Any]) -> None:
    """Writes statistics, and of what they are, as npz.

    Raises:
      OSError: it cannot be written.
    """
    with replacing(path) as part, part.open("wb") as file:
        np.savez(
            file,
            count=np.int64(found.count),
            total=found.total,
            products=found.products,
            settings=np.asarray(json.dumps(settings)),
        )


def read_statistics(path: Path, settings: Mapping[str, Any]) -> Statistics:
    """Reads statistics that were written with the same settings.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it holds something else, or statistics with other settings; says which differ.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            there = json.loads(str(file["settings"]))
            count, total, products = int(file["count"]), file["total"], file["products"]
            is_whole = (
                count > 0
                and total.ndim == 1
                and products.shape == 2 * total.shape
                and total.dtype == products.dtype == np.float64
                and bool(np.isfinite(products).all() and np.isfinite(total).all())
            )
            if not is_whole or not isinstance(there, dict):
                raise ValueError("its arrays are of other shapes")
    except FileNotFoundError:
        raise
    except (OSError, LookupError, TypeError, ValueError, zipfile.BadZipFile, EOFError):
        raise ValueError(
            f"{path} holds no statistics of clips; give a new name, or remove the file."
        ) from None
    odd = [
        f"{name} is {there.get(name)!r:.40} there and {value!r:.40} here"
        for name, value in settings.items()
        if there.get(name) != value
    ]
    if odd:
        raise ValueError(
            f"{path} holds statistics of other clips: {', '.join(odd)}; give a new name."
        )
    return Statistics(count=count, total=total, products=products)
