"""The command `pusa-jax`: parses, calls, reports; the one place where an error becomes one line."""

import argparse
import gc
import json
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from pusa_jax.cli import completion, printing, together, weights
from pusa_jax.cli.info import run_info
from pusa_jax.cli.job import TASK_HELP, add_sampling_flags, job_of
from pusa_jax.cli.parsing import USAGE_ERROR, Help, Parser, UsageError
from pusa_jax.cli.printing import one_line
from pusa_jax.cli.programs import add_cache_flag, keep_programs
from pusa_jax.cli.signals import ending_tidily, leave
from pusa_jax.cli.variations import add_variation_flags, varied_job, what_differs
from pusa_jax.progress import Console, PusaWarning

INTERRUPTED = 130

OFTEN_ENOUGH = 50_000
"""New objects between two searches for garbage: importing and tracing make many, nearly all to
stay, and at Python's 700 or 2,000 an eighth of a short command is spent on searching."""

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
    """Runs a command line and returns its exit code.

    Args:
      argv: words behind the name of the command; default: those of the process, which ends with it.

    Returns:
      0 where all went well; 2 with one line on stderr where not; 130 behind Ctrl-C.
    """
    is_process = argv is None
    if is_process:
        gc.set_threshold(OFTEN_ENOUGH, *gc.get_threshold()[1:])
        # LAPACK's threads wait for each other busily: a small QR took 1 s of CPU, with one 0.03.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        with printing.harmless(), ending_tidily(for_good=is_process):
            code = _run(_normalised(sys.argv[1:] if argv is None else argv), is_process)
            if is_process and (code == INTERRUPTED or together.is_broken()):
                leave(code)  # training has saved; or others do not wait to end together
            return code
    except KeyboardInterrupt:
        return INTERRUPTED
    except UsageError:
        if is_process and together.is_broken():
            leave(USAGE_ERROR)
        raise
    finally:
        if is_process:
            printing.flush()


def _run(argv: list[str], is_process: bool) -> int:
    if "--debug" not in argv:
        printing.quiet_libraries(until_exit=is_process)
    try:
        with together.with_peers(argv):
            return _command(argv)
    except UsageError as error:
        print(f"{error.prog}: error: {error.text}", file=sys.stderr)
        raise
    except BrokenPipeError:  # whoever read has seen enough, as in `| head`
        return 0
    except (ValueError, OSError, ImportError, MemoryError) as error:
        if "--debug" in argv:
            raise
        print(f"pusa-jax: error: {one_line(error)}", file=sys.stderr)
        return USAGE_ERROR
    except Exception as error:
        if "--debug" in argv:
            raise
        name = type(error).__name__
        print(f"pusa-jax: {name}: {one_line(error)} (--debug shows where)", file=sys.stderr)
        return USAGE_ERROR


