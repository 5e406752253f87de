"""The command `pusa-jax fvd`: its flags and what it prints."""

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from pusa_jax.cli import together
from pusa_jax.cli.programs import add_cache_flag, keep_programs

DESCRIPTION = """measure how far generated videos are from real ones: FVD, lower is nearer

One clip of each video, features of the I3D network, the Fréchet distance of the two sets; defaults
are those of fvd2048_16f in FVDM and Latte. A killed run goes on where it was."""

EPILOG = """examples:
  pusa-jax fvd sky-frames generated --features i3d_torchscript.pt
  pusa-jax fvd sky-frames generated --features i3d_torchscript.pt --clips 256
  pusa-jax fvd truth generated --features i3d_torchscript.pt --real_interval 1   (image-to-video)
  pusa-jax fvd sky-frames long --features i3d_torchscript.pt --frames 128

Folders hold videos, or folders of pictures, which are the frames of one video each. The weights are
the file i3d_torchscript.pt that the metric of StyleGAN-V (github.com/universome/stylegan-v) names;
rgb_imagenet.pt of pytorch-i3d is read as well and gives other numbers. Nothing is downloaded."""


def add_fvd_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `pusa-jax fvd`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description, parser.epilog = DESCRIPTION, EPILOG
    add = parser.add_argument
    add("real", help="folder of real videos")
    add("generated", help="folder of generated videos")
    add("--features", help="weights of the I3D network: i3d_torchscript.pt")
    add("--clips", type=int, default=2048, help="clips of each kind (default: 2048)")
    add(
        "--real_clips",
        type=int,
        help="real clips, where there are fewer videos (default: as many as --clips)",
    )
    add("--frames", type=int, default=16, help="frames of a clip (default: 16)")
    add("--size", type=int, default=256, help="pixels that frames are brought to (default: 256)")
    add(
        "--real_interval",
        type=int,
        default=3,
        help="every n-th frame of real videos is taken (default: 3)",
    )
    add(
        "--generated_interval",
        type=int,
        default=1,
        help="every n-th frame of generated videos is taken (default: 1)",
    )
    add("--seed", type=int, default=0, help="decides where real clips begin (default: 0)")
    add(
        "--statistics",
        metavar="FILE.npz",
        help="statistics of the real clips: read if the file is there, written if not",
    )
    add(
        "--work",
        default="outputs/fvd",
        help="folder in which features are kept (default: outputs/fvd)",
    )
    add_cache_flag(parser)
    parser.set_defaults(run=run_fvd)


def run_fvd(args: argparse.Namespace) -> int:
    """Prints the distance of two folders of videos."""
    args.console.begin()
    from pusa_jax.devices import processes
    from pusa_jax.evaluation.features import WHERE, Extractor
    from pusa_jax.evaluation.frechet import distance
    from pusa_jax.evaluation.fvd import FVDConfig, list_of, statistics_of
    from pusa_jax.evaluation.saved import read_statistics, write_statistics

    names = [field.name for field in dataclasses.fields(FVDConfig)]
    config = FVDConfig(**{name: getattr(args, name) for name in names})
    if args.features is None:
        raise ValueError(f"the weights of the I3D network are missing: give --features; {WHERE}.")
    saved = None if args.statistics is None else _checked(Path(args.statistics))
    extractor = Extractor(Path(args.features))
    settings = dataclasses.asdict(config.side("real")) | {"network": extractor.fingerprint}
    found: dict[str, Any] = {}
    if saved is not None and saved.is_file():
        found["real"] = read_statistics(saved, settings)
    chosen = {
        what: config.side(what).choose(Path(getattr(args, what)), args.console)
        for what in ("real", "generated")
        if what not in found
    }
    together.agree_on(
        {f"{what} videos": list_of(clips) for what, clips in chosen.items()}
        | {"weights": extractor.fingerprint, "statistics": "read" if found else "none"}
    )
    if not args.no_compilation_cache:
        keep_programs(args.console)
    for what, clips in chosen.items():
        side = config.side(what)
        found[what] = statistics_of(side, clips, extractor, Path(args.work), args.console)
    if saved is not None and "real" in chosen and processes.is_first():
        write_statistics(saved, found["real"], settings)
    value = distance(found["real"], found["generated"])
    args.console.close()
    if processes.is_first():
        few = [what for what in ("real", "generated") if found[what].count <= extractor.width]
        if few:
            args.console.line(
                f"pusa-jax: careful: {' and '.join(few)} clips are no more than the "
                f"{extractor.width} features of the network; FVD of so few says little."
            )
        other = f" ({found['real'].count} real clips)" if config.real_clips else ""
        print(f"{config.name} = {value:.6g}{other}")
    return 0


def _checked(path: Path) -> Path:
    """The path, if statistics can lie there."""
    from pusa_jax.files.atomic import check_writable

    if path.suffix != ".npz":
        raise ValueError(f"statistics are a file that ends in .npz, got {path.name!r}.")
    if not path.is_file():
        check_writable(path)
    return path
