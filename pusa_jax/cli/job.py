"""From the flags of a task to the job they ask for."""

import argparse
import dataclasses
import re
import secrets
from collections.abc import MutableMapping
from fractions import Fraction
from typing import Any, get_args

from pusa_jax.cli import weights
from pusa_jax.cli.programs import add_cache_flag
from pusa_jax.diffusion.config import Solver, TeaCache

TASK_HELP = {
    "t2v": "text to video",
    "i2v": "start from an image",
    "start-end": "go from one image to another",
    "interpolate": "pass through several images",
    "complete": "keep parts of a video, fill in the rest",
    "extend": "continue a video",
    "transition": "lead from one video into another",
    "loop": "start and end at the same image",
}
INPUT_FLAGS = {
    "i2v": ("--image_paths", "the image"),
    "start-end": ("--image_paths", "first and last image"),
    "interpolate": ("--image_paths", "two or more images, in order"),
    "complete": ("--video_path", "the video; its frames keep their places"),
    "extend": ("--video_path", "the video; its last frames become the first of the result"),
    "transition": ("--video_path", "the two videos"),
    "loop": ("--image_paths", "the image"),
}
IN_PIECES = ("t2v", "i2v", "extend")
"""Tasks whose frames are given at the beginning, so that a clip may go on for any length."""

GIVEN_FRAMES = {"i2v": 1, "start-end": 2, "interpolate": 2, "complete": 2, "extend": 4, "loop": 2}
"""Task -> latent frames it is given by default, where their multipliers are not 0 already."""

GIVEN = {
    "i2v": ("0", "0.2"),
    "start-end": ("0 and the last", "0.2,0.5"),
    "interpolate": ("evenly spread", "0.2, then 0.5"),
    "complete": ("0 and the last", "0.3,0.3"),
    "extend": ("0,1,2,3", "0,0.3,0.4,0.5"),
    "transition": ("the first three and the last three", "0"),
    "loop": ("0 and the last", "0.2,0.5"),
}
"""Task -> its places and multipliers, where none are asked for."""

EXAMPLES = {
    "t2v": 't2v --prompt "a red circle moves right on black"',
    "i2v": 'i2v --image_paths start.png --prompt "a red circle moves right on black"',
    "start-end": 'start-end --image_paths a.png b.png --prompt "a blue square moves up on white"',
    "interpolate": 'interpolate --image_paths a.png b.png c.png --prompt "..."',
    "complete": 'complete --video_path a.mp4 --prompt "..." --cond_position 0,8',
    "extend": 'extend --video_path a.mp4 --prompt "..." --output longer.mp4',
    "transition": 'transition --video_path a.mp4 b.mp4 --prompt "..."',
    "loop": 'loop --image_paths a.png --prompt "..."',
}
"""Task -> a command line with the tiny model."""


