"""Several processes that run one program together: how one joins the others, and which one writes.

Every process runs the same code on the same inputs and holds the same results on its host; arrays
on the mesh lie on the devices of all. Only the first process writes files and talks.
"""

import os
from collections.abc import Mapping

import jax
import numpy as np
from jax.experimental import multihost_utils

EXPLICIT = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
"""Variables that say it outright: host:port of the first process, how many there are, which one."""


def is_one_of_several(environment: Mapping[str, str]) -> bool:
    """Whether the environment says that this process belongs to a group.

    That is: `EXPLICIT`, a Slurm step or an Open MPI run of several tasks, several workers of a TPU
    slice, or an indexed Kubernetes job.

    Raises:
      ValueError: `EXPLICIT` is incomplete or holds no numbers.
    """
    given = [name for name in EXPLICIT if environment.get(name)]
    if given:
        lacking = [name for name in EXPLICIT if name not in given]
        numbers = [environment.get(name, "") for name in EXPLICIT[1:]]
        if lacking or not all(number.isdecimal() for number in numbers):
            raise ValueError(
                f"{', '.join(EXPLICIT)} must be set together, as in host:1234, 2 and 0; "
                f"got {', '.join(f'{name}={environment[name]}' for name in given)}."
            )
        return True
    slurm = "SLURM_STEP_NODELIST" in environment and environment.get("SLURM_NTASKS", "1") != "1"
    mpi = environment.get("OMPI_COMM_WORLD_SIZE", "1") != "1"
    tpu = "," in environment.get("TPU_WORKER_HOSTNAMES", "")
    slices = bool(environment.get("MEGASCALE_COORDINATOR_ADDRESS"))
    pod = "KUBERNETES_SERVICE_HOST" in environment and "JOB_COMPLETION_INDEX" in environment
    return slurm or mpi or tpu or slices or pod


PATIENCE = 300
"""Seconds that processes wait for each other when they start."""


def join(heartbeat_timeout_seconds: int = 100) -> None:
    """Joins the other processes if the environment says that there are any.

    To be called before jax looks for devices; a second call does nothing. Commands call
    `peers.join`, which watches as well.

    Args:
      heartbeat_timeout_seconds: after which a process that gives no sign of life is dead.

    Raises:
      ValueError: see `is_one_of_several`; or jax cannot tell from the environment who the others
        are.
      RuntimeError: the others were not found in time.
    """
    if jax.distributed.is_initialized() or not is_one_of_several(os.environ):
        return
    address, count, index = (os.environ.get(name) for name in EXPLICIT)
    is_said = address and count and index
    jax.distributed.initialize(
        address if is_said else None,
        int(count) if is_said and count else None,
        int(index) if is_said and index else None,
        initialization_timeout=PATIENCE,
        heartbeat_timeout_seconds=heartbeat_timeout_seconds,
    )


def have_joined() -> bool:
    """Whether this process is one of several; looks for no devices."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def is_first() -> bool:
    """Whether this is the process that writes and talks."""
    return jax.process_index() == 0


def wait_for_all(what: str) -> None:
    """Returns when every process has called this; `what` tells one meeting from another."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)


def agree_on(number: int) -> int:
    """The first process's number, below 2**31, in every process."""
    if jax.process_count() == 1:
        return number
    return int(multihost_utils.broadcast_one_to_all(np.int32(number)))


def largest(number: int) -> int:
    """The largest of all processes' numbers, below 2**31, in every process."""
    if jax.process_count() == 1:
        return number
    return int(multihost_utils.process_allgather(np.int32(number)).max())


def gathered(array: np.ndarray) -> np.ndarray:
    """The arrays of all processes, of one shape and type, stacked in the order of the processes.

    Bits stay as they are: jax itself would round float64.
    """
    if jax.process_count() == 1:
        return array[None]
    bits = np.frombuffer(array.tobytes(), np.uint8)
    found = np.asarray(multihost_utils.process_allgather(bits))
    return np.frombuffer(found.tobytes(), array.dtype).reshape(-1, *array.shape)
