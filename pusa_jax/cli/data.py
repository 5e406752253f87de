"""The commands `pusa-jax encode` and `pusa-jax data`: their flags and what they print."""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pusa_jax.cli.programs import add_cache_flag, keep_programs

ENCODE_DESCRIPTION = """encode captioned clips, or videos in folders, once: training reads latents

Goes on where an earlier call was interrupted; what is done is not done again. Clips that cannot be
used are skipped and listed with their reasons in DST/skipped.jsonl."""

ENCODE_EPILOG = """examples:
  pusa-jax encode --model Wan2.1-T2V-14B --src clips --dst clips-480p --height 480 --width 832
  for i in 0 1 2 3; do CUDA_VISIBLE_DEVICES=$i pusa-jax encode ... --shard $i/4 & done; wait
  pusa-jax encode --model MODEL --src UCF-101 --dst ucf --layout ucf101 --windows 4

The folder holds metadata.csv (columns file_name,text or video,prompt or the like), metadata.jsonl
or metadata.json with the same names, or a .txt with the caption beside every file; listed files lie
beside the list or in its folder train. A list with a line that can be read in two ways is refused.

With --layout there is no list: every video below the folder gives --windows clips, whose captions
are the numbers of their classes (ucf101: the folders, sorted) or empty. Videos: faceforensics,
ucf101. A folder of numbered pictures per video: skytimelapse, taichi.
"""


def add_encode_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `pusa-jax encode`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description, parser.epilog = ENCODE_DESCRIPTION, ENCODE_EPILOG
    add = parser.add_argument
    add("--model", required=True, help="folder with VAE, text encoder and tokenizer, or tiny")
    add("--src", required=True, help="folder of clips, or its list; folder of a --layout")
    add("--dst", required=True, help="folder of the dataset")
    add("--height", type=int, help="pixels, divisible by 16 (default: 480; of a --layout 256)")
    add("--width", type=int, help="pixels, divisible by 16 (default: 832; of a --layout 256)")
    add(
        "--num_frames",
        type=int,
        help="4k+1, Mochi 6k+1, from the start (default: 81; of a --layout 16, from a window)",
    )
    add(
        "--source_fps",
        choices=["model", "keep"],
        help="bring clips to the model's frame rate, or keep their frames (default: model; of a"
        " --layout keep)",
    )
    add(
        "--layout",
        choices=["faceforensics", "ucf101", "skytimelapse", "taichi"],
        help="videos without captions, in folders as this set has them",
    )
    add("--windows", type=int, help="with --layout, clips drawn of every video (default: 1)")
    add("--interval", type=int, help="with --layout, frames of a video for one (default: 3)")
    add("--tiled", action="store_true", help="VAE in overlapping tiles: needs less memory")
    add(
        "--dtype",
        choices=["float32", "bfloat16"],
        default="bfloat16",
        help="of the text encoder (default: bfloat16)",
    )
    _add_shard(parser)
    add_cache_flag(parser)
    add("--dry_run", action="store_true", help="look through list and files, encode nothing")
    parser.set_defaults(run=run_encode)


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what `pusa-jax data` does, `inspect` and `import`, and their flags."""
    what = parser.add_subparsers(title="what to do", metavar="WHAT", required=True)
    sub = what.add_parser(
        "inspect", help="say what a dataset holds and draw a contact sheet",
        description="Prints counts, shapes, captions and norms, and draws a contact sheet.",
    )  # fmt: skip
    sub.add_argument("path", help="folder written by pusa-jax encode or data import")
    sub.add_argument("--count", type=int, default=8, help="clips to look at (default: 8)")
    sub.add_argument("--sheet", help="picture to write (default: PATH/sheet.png)")
    sub.add_argument("--model", help="folder with the VAE; without it the sheet shows latents")
    sub.set_defaults(run=run_inspect)

    sub = what.add_parser(
        "import", help="turn a published set of encoded clips into a dataset",
        description="Imports PusaV1_training (<file_name>.tensors.pth files listed in metadata.csv)"
        " or, for Mochi, PusaV0.5_Training (videos/**/X.latent.pt, captions/**/X.embed.pt).",
    )  # fmt: skip
    sub.add_argument("--src", required=True, help="folder with the files")
    sub.add_argument("--dst", required=True, help="folder of the dataset")
    sub.add_argument("--model", help="folder with the text encoder, to train with dropped captions")
    _add_shard(sub)
    sub.set_defaults(run=run_import)


def _add_shard(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--shard",
        type=_share,
        metavar="I/N",
        help="this process's share of the clips, from 0, as in $SLURM_PROCID/$SLURM_NTASKS",
    )


def _share(text: str) -> tuple[int, int]:
    try:
        index, count = (int(part) for part in text.split("/"))
    except ValueError:
        message = f"expected a share like 0/4, got {text!r}"
        raise argparse.ArgumentTypeError(message) from None
    if not 0 <= index < count:
        raise argparse.ArgumentTypeError(f"of {count} shares there is no {index}, from 0")
    return index, count


def _share_of(args: argparse.Namespace) -> tuple[int, int]:
    import os

    from pusa_jax.devices import processes

    if args.shard is None and processes.is_one_of_several(os.environ):
        raise ValueError(
            "this is one of several processes; say which share of the clips is its own, as in "
            "--shard $SLURM_PROCID/$SLURM_NTASKS (0/1 for all)."
        )
    return args.shard or (0, 1)


def run_encode(args: argparse.Namespace) -> int:
    """Encodes a folder of clips, or this process's share of it."""
    args.console.begin()
    from pusa_jax.data.encode import encode_folder
    from pusa_jax.inference import packaged

    if not args.no_compilation_cache:
        keep_programs(args.console)
    config = _encode_config(args)
    if args.dry_run:
        return _survey(args, config)
    outcome = encode_folder(
        packaged.found(args.model),
        args.src,
        args.dst,
        config,
        share=_share_of(args),
        on_progress=args.console,
    )
    args.console.close()
    return _report(args.dst, outcome)