def add_sampling_flags(sub: argparse.ArgumentParser, task: str) -> None:
    """Adds the flags of a task to its parser."""
    sub.epilog = f"example:\n  pusa-jax {EXAMPLES[task]}"
    add = sub.add_argument
    add(
        "--model",
        help="folder: published (original or Diffusers) or converted; or its name on the Hugging "
        "Face Hub, OWNER/NAME[@REVISION]; tiny: the model that comes along, with its own LoRA and "
        "sizes (default: tiny)",
    )
    add("--prompt", help="what happens; may be empty")
    add("--label", help="of a model of classes (FVDM), in place of a prompt: the number of one")
    add("--negative_prompt", help="what should not happen (default: the one Pusa uses)")
    if task in INPUT_FLAGS:
        flag, text = INPUT_FLAGS[task]
        add(flag, nargs="+", required=True, metavar="FILE", help=text)
        places, multipliers = GIVEN[task]
        add(
            "--cond_position",
            type=_integers,
            help=f"places of the given frames, as in 0,20 (default: {places})",
        )
        add(
            "--noise_multipliers",
            type=_numbers,
            help=f"one per given frame, 0 to 1, as in 0.2,0.5 (default: {multipliers})",
        )
        add("--fit", choices=["crop", "letterbox", "stretch"], default="crop", help="bring to size")
        if flag == "--video_path":
            add(
                "--source_fps",
                choices=["model", "keep"],
                default="model",
                help="bring clips to the model's frame rate, or take them frame by frame",
            )
    if task in IN_PIECES:
        add(
            "--overlap",
            type=int,
            metavar="M",
            help="make a clip of any length in pieces, each of which begins with the last M latent "
            "frames of the one before (FVDM; 8 in its paper; default: in one piece)",
        )
    if task == "extend":
        add("--clip_start", type=int, help="first frame used (default: the video's last frames)")
    if task == "transition":
        add(
            "--joined",
            action="store_true",
            help="encode the beginnings of both videos as one clip, as Pusa V0.5 does (default: "
            "the end of the first, the beginning of the second)",
        )
    weights.add_lora_flags(sub)
    add(
        "--preset",
        choices=["pusa", "official"],
        default="pusa",
        help="defaults of all that follows: Pusa's, which are listed, or the base model's, which "
        "keep given frames exactly (multipliers 0)",
    )
    add(
        "--fast",
        action="store_true",
        help="4 steps without guidance, for a LightX2V LoRA; Mochi: 8 steps; FVDM has none",
    )
    add("--num_inference_steps", type=int, help="(default: 30; FVDM: 50; tiny model: 10)")
    add(
        "--cfg_scale",
        type=float,
        help="guidance; 1 is off (default: 3.0; Mochi: 4.5; FVDM: 7.0; tiny model: 2.0)",
    )
    add("--low_cfg_scale", type=float, help="of the low-noise expert (default: as --cfg_scale)")
    add(
        "--switch_DiT_boundary",
        type=float,
        metavar="LEVEL",
        help="noise level, 0 to 1, below which the low-noise expert takes over (default: the "
        "model's, 0.875)",
    )
    add(
        "--guidance_until",
        type=float,
        metavar="SHARE",
        help="guide only the first part of the steps, 0 to 1; each of the others costs half "
        "(default: 1.0)",
    )
    add(
        "--solver",
        choices=get_args(Solver),
        help="ab2 looks back along each frame's own levels; unipc and dpm++ need one for all "
        "(default: euler; FVDM: ddim)",
    )
    add(
        "--rows",
        type=_rows,
        metavar="ROWS",
        help="front: as many of 50 rows as there are steps, dense at the start, then wide; or a "
        "list of them, as in 0,1,2,3,5,8,13,21,34,49 (default: even, a table of its own)",
    )
    add(
        "--teacache",
        type=float,
        metavar="THRESHOLD",
        help="leave out the blocks of steps where little changes, as Pusa's own pipelines can "
        "(0.2, say); --rows front --solver ab2 is nearer to the full run with as many passes",
    )
    add(
        "--teacache_polynomial",
        metavar="NAME",
        help="of the model it was fitted to, 1.3B or 14B (default: by the network's width)",
    )
    add(
        "--original_teacache",
        action="store_true",
        help="do not compute the first step of another expert, as the original does not",
    )
    add("--shift", type=float, help="shift of the noise schedule (default: 5.0)")
    add(
        "--height",
        type=int,
        help="pixels, divisible by 16, for TI2V by 32 (default: 720; TI2V: 704; Mochi: 480; tiny "
        "model: 48)",
    )
    add(
        "--width",
        type=int,
        help="pixels, divisible by 16, for TI2V by 32 (default: 1280; Mochi: 848; tiny model: 48)",
    )
    add(
        "--num_frames",
        type=int,
        help="4k+1, Mochi 6k+1 (default: 81; TI2V: 121; Mochi: 163; tiny model: 33). FVDM: 16, "
        "or any number with --overlap",
    )
    add(
        "--fps",
        type=_rate,
        help="of the file, as in 24 or 24000/1001 (default: the model's)",
    )
    add(
        "--crf",
        type=int,
        default=18,
        help="of the mp4, 0 to 51: less is more exact and larger (default: 18)",
    )
    add("--seed", type=int, default=0, help="-1 draws one, prints it and records it")
    add(
        "--dtype",
        choices=["float32", "bfloat16"],
        help="of DiT and text encoder (default: bfloat16; tiny model: float32)",
    )
    add(
        "--exact_timesteps", action="store_true", help="do not round timesteps as the original does"
    )
    add(
        "--exact_conditions",
        "--normalised_conditions",
        action="store_true",
        help="treat given frames as the network would have them: normalised like all others (Pusa "
        "V0.5 does not), and held where their multiplier is 0 (FVDM lets them drift)",
    )
    add(
        "--resident",
        choices=["one", "all"],
        help="of two experts, the one at work lies on the devices and the other waits in host "
        "memory, or both lie there (default: what fits)",
    )
    add("--mesh", help="devices, like data=2,context=4 (default: a sensible mesh of all)")
    tiles = sub.add_mutually_exclusive_group()
    tiles.add_argument(
        "--no_tiling", action="store_true", help="VAE in one piece instead of overlapping tiles"
    )
    tiles.add_argument(
        "--original_tiles",
        action="store_true",
        help="VAE in the original's tiles, for parity (Mochi: 2 x 2, with seams)",
    )
    add_cache_flag(sub)
    add(
        "--output",
        help="to write: .mp4, .gif, .webm, .png (a strip), .npz (latents), or NAME/ (all frames); "
        f"replaced if it exists, unless it is an input (default: outputs/{task}.mp4 or, if that "
        f"exists, {task}-2.mp4 and so on)",
    )
    add("--dry_run", action="store_true", help="check everything, print the plan, make nothing")


