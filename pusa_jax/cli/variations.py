"""`pusa-jax rerun`: what may differ from the first run, and other settings for a variation."""

import argparse
import dataclasses
from collections.abc import Mapping
from typing import Any

SETTINGS = {
    "seed": (int, "of the noise"),
    "num_inference_steps": (int, "steps"),
    "cfg_scale": (float, "guidance scale; 1 is off"),
    "shift": (float, "shift of the noise schedule"),
    "height": (int, "pixels"),
    "width": (int, "pixels"),
    "num_frames": (int, "4k+1"),
    "fps": (int, "frames per second of the file"),
}
"""Flag -> what it takes and what it is."""

FIELDS = {"num_inference_steps": "num_steps", "cfg_scale": "guidance_scale"}
"""Flags whose field of `SamplingConfig` has another name."""


def add_variation_flags(sub: argparse.ArgumentParser) -> None:
    """Adds the flags that change a job."""
    group = sub.add_argument_group("settings in place of those in the video, for a variation")
    group.add_argument("--prompt", help="what happens")
    group.add_argument("--negative_prompt", help="what should not happen")
    for flag, (kind, text) in SETTINGS.items():
        group.add_argument(f"--{flag}", type=kind, help=text)


def varied_job(job: Any, args: argparse.Namespace) -> Any:
    """The job with what the flags say, if anything."""
    given = {
        FIELDS.get(flag, flag): value
        for flag in SETTINGS
        if (value := getattr(args, flag)) is not None
    }
    texts = {
        name: value
        for name in ("prompt", "negative_prompt")
        if (value := getattr(args, name)) is not None
    }
    return dataclasses.replace(job, **texts, settings=dataclasses.replace(job.settings, **given))


def what_differs(record: Mapping[str, Any], again: Mapping[str, Any]) -> list[str]:
    """What may be why two runs of a job do not agree to the last bit, in words."""
    names = {"pusa_jax": "pusa_jax", "jax": "jax", "backend": "device", "mesh": "mesh"}
    return [
        f"{word} {record[name]} then, {again.get(name)} now"
        for name, word in names.items()
        if name in record and record[name] != again.get(name)
    ]
