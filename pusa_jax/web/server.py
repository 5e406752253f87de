"""Serves the page until it is interrupted."""

import contextlib
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

LARGEST = "1gb"
"""Size of an upload."""

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def free_port(host: str, port: int) -> int:
    """The port itself, or for 0 one that is free.

    Raises:
      OSError: it cannot be listened on; one line.
    """
    kind = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(kind, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            why = getattr(error, "strerror", None) or error
            raise OSError(
                f"port {port} of {host} cannot be used ({why}); name another one with --port."
            ) from None
        return probe.getsockname()[1]


@contextlib.contextmanager
def serving(output: Path, models: Path | None, host: str, port: int) -> Iterator[str]:
    """Serves the page while the context is open; yields its address.

    Args:
      output: folder of the results.
      models: folder of models and LoRA files.
      host: address to listen on.
      port: see `free_port`.
    """
    port = free_port(host, port)
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="pusa-jax-web-") as uploads:
        # Both are read when Gradio is imported.
        os.environ["GRADIO_TEMP_DIR"] = uploads
        os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
        import gradio as gr  # pyright: ignore[reportMissingImports]

        from pusa_jax.web.folders import Folders
        from pusa_jax.web.page import CSS, build
        from pusa_jax.web.service import Service

        folders = Folders(output=output, uploads=Path(uploads), models=models)
        page = build(Service(folders))
        fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
        _, address, _ = page.queue().launch(
            server_name=host,
            server_port=port,
            prevent_thread_lock=True,
            quiet=True,
            share=False,
            ssr_mode=False,
            max_file_size=LARGEST,
            allowed_paths=[str(output.resolve())],
            footer_links=["api"],
            theme=gr.themes.Default(**fonts),
            css=CSS,
        )
        try:
            yield address
        finally:
            page.close(verbose=False)