def _command(argv: list[str]) -> int:
    if argv[:1] == ["train"]:  # its flags are those of a config file
        args = argparse.Namespace(run=run_train, flags=argv[1:], debug="--debug" in argv)
    elif argv[:2] == ["plan", "train"]:
        args = argparse.Namespace(run=run_plan_train, flags=argv[2:], debug="--debug" in argv)
    else:
        args = build_parser().parse_args(argv)
    show_otherwise = warnings.showwarning  # `harmless` puts it back

    def show(message: Warning | str, category: type[Warning], *where: Any) -> None:
        if issubclass(category, PusaWarning):
            print(f"pusa-jax: {one_line(cast(Exception, message))}", file=sys.stderr)
        elif args.debug:
            show_otherwise(message, category, *where)

    warnings.showwarning = show
    is_quiet = getattr(args, "quiet", False) or not together.is_first()
    if is_quiet:
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    with Console(quiet=is_quiet) as args.console:
        return args.run(args) or 0


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
            formatter_class=Help,
        )
        sub.add_argument("--debug", action="store_true", help="show where an error came from")
        sub.add_argument("--quiet", action="store_true", help="show no progress")
        sub.set_defaults(run=run)
        return sub

    for task, text in TASK_HELP.items():
        sub = command(task, run_task, text)
        sub.set_defaults(task=task)
        add_sampling_flags(sub, task)

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

    from pusa_jax.cli.batch import add_batch_arguments, run_batch
    from pusa_jax.cli.compare import add_compare_arguments, add_report_arguments
    from pusa_jax.cli.configs import add_configs_arguments
    from pusa_jax.cli.data import add_data_arguments, add_encode_arguments
    from pusa_jax.cli.fvd import add_fvd_arguments
    from pusa_jax.cli.plan import add_plan_arguments
    from pusa_jax.cli.vbench import add_vbench_arguments
    from pusa_jax.cli.web import add_web_arguments

    sub = command("plan", None, "say what fits on which chips, before queueing")
    add_plan_arguments(sub)

    sub = command("encode", None, "turn a folder of captioned clips into a training dataset")
    add_encode_arguments(sub)

    command("train", run_train, "train by LoRA or in full; --config=FILE --workdir=FOLDER")

    sub = command("configs", None, "list the training configs with their fields; copy one to edit")
    add_configs_arguments(sub)

    sub = command("data", None, "inspect a training dataset, or import one that is encoded already")
    add_data_arguments(sub)

    sub = command("fvd", None, "measure how far generated videos are from real ones")
    add_fvd_arguments(sub)

    sub = command("vbench", None, "make the videos of VBench-I2V, and add up its scores")
    add_vbench_arguments(sub)

    sub = command("compare", None, "set videos beside each other, on one page and as numbers")
    add_compare_arguments(sub)

    sub = command("report", None, "make the page of a batch: its videos, numbers and settings")
    add_report_arguments(sub)

    sub = command("web", None, "open a page where pictures are dropped and noise is dragged")
    add_web_arguments(sub)

    sub = command(
        "info",
        run_info,
        "say what a video, picture, list, dataset, run, model folder or LoRA file holds",
    )
    sub.add_argument("path", help="clip, picture, latents, list, data set, run, model or LoRA")

    sub = command("batch", run_batch, "make the videos of a list, on any number of hosts")
    add_batch_arguments(sub)

    sub = command("rerun", run_rerun, "make a video again from the settings inside it")
    sub.add_argument("path", help="an mp4, an npz or a folder of pictures written by pusa-jax")
    add_variation_flags(sub)
    sub.add_argument(
        "--output",
        help="file to write (default: NAME.rerun.mp4 or NAME.variation.mp4; if that exists, "
        "NAME.rerun-2.mp4 and so on)",
    )
    add_cache_flag(sub)

    sub = command("completion", run_completion, "write a script that completes commands in a shell")
    sub.add_argument(
        "shell", choices=completion.SHELLS, help="pusa-jax completion bash >> ~/.bashrc"
    )

    sub = command(
        "demo", run_demo, "a clip of every kind with the tiny trained model that comes along"
    )
    sub.add_argument("--output", default="demo", help="folder to write to")
    add_cache_flag(sub)
    return parser


def run_task(args: argparse.Namespace) -> int:
    """Makes one video."""
    args.console.begin()
    from pusa_jax.demo import words
    from pusa_jax.devices import processes
    from pusa_jax.diffusion.config import in_few_steps
    from pusa_jax.inference import job_plan, jobs, packaged

    job, model = job_of(args)
    output = args.output or f"outputs/{args.task}.mp4"
    prepared = jobs.prepare(job, output, model, numbered=args.output is None)
    together.agree_on_job(prepared, None)
    missing = ["--fast is for a LoRA for 4 steps, and none is given: give --lightx2v PATH."]
    is_for_lora = args.fast and model.family.few_steps is in_few_steps
    if args.model is None:
        args.console.line(f"pusa-jax: {words.NOTE}")
    odd: Iterable[str] = ()
    if args.model in (None, packaged.NAME):
        odd = words.oddities(job.prompt, [given.frames for given in prepared.conditions])
    few = missing if is_for_lora and not job.distilled else ()
    for line in (*prepared.cautions, *few, *odd):
        args.console.line(f"pusa-jax: careful: {line}")
    if args.dry_run:
        args.console.close()
        if processes.is_first():
            print(json.dumps(job_plan.describe_plan(prepared), indent=2))
        return 0
    return make_video(prepared, args)


