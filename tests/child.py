"""Trains the small run in a process of its own: child.py WORKDIR DEVICES WHAT_HAPPENS.

die:14    it kills itself behind step 14
full:3    from step 3 on no file can grow beyond some kilobytes, as on a full disk
term:5    the last process of a group gets a SIGTERM behind step 5; steps are slow from there on
saves     it saves behind every step, and goes on until it is killed
"""

import os
import resource
import signal
import sys
import time
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"

import jax

if __name__ == "__main__":
    workdir, devices, (event, _, at) = sys.argv[1], int(sys.argv[2]), sys.argv[3].partition(":")
    jax.config.update("jax_num_cpu_devices", devices)
    jax.config.update("jax_default_matmul_precision", "highest")

    from small import CheckpointConfig, noise_clips, settings

    from pusa_jax.devices import processes
    from pusa_jax.training.loop import train

    processes.join()
    every = {"die": 10, "full": 2, "term": 100, "saves": 1}[event]
    steps = 10_000 if event == "saves" else 20
    run = settings(checkpoint=CheckpointConfig(every=every), steps=steps)

    def on_step(step, steps, record):
        print(step, flush=True)
        if event == "term" and step >= int(at):
            if step == int(at) and jax.process_index():
                os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)  # the others learn of it in the background, however busy the machine is
            return
        if event == "saves" or step != int(at):
            return
        while not (Path(workdir) / "checkpoints" / str(step // every * every)).exists():
            time.sleep(0.01)
        if event == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        resource.setrlimit(resource.RLIMIT_FSIZE, (8_000, 8_000))

    try:
        train(run, noise_clips(run), Path(workdir), on_step)
    except OSError as error:
        sys.exit(f"{type(error).__name__}: {error}")