def _integers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        message = f"expected whole numbers with commas between, as in 0,20; got {text!r}"
        raise argparse.ArgumentTypeError(message) from None


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        message = f"expected numbers with commas between, as in 0.2,0.5; got {text!r}"
        raise argparse.ArgumentTypeError(message) from None


def _rows(text: str) -> str | tuple[int, ...]:
    return text if text in ("even", "front") else _integers(text)


def _rate(text: str) -> int | float:
    try:
        rate = Fraction(text if re.fullmatch(r"[\d./]{1,20}", text) else "")
    except (ValueError, ZeroDivisionError):
        message = f"expected frames per second, as in 24, 23.976 or 24000/1001; got {text!r}"
        raise argparse.ArgumentTypeError(message) from None
    return rate.numerator if rate.denominator == 1 else float(rate)


def _multipliers(args: argparse.Namespace) -> tuple[float, ...] | None:
    """Those asked for; base models were made to keep given frames exactly, so theirs are 0."""
    asked = getattr(args, "noise_multipliers", None)
    usual = GIVEN_FRAMES.get(args.task)
    if asked is not None or args.preset != "official" or usual is None:
        return asked
    images = getattr(args, "image_paths", None) or ()
    places = getattr(args, "cond_position", None)
    return (0.0,) * len(places or images * (args.task == "interpolate") or range(usual))


def _steps(args: argparse.Namespace) -> int | None:
    """The number asked for, or that of the rows listed."""
    listed = isinstance(args.rows, tuple) and args.num_inference_steps is None
    return len(args.rows) if listed else args.num_inference_steps


def _teacache(args: argparse.Namespace) -> TeaCache | None:
    """The cache asked for.

    Raises:
      ValueError: parts of one without its threshold.
    """
    if args.teacache is None:
        if args.teacache_polynomial or args.original_teacache:
            raise ValueError("there is no cache without a threshold: give --teacache 0.2, say.")
        return None
    return TeaCache(
        threshold=args.teacache,
        polynomial=args.teacache_polynomial,
        original=args.original_teacache,
    )


