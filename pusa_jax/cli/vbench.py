"""The command `pusa-jax vbench`: the videos of VBench-I2V, and `score`, which adds up its results.

The videos are a batch: its lines are written beside the folder, then run.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pusa_jax.cli.job import add_how_flags, add_sampling_flags, job_of
from pusa_jax.cli.parsing import Parser

if TYPE_CHECKING:
    from pusa_jax.hub.needed import Kind

DESCRIPTION = """make the videos of VBench-I2V: 1,118 prompts on 355 images, five each

Names, seeds, ratio, crf and frame rate are as VBench wants them, steps and multiplier as in Pusa's
paper. VBench judges the folder in an environment of its own; `pusa-jax vbench score` adds up."""

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
    add("--info", metavar="FILE", help="vbench2_i2v_full_info.json of VBench")
    add("--images", metavar="FOLDER", help="its images of a ratio, data/crop/16-9")
    add("--output", metavar="FOLDER", help="for the videos alone; what is about them lies beside")
    add("--subset", action="store_true", help="50 prompts of each kind: 750 videos")
    add("--model", help="as in pusa-jax i2v (default: tiny)")
    add("--negative_prompt", help="what should not happen (default: the one Pusa uses)")
    add("--noise_multiplier", type=float, help="of the image (default: 0, it is kept)")
    add("--dry_run", action="store_true", help="check everything, make nothing")
    add_how_flags(parser)
    parser.set_defaults(crf=None)  # VBench's, unless one is given


def add_score_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `pusa-jax vbench score`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = SCORE_EPILOG
    add = parser.add_argument
    add("results", nargs="+", help="NAME_eval_results.json of VBench, or a folder of them")
    add("--name", default="this run", help="of the model, in the table (default: this run)")
    parser.set_defaults(run=run_score)


def run_score(args: argparse.Namespace) -> int:
    """Prints the published total beside the paper's rows."""
    from pusa_jax.vbench.published import table
    from pusa_jax.vbench.score import read_scores, total_of

    scores = read_scores(map(Path, args.results))
    print(table(args.name, scores, total_of(scores)))
    return 0


def run_vbench(args: argparse.Namespace) -> int:
    """Checks the list, the images and the model, writes the lines and runs them."""
    lacking = [f"--{name}" for name in NEEDED if getattr(args, name) is None]
    if lacking:
        raise ValueError(f"pusa-jax vbench needs {', '.join(lacking)}; see --help.")
    args.console.begin()
    from pusa_jax.files import fingerprints
    from pusa_jax.vbench import protocol, suite

    images, output = Path(args.images), Path(args.output)
    listed = suite.read_suite(Path(args.info))
    prompts = suite.subset(listed) if args.subset else listed
    there = protocol.check_folder(output, listed)
    missing = suite.missing_images(prompts, images)
    for name in missing:
        args.console.line(f"  missing: {name}")
    suite.check_images(prompts, images)
    jobs = list(protocol.jobs_of(prompts, images.absolute(), args.seed, common_fields(args)))
    record = checked(jobs[0], images)
    record |= {"videos": len(jobs), "subset": args.subset, "seed": args.seed}
    args.console.close()
    print(
        f"{len(prompts)} prompts, {len({p.image for p in prompts})} images, {len(jobs)} videos, "
        f"{there} of them there; --ratio {record['ratio']} for VBench"
    )
    if not args.dry_run:
        record["list_sha256"] = fingerprints.of_file(args.info)
        lines = protocol.write_beside(output, jobs, record)
        manifest = protocol.beside(output, "manifest.jsonl")
        print(f"next: pusa-jax batch {lines} --output {output} --manifest {manifest}")
    return 0


def common_fields(args: argparse.Namespace) -> dict[str, Any]:
    """What the flags ask of all videos, by the names of fields; the seed is of each its own.

    Names on the Hub have their commit, so that a run that goes on next week is of the same weights.
    """
    from pusa_jax.inference import packaged
    from pusa_jax.vbench.protocol import OF_PUSA, PROTOCOL

    plain = Parser(prog="pusa-jax vbench", add_help=False)
    add_how_flags(plain)
    usual = vars(plain.parse_args([])) | {"crf": None}
    names = {"model", "negative_prompt", *usual} - {"seed", "no_compilation_cache"}
    given = {name: value for name in sorted(names) if (value := getattr(args, name)) is not None}
    asked = {name: value for name, value in given.items() if value != usual.get(name)}
    for name, kind in KINDS.items():
        match asked.get(name):
            case str(path):
                asked[name] = packaged.named(packaged.found(path, kind))
            case list(paths):
                asked[name] = [packaged.named(packaged.found(path, kind)) for path in paths]
    if args.noise_multiplier is not None:
        asked["noise_multipliers"] = [args.noise_multiplier]
    is_pusa = not args.fast and args.preset == usual["preset"]
    return {k: v for k, v in PROTOCOL.items() if is_pusa or k not in OF_PUSA} | asked


def checked(fields: dict[str, Any], images: Path) -> dict[str, Any]:
    """Makes sure that the first job can be run, as all can then; says what it is.

    Raises:
      ValueError, OSError: one line saying what is wrong with model, LoRA files, settings, or ratio.
    """
    from pusa_jax.inference import jobs
    from pusa_jax.vbench.suite import check_ratio

    plain = Parser(prog="pusa-jax vbench", add_help=False)
    add_sampling_flags(plain, "i2v")
    args = plain.parse_args(["--image_paths", *fields["image_paths"]])
    vars(args).update(fields, noise_multipliers=tuple(fields["noise_multipliers"]))
    job, model = job_of(args)
    ratio = check_ratio(images, job.settings.height, job.settings.width)
    job_record = jobs.prepare(job, "0.mp4", model).job.as_record()
    del job_record["folder"]
    return {"ratio": ratio, "first": job_record}
