"""Memory of a clip in many pieces: `python -m experiments.reliability.chain`.

Prints the resident memory after each piece of a clip that a tiny FVDM with random weights makes.
"""

import argparse
import dataclasses
import tempfile
from pathlib import Path
from typing import Any

from experiments.reliability.memory import resident
from pusa_jax.inference.pipeline import PusaPipeline
from pusa_jax.inference.settings import Configs
from pusa_jax.testing.latte import DIT, write_latte

FRAMES, OVERLAP, STEPS = 16, 8, 4


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pieces", type=int, default=15)
    parser.add_argument("--cells", type=int, default=32, help="of 8 pixels, a side of a frame")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        grid = args.cells // 2, args.cells // 2
        sizes: dict[str, Any] = {"num_layers": 2, "num_frames": FRAMES, "grid": grid}
        write_latte(Path(folder), config=dataclasses.replace(DIT, **sizes))
        pipe = PusaPipeline.from_pretrained(folder, dtype="float32")
    fitted = Configs(dit=pipe.config, vae=pipe.autoencoder.config).fitted(pipe.family)
    frames = FRAMES + (args.pieces - 1) * (FRAMES - OVERLAP)
    settings = dataclasses.replace(fitted, num_frames=frames, num_steps=STEPS)
    ended: set[int] = set()

    def tell(stage: str, done: int, total: int) -> None:
        piece, rest = divmod(done, STEPS)
        if stage == "denoise" and piece and not rest and piece not in ended:
            ended.add(piece)
            print(f"piece {piece} of {total // STEPS}: {resident():.0f} MB", flush=True)

    pipe("1", settings=settings, overlap=OVERLAP, on_progress=tell)
    print(f"{frames} frames in pixels: {resident():.0f} MB")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
