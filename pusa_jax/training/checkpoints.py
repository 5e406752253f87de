"""The checkpoints of a training run, written in the background by Orbax."""

import contextlib
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import orbax.checkpoint as ocp

from pusa_jax.devices import processes
from pusa_jax.files.sums import is_damaged, signed
from pusa_jax.training import checksums

_TRASH = ".trash"
"""Where Orbax moves old checkpoints, inside the folder of all."""

_UNREADABLE = Exception
"""What reading files may raise that are not as they were written: Orbax raises Exception itself."""

SUMS = "sums"
"""Entry of the plain values that has the checksums of all arrays; versions up to 0.2 had none."""


class RunCheckpoints:
    """The checkpoints of one run, each complete or not there.

    A checkpoint is a folder named after its step. Orbax writes it under another name and renames it
    when all of it is on disk; old ones are moved away before they are deleted. So a process killed
    at any moment leaves complete checkpoints only, the last of them no older than the last save
    that had ended. With it go checksums of all arrays, against which they are held when they are
    read again.
    """

    def __init__(self, folder: Path, *, keep_last: int, keep_every: int = 0):
        """Opens or creates the folder and removes what a killed process left unfinished.

        Args:
          folder: of all checkpoints of the run.
          keep_last: how many of the newest are kept; 0 only reads and changes nothing.
          keep_every: checkpoints of multiples of so many steps are kept as well; 0 for none.
        """
        self._folder = folder.absolute()
        options = ocp.CheckpointManagerOptions(read_only=True)
        if keep_last:
            options = ocp.CheckpointManagerOptions(
                max_to_keep=keep_last,
                keep_period=keep_every or None,
                todelete_subdir=_TRASH,
            )
            self._tidy()
        self._manager = ocp.CheckpointManager(
            self._folder, item_names=("state", "info"), options=options
        )

    @property
    def steps(self) -> list[int]:
        """Steps that there are checkpoints of, in order."""
        return sorted(int(entry.name) for entry in self._folder.iterdir() if entry.name.isdigit())

    def save(self, step: int, state: Any, info: Mapping[str, Any]) -> None:
        """Starts to save; the state may be donated as soon as this returns.

        Args:
          step: later than the last one saved.
          state: tree of arrays.
          info: what else is to be kept, as plain values.

        Raises:
          OSError: this or the save before could not be written; what was there before stays.
        """
        self.wait()
        known = signed(dict(info) | {SUMS: checksums.of_tree(state)})
        with self._named_errors(step):
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state), info=ocp.args.JsonSave(known)
                ),
                force=True,
            )

    def wait(self) -> None:
        """Waits until nothing is being saved.

        Raises:
          OSError: the last save could not be written.
        """
        with self._named_errors(None):
            self._manager.wait_until_finished()
        self._tidy()

    def _tidy(self) -> None:
        """Removes what is no checkpoint; to be called when nothing is being saved."""
        if processes.is_first():
            for remains in (self._folder / _TRASH, *self._folder.glob("*.orbax-checkpoint-tmp*")):
                shutil.rmtree(remains, ignore_errors=True)

    @contextlib.contextmanager
    def _named_errors(self, step: int | None) -> Iterator[None]:
        # Orbax hands on what its storage raises: ValueError for a full disk, among others.
        try:
            yield
        except (OSError, ValueError, RuntimeError) as error:
            self._tidy()
            what = "a checkpoint" if step is None else f"the checkpoint of step {step}"
            reason = " ".join(str(error).split())
            if len(reason) > 160:  # the system's own words are at the end
                reason = "... " + reason[-160:].partition(" ")[2]
            raise OSError(
                f"{what} could not be saved in {self._folder}; "
                f"the last complete one is of step {max(self.steps, default='none')}: "
                f"{reason}"
            ) from None

    def info(self, step: int) -> dict[str, Any]:
        """The plain values saved with a checkpoint.

        Raises:
          ValueError: they are damaged.
        """
        args = ocp.args.Composite(info=ocp.args.JsonRestore())
        try:
            info = self._manager.restore(step, args=args)["info"]
        except _UNREADABLE as error:
            raise self._damaged(step, error) from None
        if not isinstance(info, dict) or is_damaged(info):
            raise self._damaged(step, "its settings are not as they were saved")
        if not isinstance(info.get(SUMS, {}), dict):
            raise self._damaged(step, "its checksums are no table")
        return info

    def restore(self, step: int, abstract: Any) -> Any:
        """Reads the state of a checkpoint and makes sure that it is what was saved.

        Args:
          step: one of `steps`.
          abstract: tree of `jax.ShapeDtypeStruct` with shardings, which need not be those of the
            run that saved it.

        Raises:
          ValueError: the checkpoint holds other arrays, or is damaged.
        """
        saved = self.info(step).get(SUMS)
        if saved is not None:
            kinds = {path: str(text).partition(" ")[0] for path, text in saved.items()}
            if odd := checksums.differing(kinds, checksums.descriptions(abstract)):
                raise self._of_another_run(step, f"they differ in {', '.join(odd)}")
        args = ocp.args.Composite(state=ocp.args.StandardRestore(abstract))
        try:
            state = self._manager.restore(step, args=args)["state"]
        except _UNREADABLE as error:
            if saved is None and isinstance(error, ValueError | KeyError):
                raise self._of_another_run(step, error) from None
            raise self._damaged(step, error) from None
        if saved and (odd := checksums.differing(saved, checksums.of_tree(state))):
            raise self._damaged(step, f"{len(odd)} arrays have changed, first {odd[0]}")
        return state

    def restore_leaves(self, step: int, field: str) -> Iterator[tuple[str, np.ndarray]]:
        """Reads one field of the state, a flat dictionary, to the host, leaf by leaf.

        Raises:
          ValueError: the checkpoint is damaged.
        """
        folder, saved = self._folder / str(step) / "state", self.info(step).get(SUMS)
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
            try:
                found = reader.metadata(folder).item_metadata[field]
                paths = list(found)
            except _UNREADABLE as error:
                raise self._damaged(step, error) from None
            for path in paths:
                args = ocp.args.PyTreeRestore(
                    item={field: {path: found[path]}},
                    restore_args={field: {path: ocp.RestoreArgs(restore_type=np.ndarray)}},
                    partial_restore=True,
                )
                try:
                    leaf = np.asarray(reader.restore(folder, args=args)[field][path])
                except _UNREADABLE as error:
                    raise self._damaged(step, error) from None
                if saved and saved.get(f"{field}/{path}") != checksums.of_array(leaf):
                    raise self._damaged(step, f"{field}/{path} has changed")
                yield path, leaf

    def _of_another_run(self, step: int, reason: object) -> ValueError:
        return ValueError(
            f"the checkpoint in {self._folder / str(step)} holds other arrays than this run: "
            f"{_short(reason)}"
        )

    def _damaged(self, step: int, reason: object) -> ValueError:
        """What is said of a checkpoint that cannot be read, with the one to go on from instead."""
        older = [other for other in self.steps if other < step]
        return ValueError(
            f"the checkpoint in {self._folder / str(step)} is damaged ({_short(reason)}); remove "
            f"that folder to {f'go on from step {older[-1]}' if older else 'begin anew'}."
        )

    def close(self) -> None:
        """Waits until nothing is being saved, then lets go of the folder; raises as `wait`."""
        try:
            with self._named_errors(None):
                self._manager.close()
        finally:
            self._tidy()


def _short(reason: object) -> str:
    """One line of what a library has to say; of errors behind errors the first."""
    while isinstance(reason, Exception) and reason.__cause__ is not None:
        reason = reason.__cause__
    text = " ".join(str(reason).split())
    return (text or type(reason).__name__)[:200]