def job_of(
    args: argparse.Namespace, opened: MutableMapping[Any, Any] | None = None
) -> tuple[Any, Any]:
    """The job that the flags ask for, and its model, opened.

    What was left open is as published with the model, or best for the tiny one.

    Args:
      args: parsed flags of a task.
      opened: models that are opened already, for jobs that share them; this one is added.
    """
    from pusa_jax.convert.folders.merging import files_of_experts
    from pusa_jax.convert.folders.opened import ModelFolder
    from pusa_jax.demo import shipped, words
    from pusa_jax.devices import processes
    from pusa_jax.devices.sharding import parse_mesh
    from pusa_jax.inference import jobs, packaged
    from pusa_jax.inference.loading import open_model

    is_tiny = args.model in (None, packaged.NAME)
    opened = {} if opened is None else opened
    if args.model not in opened:
        opened[args.model] = ModelFolder(packaged.found(args.model or packaged.NAME))
    folder = opened[args.model]
    family = folder.family
    merged = weights.all_loras_of(args, len(family.experts))
    if is_tiny:
        merged["lora"] = merged["lora"] or (shipped.LORA,)
        best, negative, dtype = shipped.SETTINGS, shipped.NEGATIVE_PROMPT, "float32"
    elif args.preset == "official":
        negative, dtype = family.official_negative_prompt, "bfloat16"
    else:
        negative, dtype = family.negative_prompt, "bfloat16"
    if args.label is not None and family.reads_text:
        raise ValueError(
            "--label is for a model of classes, as FVDM; this one reads text: give --prompt."
        )
    if args.label is not None and args.prompt is not None:
        raise ValueError(f"give --label {args.label} or --prompt {args.prompt}, not both.")
    if args.prompt is None and family.reads_text:
        raise ValueError(f"{args.task} needs --prompt, what happens; --prompt '' is for nothing.")
    merged["add_differences"] = not args.ignore_differences
    key = args.model, repr(merged)
    if key not in opened:
        opened[key] = open_model(folder, **merged)
    model = opened[key]
    if not is_tiny:
        best = model.configs.fitted(family, official=args.preset == "official")
    if merged["lightx2v"]:
        merged["lightx2v"] = tuple(map(str, files_of_experts(family, merged["lightx2v"]).values()))
    asked = {
        "height": args.height,
        "width": args.width,
        "num_frames": args.num_frames,
        "fps": args.fps,
        "num_steps": _steps(args),
        "rows": args.rows,
        "guidance_until": args.guidance_until,
        "teacache": _teacache(args),
        "guidance_scale": args.cfg_scale,
        "low_guidance_scale": args.low_cfg_scale,
        "boundary": args.switch_DiT_boundary,
        "solver": args.solver,
        "shift": args.shift,
        "seed": processes.agree_on(secrets.randbelow(2**31)) if args.seed == -1 else args.seed,
        "original_timesteps": False if args.exact_timesteps else None,
        "original_conditions": False if args.exact_conditions else None,
        "tiled": False if args.no_tiling else "original" if args.original_tiles else None,
    }
    if args.shift is not None and family.training_schedule != "shifted":
        raise ValueError(f"the noise schedule of {family.name} has no shift; leave out --shift.")
    if args.fast:
        if family.few_steps is None:
            raise ValueError(
                f"nothing was published for {family.name} in few steps: leave out --fast."
            )
        best = family.few_steps(best)
    if args.cfg_scale is not None:  # of both experts, unless the other one's is given as well
        best = dataclasses.replace(best, low_guidance_scale=None)
    prompt = args.prompt or args.label or ""
    inputs = getattr(args, "image_paths", None) or getattr(args, "video_path", None) or ()
    job = jobs.Job(
        task=args.task,
        model=str(folder.path),
        prompt=words.normalised(prompt) if is_tiny else prompt,
        negative_prompt=negative if args.negative_prompt is None else args.negative_prompt,
        **merged,
        inputs=tuple(inputs),
        at=getattr(args, "cond_position", None),
        multipliers=_multipliers(args),
        overlap=getattr(args, "overlap", None),
        clip_start=getattr(args, "clip_start", None),
        joined=getattr(args, "joined", False),
        source_fps=getattr(args, "source_fps", "model"),
        fit=getattr(args, "fit", "crop"),
        dtype=dtype if args.dtype is None else args.dtype,
        resident=args.resident,
        mesh=None if args.mesh is None else parse_mesh(args.mesh),
        crf=args.crf,
        settings=dataclasses.replace(best, **{k: v for k, v in asked.items() if v is not None}),
    )
    return job, model
