"""The command `pusa-jax web`: its flags and what it prints."""

import argparse
import importlib.util
import threading
from pathlib import Path

from pusa_jax.cli.programs import add_cache_flag, keep_programs

DESCRIPTION = """open a page where pictures are dropped and noise is dragged

One timeline of latent frames, the table of noise levels beside it, a queue of one job at a time.
Without --models it has the tiny model that comes along. It listens on this machine alone unless
--host says otherwise, and there is no password."""

EPILOG = """examples:
  pusa-jax web
  pusa-jax web --models /data/models --output /data/videos --port 7861"""


def add_web_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `pusa-jax web`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description, parser.epilog = DESCRIPTION, EPILOG
    add = parser.add_argument
    add(
        "--models",
        metavar="DIR",
        help="models to choose from, a folder each; LoRA files beside them or in its folder loras",
    )
    add("--output", default="outputs/web", metavar="DIR", help="results (default: outputs/web)")
    add("--host", default="127.0.0.1", help="address to listen on (default: this machine alone)")
    add("--port", type=int, default=7860, help="0 takes a free one (default: 7860)")
    add_cache_flag(parser)
    parser.set_defaults(run=run_web)


def run_web(args: argparse.Namespace) -> int:
    """Serves the page until it is interrupted."""
    if importlib.util.find_spec("gradio") is None:
        raise ImportError('pusa-jax web needs Gradio: pip install "pusa_jax[web]".')
    from pusa_jax.web.server import LOOPBACK, free_port, serving

    models = None if args.models is None else Path(args.models)
    if models is not None and not models.is_dir():
        raise FileNotFoundError(f"--models {models} is no folder.")
    free_port(args.host, args.port)  # before anything is loaded
    if not args.no_compilation_cache:
        threading.Thread(target=keep_programs, args=(args.console,), daemon=True).start()
    with serving(Path(args.output), models, args.host, args.port) as address:
        if args.host not in LOOPBACK:
            print(f"careful: everybody who reaches {args.host} can use this page.", flush=True)
        print(f"pusa-jax web: {address} (Ctrl-C ends it)", flush=True)
        threading.Event().wait()
    return 0
