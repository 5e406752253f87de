"""What each of the processes of test_multiprocess.py runs: `python two_processes.py FOLDER`."""

import json
import sys
from pathlib import Path

import jax
import numpy as np
import tensorstore

from pusa_jax.devices import processes
from pusa_jax.devices.sharding import make_mesh
from pusa_jax.diffusion.config import SamplingConfig
from pusa_jax.inference import jobs
from pusa_jax.inference.pipeline import PusaPipeline
from pusa_jax.weights.leaves import leaves_of
from pusa_jax.weights.store import SavedTree, save_tree

SETTINGS = SamplingConfig(height=32, width=48, num_frames=5, num_steps=2, seed=7, tiled=False)


def job(folder: Path) -> jobs.Job:
    """Two steps with a LoRA on the default mesh."""
    return jobs.Job(
        task="t2v",
        model=str(folder / "model"),
        prompt="a red dog",
        negative_prompt="a blue cat",
        lora=((str(folder / "lora.safetensors"), 0.5),),
        dtype="float32",
        settings=SETTINGS,
    )


def bytes_read_of(folder: Path) -> int:
    """Loads a tree of leaves [layers, in, out] that 8 devices share, and tells what was read."""
    mesh = make_mesh({"data": 2, "context": 4})
    where = jax.NamedSharding(mesh, jax.P(None, ("data", "context")))
    shapes = SavedTree(folder).shapes.items()
    SavedTree(folder).load(
        {p: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=where) for p, s in shapes}
    )
    (metric,) = tensorstore.experimental_collect_matching_metrics(
        "/tensorstore/kvstore/file/bytes_read"
    )
    return metric["values"][0]["value"]


def main(folder: Path) -> None:
    """Samples, saves the video, and saves the weights as they lie."""
    jax.config.update("jax_num_cpu_devices", 4)
    jax.config.update("jax_default_matmul_precision", "highest")
    processes.join()
    index = jax.process_index()
    assert (jax.process_count(), jax.device_count()) == (2, 8)
    assert processes.agree_on(index + 5) == 5
    (folder / f"read{index}.json").write_text(json.dumps(bytes_read_of(folder / "large")))
    result, *_ = jobs.run(jobs.prepare(job(folder), folder / f"{index}.mp4"))
    np.save(folder / f"latents{index}.npy", result.latents)
    pipe = PusaPipeline.from_pretrained(
        folder / "converted", dtype="float32", mesh=make_mesh({"context": 4, "tensor": 2})
    )
    save_tree(folder / "saved", leaves_of(pipe.experts[0].dit).items())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
