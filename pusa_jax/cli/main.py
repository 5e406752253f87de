"""The command `pusa-jax`: parses, calls, reports; the one place where an error becomes one line."""

import argparse
import dataclasses
import json
import logging
import os
import re
import secrets
import sys
import warnings
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

from pusa_jax.cli import weights

USAGE_ERROR = 2

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

EPILOG = """examples:
  pusa-jax i2v --model Wan2.1-T2V-14B --lora_path pusa_v1.safetensors \\
      --image_paths cat.jpg --prompt "a cat stretches" --output cat.mp4
  pusa-jax extend --model Wan2.1-T2V-14B --lora_path pusa_v1.safetensors \\
      --video_path walk.mp4 --cond_position 0,1,2,3 --noise_multipliers 0,0.3,0.4,0.5 \\
      --prompt "she walks on"
  pusa-jax convert --src Wan2.1-T2V-14B --dst wan-14b      (once; later runs load faster)
  pusa-jax rerun cat.mp4                                   (the same latents again)

Positions count latent frames: 81 frames are 21 of them, 0 to 20; position 0 is the first frame,
every later one stands for four frames. A noise multiplier of 0 keeps a given frame exactly, 1 frees
it.
Every flag may be written with hyphens instead of underscores."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line and returns its exit code: 0, or 2 with one line on stderr."""
    argv = _normalised(sys.argv[1:] if argv is None else argv)
    if argv[:1] == ["train"]:  # its flags are those of a config file
        args = argparse.Namespace(run=run_train, flags=argv[1:], debug="--debug" in argv)
    elif argv[:2] == ["plan", "train"]:
        args = argparse.Namespace(run=run_plan_train, flags=argv[2:], debug="--debug" in argv)
    else:
        args = build_parser().parse_args(argv)
    warnings.showwarning = lambda message, *_: print(
        f"pusa-jax: {_one_line(cast(Exception, message))}", file=sys.stderr
    )
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # Orbax logs what it raises as well
    try:
        return args.run(args) or 0
    except KeyboardInterrupt:
        print("pusa-jax: interrupted.", file=sys.stderr)
        return 130
    except (ValueError, OSError, ImportError, MemoryError) as error:
        if args.debug:
            raise
        print(f"pusa-jax: error: {_one_line(error)}", file=sys.stderr)
        return USAGE_ERROR
    except Exception as error:
        if args.debug:
            raise
        name = type(error).__name__
        print(f"pusa-jax: {name}: {_one_line(error)} (--debug shows where)", file=sys.stderr)
        return USAGE_ERROR


def _normalised(argv: Sequence[str]) -> list[str]:
    """Flags with underscores, and with the negative numbers that argparse takes for flags."""
    out: list[str] = []
    for arg in argv:
        if re.match(r"-(\d|\.\d|inf)", arg) and out and re.fullmatch(r"--\w+", out[-1]):
            out[-1] += f"={arg}"
        elif arg.startswith("--"):
            name, equals, value = arg.partition("=")
            out.append("--" + name[2:].replace("-", "_") + equals + value)
        else:
            out.append(arg)
    return out


def _one_line(error: BaseException) -> str:
    return " ".join((str(error) or type(error).__name__).split())