def make_video(
    prepared: Any, args: argparse.Namespace, before: Mapping[str, Any] | None = None
) -> int:
    """Runs a job and tells what was made; `before` is the record of a run to be met."""
    from pusa_jax.devices import processes
    from pusa_jax.inference import jobs

    if not args.no_compilation_cache:
        keep_programs(args.console)
    result, record, path = jobs.run(prepared, args.console)
    args.console.close()
    is_same = before is None or before["latents_sha256"] == record["latents_sha256"]
    if processes.is_first():
        seconds = ", ".join(f"{stage} {value:.1f} s" for stage, value in result.seconds.items())
        settings = prepared.job.settings
        made = f"{len(result.frames)} frames, seed {settings.seed}"
        if result.passes < settings.full_passes:
            made += f", passes: {result.passes} (full table: {settings.full_passes})"
        print(f"{path}: {made}; {seconds}")
        if before is not None:
            reasons = "; ".join(what_differs(before, record)) or "nothing known has changed"
            print(
                "latents are the same to the last bit as before."
                if is_same
                else f"latents are NOT the same as before: {reasons}."
            )
    return 0 if is_same else 1


def run_rerun(args: argparse.Namespace) -> int:
    """Makes a video again from the settings inside it; exit code 1 if its latents differ.

    With other settings it makes a variation, which has nothing to meet.
    """
    args.console.begin()
    from pusa_jax.inference import jobs
    from pusa_jax.inference.job_files import check_output
    from pusa_jax.media.outputs import read_record

    record = read_record(args.path)
    if "job" not in record or not isinstance(record.get("latents_sha256"), str):
        raise ValueError(f"{args.path} carries no job; it was not written by pusa-jax.")
    job = jobs.Job.from_record(record["job"], Path(args.path).absolute().parent)
    for then, now in jobs.moved(record["job"], job):
        args.console.line(f"{then} is taken from {now}")
    varied = varied_job(job, args)
    ending = ".rerun.mp4" if varied == job else ".variation.mp4"
    output = args.output or Path(args.path).with_suffix(ending)
    if args.output is not None:
        check_output(output, [args.path])
    prepared = jobs.prepare(varied, output, numbered=args.output is None)
    together.agree_on_job(prepared, record)
    return make_video(prepared, args, record if varied == job else None)


def run_train(args: argparse.Namespace) -> int:
    """Trains as a config file says."""
    if not {"--help", "-h", "--quiet"} & set(args.flags):
        args.console.begin()
    from pusa_jax.cli.train import train_main

    return train_main([flag for flag in args.flags if flag != "--debug"], args.console)


def run_plan_train(args: argparse.Namespace) -> int:
    """Says whether a training run fits."""
    from pusa_jax.cli.train import plan_main

    return plan_main([flag for flag in args.flags if flag != "--debug"])


def run_completion(args: argparse.Namespace) -> int:
    """Prints a script for a shell."""
    print(completion.script(args.shell, build_parser()), end="")
    return 0


def run_demo(args: argparse.Namespace) -> int:
    """Runs the whole chain on a tiny model."""
    args.console.begin()
    from pusa_jax.demo import demo
    from pusa_jax.files.atomic import check_writable

    check_writable(Path(args.output) / "sheet.png")
    if not args.no_compilation_cache:
        keep_programs(args.console)
    return demo.run_demo(Path(args.output), args.console)