def _encode_config(args: argparse.Namespace) -> Any:
    """What the flags ask for; those not given are left to the records."""
    from pusa_jax.data.encode import EncodeConfig
    from pusa_jax.data.folders import PUBLISHED, FolderConfig

    def given(*names: str) -> dict[str, Any]:
        return {name: getattr(args, name) for name in names if getattr(args, name) is not None}

    values = given("height", "width", "num_frames", "source_fps", "tiled", "dtype")
    windows = given("windows", "interval")
    if args.layout is not None:
        folders = FolderConfig(layout=args.layout, **windows)
        values = {**PUBLISHED, "source_fps": "keep", "folders": folders, **values}
        return EncodeConfig(**values)
    if windows:
        raise ValueError(f"--{next(iter(windows))} is for videos in folders; name their --layout.")
    return EncodeConfig(**values)


def _survey(args: argparse.Namespace, config: Any) -> int:
    """Prints what would be encoded, and what becomes of frame rates."""
    from pusa_jax.convert.folders.opened import ModelFolder
    from pusa_jax.data.encode import rate_for
    from pusa_jax.data.survey import survey
    from pusa_jax.data.writing import skipped
    from pusa_jax.inference import packaged

    folder = ModelFolder(packaged.found(args.model))
    config.check_for(folder)
    fps = rate_for(folder, config)
    found = survey(Path(args.src), config, fps)
    args.console.close()
    _print_skipped([skipped(clip, reason) for clip, reason in found.unusable])
    for rate, count in sorted(found.rates.items()):
        kept = "kept frame by frame" if fps is None else f"resampled by timestamps to {fps:g}"
        print(
            f"{count} {'pictures' if config.folders is None else 'clips of numbered pictures'}"
            if not rate
            else f"{count} clips of {rate:g} frames a second, {kept}"
        )
    usable = found.count - len(found.unusable)
    print(f"{args.src}: {usable} of {found.count} clips can be encoded, as far as their heads tell")
    return 0


def run_import(args: argparse.Namespace) -> int:
    """Imports clips that are encoded already."""
    from pusa_jax.data import pusa_v05, pusa_v1

    def no_text():
        if args.model is None:
            return None
        from pusa_jax.convert.folders.opened import ModelFolder
        from pusa_jax.inference import packaged
        from pusa_jax.inference.text_encoder import TextEncoder

        return TextEncoder(ModelFolder(packaged.found(args.model)), "bfloat16")("")

    share, src = _share_of(args), Path(args.src)
    if pusa_v05.is_such(src):
        outcome = pusa_v05.import_folder(src, args.dst, share=share, on_progress=args.console)
    else:
        outcome = pusa_v1.import_folder(
            src, args.dst, no_text=no_text, share=share, on_progress=args.console
        )
    args.console.close()
    return _report(args.dst, outcome)


def _print_skipped(skipped: Sequence[Mapping[str, Any]], where: str = "") -> None:
    for clip in skipped[:10]:
        print(f"skipped line {clip['line']}, {clip['file']!r}: {clip['reason']}")
    if len(skipped) > 10:
        print(f"... and {len(skipped) - 10} more{where}")


def _report(dst: str, outcome: Any) -> int:
    _print_skipped(outcome.skipped, f", see {Path(dst) / 'skipped.jsonl'}")
    if outcome.finished:
        print(f"{dst}: {outcome.count} clips, {len(outcome.skipped)} skipped")
    else:
        print(f"{dst}: this share is done; the dataset is complete once all others are.")
    return 0


def run_inspect(args: argparse.Namespace) -> int:
    """Prints what a dataset holds and draws a contact sheet."""
    from pusa_jax.data import inspection
    from pusa_jax.data.encoded import EncodedClips
    from pusa_jax.files.atomic import check_writable
    from pusa_jax.media import video

    if args.count < 1:
        raise ValueError(f"at least one clip must be looked at, got {args.count}.")
    clips = EncodedClips(args.path)
    clips.check()
    sheet = args.sheet or str(Path(args.path) / "sheet.png")
    check_writable(sheet)
    show = inspection.colours
    if args.model is not None:
        from pusa_jax.convert.folders.opened import ModelFolder
        from pusa_jax.inference import packaged
        from pusa_jax.inference.networks import LoadedNetwork

        vae = LoadedNetwork(ModelFolder(packaged.found(args.model)), "vae", "float32")
        clips.check_fits(clips.clip_shape, clips.text_shape, vae.record)
        show = inspection.decoded_by(vae.autoencoder())
    examples, record = inspection.measured(clips, args.count)
    captions, odd = record.pop("captions"), record.pop("odd")
    for name, value in record.items():
        print(f"{name:24} {value if isinstance(value, str) else json.dumps(value)}")
    for name, why in odd.items():
        print(f"  odd: {name}: {why}")
    for name, caption in captions.items():
        print(f"  {name}: {caption}")
    video.write_png(sheet, inspection.contact_sheet(examples, show))
    print(f"{sheet}: {len(examples)} clips, one per row")
    return 0
