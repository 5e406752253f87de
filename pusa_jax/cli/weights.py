"""The commands that read and write weights: `pusa-jax convert`, `export` and `extract-lora`."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pusa_jax.models.family import Name

EXPORT_DESCRIPTION = """write weights in the form that other tools load

SRC may be a model folder, a LoRA file of any dialect, or the workdir of a training run; of a run
the newest checkpoint is taken. Models become a published folder, LoRA a .safetensors file for
ComfyUI, Diffusers and PEFT; with a run goes a model card. Nothing half-written is left behind."""

EXPORT_EPILOG = """examples:
  pusa-jax export --src runs/pusa --dst pusa-lora           (a trained LoRA, with its card)
  pusa-jax export --src runs/full --dst full --layout diffusers --with_base
  pusa-jax export --src wan-14b --dst out --lora_path pusa_v1.pt --lora_alpha 1.4
  pusa-jax export --src pusa_v1.pt --dst pusa.safetensors"""


EXTRACT_DESCRIPTION = """make a LoRA of what tuning has changed, by singular value decomposition

Reads two models layer by layer and says how much of their difference the LoRA holds: the share of
the sum of squares, over all layers and in the worst one."""

EXTRACT_EPILOG = """example:
  pusa-jax extract-lora --tuned full --base Wan2.1-T2V-14B --rank 512 --dst pusa.safetensors"""


def add_convert_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `pusa-jax convert`."""
    add = parser.add_argument
    add("--src", required=True, help="folder or file as published, or a name on the Hub")
    add("--dst", required=True, help="folder to make")
    add("--dtype", choices=["float32", "bfloat16"], help="cast on the way")
    add("--overwrite", action="store_true", help="replace an existing folder")


def add_export_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `pusa-jax export`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description, parser.epilog = EXPORT_DESCRIPTION, EXPORT_EPILOG
    add = parser.add_argument
    add("--src", required=True, help="model folder, LoRA file or workdir of a run")
    add("--dst", required=True, help="folder to make; for a LoRA file, a .safetensors file")
    add("--layout", choices=["original", "diffusers"], default="original", help="of a model")
    add(
        "--naming",
        choices=["comfy", "pusa_v1", "genmo"],
        default="comfy",
        help="of a LoRA's tensors",
    )
    add_lora_flags(parser)
    add("--step", type=int, help="checkpoint of a run (default: the newest)")
    add("--average", action="store_true", help="the running average of a run")
    add("--dtype", choices=["float32", "bfloat16"], help="of what a run has (default: bfloat16)")
    add("--with_base", action="store_true", help="VAE and text encoder of a run's base as well")
    add("--overwrite", action="store_true", help="replace an earlier export at DST")


def add_extract_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `pusa-jax extract-lora`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description, parser.epilog = EXTRACT_DESCRIPTION, EXTRACT_EPILOG
    add = parser.add_argument
    add("--tuned", required=True, help="model folder, file or name on the Hub")
    add("--base", required=True, help="the model it was tuned from, in any layout")
    add("--rank", type=int, required=True, help="of the LoRA")
    add("--dst", required=True, help="a .safetensors file")
    add("--expert", choices=["high", "low"], help="of models with two: which one differs")
    add("--targets", help="regular expression on paths of layers (default: those of Pusa)")
    add("--naming", choices=["comfy", "pusa_v1", "genmo"], default="comfy", help="of the tensors")
    add("--dtype", choices=["float32", "bfloat16"], default="bfloat16", help="of the factors")


EXPERT_NAMES: "dict[str | None, Name]" = {"high": "dit", "low": "dit_low"}

STRENGTHS = {"lora": 1.4, "high_lora": 1.5, "low_lora": 1.4}
"""Beginning of a flag -> strength of the LoRA files it names, where none is given."""


