"""The command `pusa-jax plan`: its flags, what it prints and its exit codes.

Nothing here starts a back end of jax before the topology is known: what is compiled for decides
which variables the plugins must find in the environment.
"""

import argparse
import dataclasses
import json
import sys
from typing import Any

from pusa_jax.cli.programs import add_cache_flag, keep_programs
from pusa_jax.progress import Console

FITS, DOES_NOT_FIT = 0, 3

DESCRIPTION = """compile the real program for chips that need not be here and say what fits

Prints chips, memory per chip, model FLOPs, what the chips send each other, the least seconds a step
can take and a verdict. Exit code 0: it fits; 3: it does not; 2: the question makes no sense."""

EPILOG = """examples:
  pusa-jax plan infer --preset wan2.1-t2v-14b --topology v6e:2x4 --mesh data=2,context=4
  pusa-jax plan infer --preset wan2.1-t2v-14b --height 720 --width 1280 --topology h100:8
      (no --mesh: tries the sensible ones and recommends one)
  pusa-jax plan train --config=configs/pusa_v1_lora_14b.py --topology=h100:8
  pusa-jax plan infer --preset wan2.2-t2v-a14b --resident all --topology v6e:2x4
  pusa-jax plan infer --preset wan2.1-t2v-1.3b            (the devices of this machine)

topologies:
  v4:2x2x1 v5e:4x4 v5p:2x2x1 v6e:2x4 tpu7x:2x2x1 ...      TPU slices; needs pusa_jax[tpu], no TPU
  a100:8 h100:8 h200:1 b200:8 rtx4090:1 ...               GPU boxes; needs pusa_jax[cuda], no GPU
  local                                                   what jax sees here

mesh axes (their sizes multiply to the number of devices; tpu7x has two devices per chip):
  data      the two passes of guidance: 1 or 2
  context   the tokens of a frame; attention exchanges heads or keys over it
  tensor    heads and feed-forward channels; must divide the heads"""


def add_plan_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what is planned (`infer`) and its flags to the parser of `pusa-jax plan`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description, parser.epilog = DESCRIPTION, EPILOG
    what = parser.add_subparsers(title="what to plan", metavar="WHAT", required=True)
    infer = what.add_parser(
        "infer",
        help="one step of sampling",
        description="Plans one step of sampling with the DiT.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = infer.add_argument
    add("--preset", required=True, help="published model, like wan2.1-t2v-14b, mochi-1-preview")
    add("--height", type=int, help="pixels (default: 720, of wan2.2-ti2v-5b 704)")
    add("--width", type=int, help="pixels (default: 1280)")
    add("--num_frames", type=int, help="4k+1 pixel frames (default: 81, of wan2.2-ti2v-5b 121)")
    add("--cfg_scale", type=float, help="guidance scale; 1 is off (default: the model's)")
    add(
        "--dtype",
        choices=["float32", "bfloat16"],
        default="bfloat16",
        help="of the DiT's weights and products (default: bfloat16)",
    )
    add(
        "--stage",
        choices=["denoise", "text", "decode"],
        default="denoise",
        help="one guided step, the text encoder, or one tile of the VAE, which takes minutes to "
        "compile for a TPU (default: denoise)",
    )
    add(
        "--resident",
        choices=["one", "all"],
        default="one",
        help="of a model with two experts: the one at work lies on the chips and the other waits "
        "in host memory, or both lie there (default: one; sampling itself takes what fits)",
    )
    add("--topology", default="local", help="what to compile for (default: local)")
    add("--mesh", help="like data=2,context=4 (default: try the sensible ones)")
    add("--json", action="store_true", help="print one JSON object and nothing else")
    add_cache_flag(infer)
    infer.set_defaults(run=run_infer)
    # Its flags are those of a config file: `cli.main` hands them to `cli_train` as they are.
    what.add_parser("train", help="one step of training; --config=FILE --topology=CHIPS")


def run_infer(args: argparse.Namespace) -> int:
    """Plans a step of sampling; returns the exit code.

    Raises:
      ValueError: unknown preset or topology, or sizes or a mesh that do not go together.
      ImportError: the topology's plugin is not installed.
    """
    from pusa_jax.devices import sharding, topologies
    from pusa_jax.models.families import preset

    shape = None if args.mesh is None else sharding.parse_mesh(args.mesh)
    chosen = preset(args.preset)
    topology = topologies.parse_topology(args.topology)
    topologies.prepare_process(topology)

    if not args.no_compilation_cache:
        keep_programs(Console(quiet=True))
    from pusa_jax.inference.settings import Configs
    from pusa_jax.planning import inference

    given = {name: getattr(args, name) for name in ("height", "width", "num_frames")}
    given["guidance_scale"] = args.cfg_scale
    asked = {name: value for name, value in given.items() if value is not None}
    run = inference.Run(
        name=args.preset,
        preset=chosen,
        settings=dataclasses.replace(
            Configs(dit=chosen.dit, vae=chosen.vae).fitted(chosen.family),
            **asked,
        ),
        dtype=args.dtype,
        resident=args.resident,
    )
    if shape is None and args.stage == "denoise":
        reports = inference.plan_meshes(run, topology, on_report=_tell)
    else:
        shape = inference.usual_mesh(run, topology) if shape is None else shape
        reports = [inference.STAGES[args.stage](run, topology, shape)]
    if args.json:
        print(json.dumps(_record(reports)))
    else:
        print(_text(reports))
    return FITS if reports[0].fits else DOES_NOT_FIT


def _tell(report: Any) -> None:
    gib = report.peak_bytes / 2**30
    fits = "fits" if report.fits else "does not fit"
    print(
        f"mesh {_mesh(report)}: {gib:.2f} GiB per chip, {fits}, "
        f"compiled in {report.compile_seconds:.0f} s",
        file=sys.stderr,
    )


def _record(reports: list) -> dict[str, Any]:
    """The first report, and the others in short."""
    others = ("mesh", "fits", "peak_bytes", "roofline", "compile_seconds")
    tried = [{key: report.record()[key] for key in others} for report in reports]
    return reports[0].record() | ({"tried": tried} if len(reports) > 1 else {})


def _text(reports: list) -> str:
    text = reports[0].text()
    if len(reports) > 1 and reports[0].fits:
        text += f"\nrecommended         --mesh {_mesh(reports[0])}"
    return text


def _mesh(report: Any) -> str:
    sizes = [f"{axis}={size}" for axis, size in report.mesh.items() if size > 1]
    return ",".join(sizes) or "data=1"
