"""The command `pusa-jax vbench`: the videos of VBench-I2V, and `score`, which adds up its results.

The videos are a batch, whose flags are taken as they are; what is about them lies beside them.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pusa_jax.cli.batch import add_shared_arguments, run_lines, tasks_of
from pusa_jax.progress import Console

if TYPE_CHECKING:
    from pusa_jax.hub.needed import Kind

DESCRIPTION = """make the videos of VBench-I2V: 1,118 prompts on 355 images, five each

Names, seeds, ratio, crf and frame rate are as VBench wants them, steps and multiplier as in Pusa's
paper; any flag of `pusa-jax i2v` may be given as well. VBench judges the folder in an environment
of its own; `pusa-jax vbench score` adds up."""

EPILOG = """examples:
  pusa-jax vbench --model Wan-AI/Wan2.1-T2V-14B --lora_path RaphaelLiu/PusaV1/pusa_v1.pt \\
      --info vbench2_i2v_full_info.json --images data/crop/16-9 --output sampled_videos
  pusa-jax vbench ... --subset --dry_run                   (750 videos; checks, makes nothing)
  pusa-jax vbench score evaluation_results"""

SCORE_EPILOG = """examples:
  pusa-jax vbench score evaluation_results                 (the folder that VBench writes)
  pusa-jax vbench score a_eval_results.json b_eval_results.json --name mine"""

NEEDED = ("info", "images", "output")

KINDS: "dict[str, Kind]" = {
    "model": "model",
    "lora_path": "lora",
    "high_lora_path": "lora",
    "low_lora_path": "lora",
    "lightx2v": "loras",
}
"""Flag -> what its names on the Hub stand for."""


def add_vbench_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `pusa-jax vbench` and those of `score`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description, parser.epilog = DESCRIPTION, EPILOG
    parser.set_defaults(run=run_vbench)
    what = parser.add_subparsers(title="instead", metavar="score")
    add_score_arguments(
        what.add_parser("score", help="add up what VBench has found, beside the paper's rows")
    )
    add = parser.add_argument
    add("--info", type=Path, metavar="FILE", help="vbench2_i2v_full_info.json of VBench")
    add("--images", type=Path, metavar="FOLDER", help="its images of a ratio, data/crop/16-9")
    add("--subset", action="store_true", help="50 prompts of each kind: 750 videos")
    add_shared_arguments(parser)
    for action in parser._actions:
        action.required = False  # `score` needs none of them


def add_score_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `pusa-jax vbench score`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = SCORE_EPILOG
    add = parser.add_argument
    add("results", nargs="+", type=Path, help="NAME_eval_results.json of VBench, or its folder")
    add("--name", default="this run", help="of the model, in the table (default: this run)")
    parser.set_defaults(run=run_score)


def run_score(args: argparse.Namespace) -> int:
    """Prints the published total beside the paper's rows."""
    from pusa_jax.vbench.published import table
    from pusa_jax.vbench.score import read_scores, total_of

    scores = read_scores(args.results)
    print(table(args.name, scores, total_of(scores)))
    return 0


def run_vbench(args: argparse.Namespace) -> int:
    """Checks the list, the images and the model, then makes the videos; see `batch.run_lines`."""
    lacking = [f"--{name}" for name in NEEDED if getattr(args, name) is None]
    if lacking:
        raise ValueError(f"pusa-jax vbench needs {', '.join(lacking)}; see --help.")
    args.console.begin()
    from pusa_jax.files import fingerprints
    from pusa_jax.inference import jobs
    from pusa_jax.vbench import protocol, suite

    listed = suite.read_suite(args.info)
    prompts = suite.subset(listed) if args.subset else listed
    protocol.check_folder(args.output, listed)
    for name in suite.missing_images(prompts, args.images):
        args.console.line(f"  missing: {name}")
    suite.check_images(prompts, args.images)
    args.common = pinned(getattr(args, "common", {}))
    seed = root_seed(args.common)
    fields = protocol.fields_beside(args.common)
    lines = list(protocol.lines_of(prompts, args.images.absolute(), seed, fields))
    silent = argparse.Namespace(**vars(args) | {"console": Console(quiet=True)})
    (first,) = tasks_of(lines[:1], silent, args.images)
    ratio = suite.check_ratio(args.images, first.job.settings.height, first.job.settings.width)
    jobs.prepare(first.job, "0.mp4", first.model)  # as all others, but for prompt and image
    args.console.close()
    print(f"{len(prompts)} prompts, {len(lines)} videos; --ratio {ratio} for VBench")
    args.manifest = args.manifest or protocol.beside(args.output, "manifest.jsonl")
    if not args.dry_run:
        record = {"ratio": ratio, "videos": len(lines), "subset": args.subset, "seed": seed}
        record |= {"list_sha256": fingerprints.of_file(args.info), "first": first.job.as_record()}
        protocol.write_beside(args.output, lines, record)
    code = run_lines(lines, args, args.images)
    if not args.dry_run:
        protocol.check_folder(args.output, listed)
    return code


def root_seed(common: dict[str, Any]) -> int:
    """Takes the seed that those of all videos come from out of the flags.

    Raises:
      ValueError: it is no number, or one that is drawn.
    """
    (text,) = common.pop("seed", ["0"])
    if not text.isdecimal():
        raise ValueError(f"--seed must be a number, 0 or more, to go on with; got {text!r:.40}.")
    return int(text)


def pinned(common: dict[str, Any]) -> dict[str, Any]:
    """Flags whose names on the Hub have their commit: a run goes on with the same weights."""
    from pusa_jax.inference import packaged

    changed = dict(common)
    for name, kind in KINDS.items():
        if name in changed:
            changed[name] = [packaged.named(packaged.found(p, kind)) for p in changed[name]]
    return changed