def add_lora_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that name LoRA files to be merged; `loras_of` reads them."""
    add = parser.add_argument
    for kind, strength in STRENGTHS.items():
        expert = "" if kind == "lora" else f" for the {kind.removesuffix('_lora')}-noise expert"
        add(
            f"--{kind}_path",
            action="append",
            default=[],
            metavar="FILE",
            help=f"LoRA file{expert}, or OWNER/NAME[@REVISION]/FILE on the Hub; may be repeated",
        )
        add(
            f"--{kind}_alpha", action="append", type=float, default=[], metavar="NUMBER",
            help=f"strength of each LoRA, in order (default: {strength}); 1 is as trained",
        )  # fmt: skip
    add(
        "--lightx2v",
        nargs="+",
        default=[],
        metavar="PATH",
        help="LoRA for 4 steps, merged first at its own strength; of two experts both files, that "
        "for high noise first, or their folder",
    )
    add(
        "--ignore_differences",
        action="store_true",
        help="leave out full differences in LoRA files (diff, diff_b, diff_m), as Pusa's loaders "
        "do (default: they are added)",
    )


def loras_of(args: argparse.Namespace, kind: str = "lora") -> tuple[tuple[str, float], ...]:
    """Files and strengths of a key of `STRENGTHS`; names on the Hub are found there.

    Raises:
      ValueError: there are not as many strengths as files.
      OSError: see `packaged.found`.
    """
    from pusa_jax.inference import packaged

    paths, strengths = getattr(args, f"{kind}_path"), getattr(args, f"{kind}_alpha")
    strengths = strengths or [STRENGTHS[kind]] * len(paths)
    if len(strengths) != len(paths):
        raise ValueError(
            f"one --{kind}_alpha per --{kind}_path is needed, got {len(strengths)} for "
            f"{len(paths)} files."
        )
    return tuple((packaged.found(p, "lora"), s) for p, s in zip(paths, strengths, strict=True))


def all_loras_of(args: argparse.Namespace, num_experts: int) -> dict[str, Any]:
    """What is merged into a model: `lora`, `low_lora` and `lightx2v` of `read_adapters`.

    Args:
      args: parsed.
      num_experts: denoisers of the model.

    Raises:
      ValueError: flags of a model with another number of denoisers, or see `loras_of`.
    """
    from pusa_jax.inference import packaged

    loras = {kind: loras_of(args, kind) for kind in STRENGTHS}
    if num_experts > 1 and loras["lora"]:
        raise ValueError(
            "the model has two experts: give their LoRA files with --high_lora_path and "
            "--low_lora_path instead of --lora_path."
        )
    for kind in ("high_lora", "low_lora"):
        if num_experts == 1 and loras[kind]:
            raise ValueError(
                f"--{kind}_path: the model has one denoiser; give --lora_path instead."
            )
    return {
        "lora": loras["lora"] or loras["high_lora"],
        "low_lora": loras["low_lora"],
        "lightx2v": tuple(packaged.found(path, "loras") for path in args.lightx2v),
    }


def run_convert(args: argparse.Namespace) -> int:
    """Converts published weights."""
    import jax

    from pusa_jax.convert.folders.converted import convert_folder
    from pusa_jax.inference import packaged

    jax.config.update("jax_platforms", "cpu")  # started on every host, it needs no accelerator
    console = args.console
    convert_folder(
        packaged.found(args.src),
        args.dst,
        dtype=args.dtype,
        overwrite=args.overwrite,
        on_progress=console,
    )
    console.close()
    print(f"{args.dst}: ready; use it as --model {args.dst}")
    return 0


def run_export(args: argparse.Namespace) -> int:
    """Writes weights in the form that other tools load."""
    from pusa_jax.convert.folders.export import export_model
    from pusa_jax.convert.folders.lora_files import export_lora
    from pusa_jax.convert.folders.opened import ModelFolder
    from pusa_jax.inference import packaged
    from pusa_jax.training.finished import is_workdir

    src, dst = Path(packaged.found(args.src)), Path(args.dst)
    loras = [*args.lora_path, *args.high_lora_path, *args.low_lora_path, *args.lightx2v]
    of_runs = {"--step": args.step, "--average": args.average, "--dtype": args.dtype}
    given = [flag for flag, value in (of_runs | {"--with_base": args.with_base}).items() if value]
    if is_workdir(src):
        if loras:
            raise ValueError(f"LoRA files merge into a model folder, {src} is a run's workdir.")
        written = _export_run(args, src, dst)
    elif given:
        raise ValueError(f"{given[0]} is for the workdir of a run, which {src} is not.")
    elif src.is_file() and not _holds_model(src):
        written = [export_lora(src, dst, args.naming, overwrite=args.overwrite)]
    else:
        console = args.console
        folder = ModelFolder(src)
        merged = all_loras_of(args, len(folder.family.experts))
        merged |= {"on_progress": console, "overwrite": args.overwrite}
        merged["add_differences"] = not args.ignore_differences
        written = export_model(folder, dst, args.layout, **merged)
        console.close()
    print("\n".join(str(path) for path in written))
    return 0


def run_extract(args: argparse.Namespace) -> int:
    """Makes a LoRA of the difference between two models."""
    # Before numpy comes in: many small decompositions, whose threads would wait for each other, and
    # for those of jax, 60 times as long as one of them computes.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from pusa_jax.convert.extract import extract_lora
    from pusa_jax.convert.folders.lora_files import check_lora_destination
    from pusa_jax.convert.folders.opened import ModelFolder
    from pusa_jax.convert.lora import write_lora
    from pusa_jax.convert.networks import FOREIGN
    from pusa_jax.inference import packaged
    from pusa_jax.models.family import Name

    dst, console = Path(args.dst), args.console
    check_lora_destination(dst)
    tuned = ModelFolder(packaged.found(args.tuned))
    found = extract_lora(
        tuned,
        ModelFolder(packaged.found(args.base)),
        args.rank,
        targets=args.targets,
        expert=EXPERT_NAMES.get(args.expert),
        dtype=args.dtype,
        on_progress=console,
    )
    console.close()
    denoiser: Name = next(name for name in tuned.family.experts if name in tuned.names)
    names = {"made_from": Path(args.tuned).name, "base": Path(args.base).name}
    numbers = {"rank": str(args.rank), "captured_energy": f"{found.captured:.6f}"}
    write_lora(
        dst,
        found.lora,
        FOREIGN[tuned.family.name].lora.of(tuned.config(denoiser)),
        dtype=args.dtype,
        naming=args.naming,
        metadata=names | numbers,
    )
    target, share = found.least
    print(
        f"{dst}: {len(found.lora.modules)} layers at rank {args.rank} hold {found.captured:.2%} of "
        f"their difference; least {share:.2%}, {target}"
    )
    if found.others:
        print(
            f"not in it: {len(found.others)} other leaves that differ, first {found.others[0]}; "
            f"they are {found.left_out:.2%} of the whole difference"
        )
    return 0


def _holds_model(file: Path) -> bool:
    """Whether a file of weights is a network, not a LoRA for one."""
    from pusa_jax.convert.folders.opened import ModelFolder

    try:
        ModelFolder(file)
    except FileNotFoundError:
        return False
    return True


def _export_run(args: argparse.Namespace, src: Path, dst: Path) -> list[Path]:
    from pusa_jax.training.export import export_adapters, export_model
    from pusa_jax.training.finished import read_result

    result = read_result(src, args.step, average=args.average)
    asked: dict[str, Any] = {"dtype": args.dtype or "bfloat16", "overwrite": args.overwrite}
    if result.run.adapter is not None:
        return export_adapters(result, dst, naming=args.naming, **asked)
    return export_model(result, dst, layout=args.layout, with_base=args.with_base, **asked)