class Parser(argparse.ArgumentParser):
    """Reports a wrong command line in one line."""

    def error(self, message: str):
        """Exits with one line and the code of a usage error."""
        self.exit(USAGE_ERROR, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    from pusa_jax import __version__

    parser = Parser(
        prog="pusa-jax",
        description="Pusa in JAX: video diffusion with one timestep per latent frame.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"pusa_jax {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(name: str, run: Callable | None, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(
            name,
            help=text,
            description=text[0].upper() + text[1:] + ".",
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        )
        sub.add_argument("--debug", action="store_true", help="show where an error came from")
        sub.set_defaults(run=run)
        return sub

    for task, text in TASK_HELP.items():
        sub = command(task, run_task, text)
        sub.set_defaults(task=task)
        _add_sampling_flags(sub, task)

    sub = command(
        "convert", weights.run_convert, "turn published weights into a folder that loads fast"
    )
    weights.add_convert_arguments(sub)

    sub = command("export", weights.run_export, "write weights in the form other tools load")
    weights.add_export_arguments(sub)

    sub = command(
        "extract-lora", weights.run_extract, "make a LoRA of what tuning changed in a model"
    )
    weights.add_extract_arguments(sub)

    from pusa_jax.cli.data import add_data_arguments, add_encode_arguments
    from pusa_jax.cli.plan import add_plan_arguments

    sub = command("plan", None, "say what fits on which chips, before queueing")
    add_plan_arguments(sub)

    sub = command("encode", None, "turn a folder of captioned clips into a training dataset")
    add_encode_arguments(sub)

    command("train", run_train, "train by LoRA or in full; --config=FILE --workdir=FOLDER")

    sub = command("data", None, "inspect a training dataset, or import one that is encoded already")
    add_data_arguments(sub)

    sub = command("info", run_info, "say what a video, a model folder or a LoRA file holds")
    sub.add_argument("path")

    sub = command("rerun", run_rerun, "make a video again from the settings inside it")
    sub.add_argument("path", help="an mp4 written by pusa-jax")
    sub.add_argument(
        "--output", help="file to write (default: NAME.rerun.mp4, or NAME.rerun-2.mp4 and so on)"
    )
    _add_cache_flag(sub)

    sub = command(
        "demo", run_demo, "a clip of every kind with the tiny trained model that comes along"
    )
    sub.add_argument("--output", default="demo", help="folder to write to")
    return parser


def _add_sampling_flags(sub: argparse.ArgumentParser, task: str) -> None:
    add = sub.add_argument
    add(
        "--model",
        help="folder: published (original or Diffusers) or converted (default: the tiny model "
        "that comes along, with its own LoRA and sizes)",
    )
    add("--prompt", required=True, help="what happens; may be empty")
    add("--negative_prompt", help="what should not happen (default: the one Pusa uses)")
    if task in INPUT_FLAGS:
        flag, text = INPUT_FLAGS[task]
        add(flag, nargs="+", required=True, metavar="FILE", help=text)
        add("--cond_position", type=_integers, help="places of the given frames, as in 0,20")
        add("--noise_multipliers", type=_numbers, help="one per given frame, 0 to 1, as in 0.2,0.5")
        add("--fit", choices=["crop", "letterbox", "stretch"], default="crop", help="bring to size")
    if task in ("complete", "extend", "transition"):
        add(
            "--source_fps",
            choices=["model", "keep"],
            default="model",
            help="bring clips to the model's frame rate, or take them frame by frame",
        )
    if task == "extend":
        add(
            "--clip_start",
            type=int,
            help="first frame used, at the rate of --source_fps (default: the video's last frames)",
        )
    weights.add_lora_flags(sub)
    add("--num_inference_steps", type=int, help="(default: 30; tiny model: 10)")
    add("--cfg_scale", type=float, help="guidance scale; 1 is off (default: 3.0; tiny model: 2.0)")
    add("--shift", type=float, default=5.0, help="shift of the noise schedule")
    add("--height", type=int, help="pixels, divisible by 16 (default: 720; tiny model: 48)")
    add("--width", type=int, help="pixels, divisible by 16 (default: 1280; tiny model: 48)")
    add("--num_frames", type=int, help="4k+1 (default: 81; tiny model: 33)")
    add("--fps", type=_rate, help="of the file, as in 24, 23.976 or 24000/1001 (default: 16)")
    add("--seed", type=int, default=0, help="-1 draws one, prints it and records it")
    add(
        "--dtype",
        choices=["float32", "bfloat16"],
        help="of DiT and text encoder (default: bfloat16; tiny model: float32)",
    )
    add(
        "--exact_timesteps", action="store_true", help="do not round timesteps as the original does"
    )
    add("--mesh", help="devices, like data=2,context=4 (default: a sensible mesh of all)")
    add("--no_tiling", action="store_true", help="VAE in one piece instead of overlapping tiles")
    _add_cache_flag(sub)
    add(
        "--output",
        help="file to write, replaced if it exists, unless it is an input (default: "
        f"outputs/{task}.mp4 or, if that exists, {task}-2.mp4 and so on)",
    )
    add("--dry_run", action="store_true", help="check everything, print the plan, make nothing")


def _add_cache_flag(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--no_compilation_cache",
        action="store_true",
        help="do not keep compiled programs for later runs (JAX_COMPILATION_CACHE_DIR: where)",
    )


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


def _rate(text: str) -> int | float:
    try:
        rate = Fraction(text)
    except (ValueError, ZeroDivisionError):
        message = f"expected frames per second, as in 24, 23.976 or 24000/1001; got {text!r}"
        raise argparse.ArgumentTypeError(message) from None
    return rate.numerator if rate.denominator == 1 else float(rate)


def run_task(args: argparse.Namespace) -> int:
    """Makes one video."""
    from pusa_jax.devices import processes
    from pusa_jax.inference import jobs

    processes.join()
    job, model = _job(args)
    output = args.output or jobs.unused(f"outputs/{args.task}.mp4")
    prepared = jobs.prepare(job, output, model)
    if args.dry_run:
        if processes.is_first():
            print(json.dumps(jobs.describe_plan(prepared), indent=2))
        return 0
    return make_video(prepared, keep_compiled=not args.no_compilation_cache)


def _job(args: argparse.Namespace) -> tuple[Any, Any]:
    """The job that the flags ask for, and its model, opened.

    What was left open is as published with the model, or best for the tiny one.
    """
    from pusa_jax.demo import shipped
    from pusa_jax.devices import processes
    from pusa_jax.devices.sharding import parse_mesh
    from pusa_jax.inference import jobs
    from pusa_jax.inference.loading import open_model

    lora = weights.loras_of(args)
    if args.model is None:
        lora = lora or (shipped.LORA,)
        model = open_model(shipped.FOLDER, lora)
        best, negative, dtype = shipped.SETTINGS, shipped.NEGATIVE_PROMPT, "float32"
    else:
        model = open_model(args.model, lora)
        best, negative = model.family.sampling, model.family.negative_prompt
        dtype = "bfloat16"
    asked = {
        "height": args.height,
        "width": args.width,
        "num_frames": args.num_frames,
        "fps": args.fps,
        "num_steps": args.num_inference_steps,
        "guidance_scale": args.cfg_scale,
        "shift": args.shift,
        "seed": processes.agree_on(secrets.randbelow(2**31)) if args.seed == -1 else args.seed,
        "original_timesteps": not args.exact_timesteps,
        "tiled": not args.no_tiling,
    }
    inputs = getattr(args, "image_paths", None) or getattr(args, "video_path", None) or ()
    job = jobs.Job(
        task=args.task,
        model=str(model.folder.path),
        prompt=args.prompt,
        negative_prompt=negative if args.negative_prompt is None else args.negative_prompt,
        lora=lora,
        inputs=tuple(inputs),
        at=getattr(args, "cond_position", None),
        multipliers=getattr(args, "noise_multipliers", None),
        clip_start=getattr(args, "clip_start", None),
        fit=getattr(args, "fit", "crop"),
        source_fps=getattr(args, "source_fps", "model"),
        dtype=dtype if args.dtype is None else args.dtype,
        mesh=None if args.mesh is None else parse_mesh(args.mesh),
        settings=dataclasses.replace(best, **{k: v for k, v in asked.items() if v is not None}),
    )
    return job, model


def make_video(prepared: Any, *, keep_compiled: bool, expect: str | None = None) -> int:
    """Runs a job and tells what was made; `expect` is the fingerprint a rerun must meet."""
    from pusa_jax.devices import processes
    from pusa_jax.inference import jobs
    from pusa_jax.progress import Console, no_progress

    if keep_compiled:
        _keep_compiled()
    console = Console()
    result, record = jobs.run(prepared, console if processes.is_first() else no_progress)
    console.close()
    same = expect in (None, record["latents_sha256"])
    if processes.is_first():
        seconds = ", ".join(f"{stage} {value:.1f} s" for stage, value in result.seconds.items())
        made = f"{len(result.frames)} frames, seed {prepared.job.settings.seed}"
        print(f"{prepared.output}: {made}; {seconds}")
        if expect is not None:
            print(
                f"latents are {'the same to the last bit' if same else 'NOT the same'} as before."
            )
    return 0 if same else 1


def _keep_compiled() -> None:
    from pusa_jax.devices import processes
    from pusa_jax.devices.compile_cache import cache_folder, keep_compiled

    folder = cache_folder(os.environ)
    try:
        keep_compiled(folder)
    except OSError as error:
        message = f"compiled programs are not kept: {_one_line(error)}"
    else:
        message = f"compiled programs are kept in {folder} (--no_compilation_cache: they are not)"
    if processes.is_first():
        print(message, file=sys.stderr)


def run_rerun(args: argparse.Namespace) -> int:
    """Makes a video again from the settings inside it; exit code 1 if its latents differ."""
    from pusa_jax.devices import processes
    from pusa_jax.inference import jobs
    from pusa_jax.media import video

    processes.join()
    record = video.read_metadata(args.path)
    if "job" not in record or not isinstance(record.get("latents_sha256"), str):
        raise ValueError(f"{args.path} carries no job; it was not written by pusa-jax.")
    output = args.output or jobs.unused(Path(args.path).with_suffix(".rerun.mp4"))
    jobs.check_output(output, [args.path])
    job = jobs.Job.from_record(record["job"], Path(args.path).parent)
    for then, now in zip(record["job"]["inputs"], job.inputs, strict=True):
        if then != now and processes.is_first():
            print(f"input {then} is taken from {now}", file=sys.stderr)
    return make_video(
        jobs.prepare(job, output),
        keep_compiled=not args.no_compilation_cache,
        expect=record["latents_sha256"],
    )


def run_train(args: argparse.Namespace) -> int:
    """Trains as a config file says."""
    from pusa_jax.cli.train import train_main

    return train_main([flag for flag in args.flags if flag != "--debug"])


def run_plan_train(args: argparse.Namespace) -> int:
    """Says whether a training run fits."""
    from pusa_jax.cli.train import plan_main

    return plan_main([flag for flag in args.flags if flag != "--debug"])


def run_info(args: argparse.Namespace) -> int:
    """Prints what a file or folder holds."""
    from pusa_jax.convert.folders.summary import summary
    from pusa_jax.media import video

    path = Path(args.path)
    if path.is_file() and path.suffix.lower() == ".mp4":
        print(json.dumps(video.read_metadata(path), indent=2, ensure_ascii=False))
    else:
        print(summary(path))
    return 0


def run_demo(args: argparse.Namespace) -> int:
    """Runs the whole chain on a tiny model."""
    from pusa_jax.demo import demo
    from pusa_jax.files.atomic import check_writable

    check_writable(Path(args.output) / "sheet.png")
    return demo.run_demo(Path(args.output))
