"""What `gradio_client` calls: the same jobs without the page.

client.predict("i2v", "a cat stretches", [handle_file("cat.png")], "0", "0.2", {"seed": 1},
               api_name="/generate")          -> path of the video, its record
"""

from pathlib import Path
from typing import Any

import gradio as gr  # pyright: ignore[reportMissingImports]

from pusa_jax.cli.printing import one_line
from pusa_jax.web.asked import Asked
from pusa_jax.web.run import Cancelled, Made
from pusa_jax.web.service import Service

CHOICES = ("model", "lora", "strength", "negative_prompt")
"""Keys of `settings` beside the flags of `asked.SETTINGS`."""


def add_endpoints(service: Service) -> None:
    """Adds `/generate` to the page that is being built; nothing of it is seen."""
    with gr.Row(visible=False):
        task, prompt = gr.Textbox(), gr.Textbox()
        files = gr.File(file_count="multiple")
        at, noise, settings = gr.Textbox(), gr.Textbox(), gr.JSON()
        result, record = gr.File(), gr.JSON()
        button = gr.Button()
    button.click(
        _generate(service),
        [task, prompt, files, at, noise, settings],
        [result, record],
        api_name="generate",
        concurrency_limit=1,
        concurrency_id="job",
    )


def _generate(service: Service) -> Any:
    def generate(
        task: str,
        prompt: str,
        files: list[str] | None,
        at: str,
        noise: str,
        settings: dict[str, Any] | None,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 - how Gradio is asked for it
    ) -> tuple[str, dict[str, Any]]:
        """Makes a video; returns the file and the record it carries.

        Args:
          task: t2v, i2v, start-end, interpolate, complete, extend, transition or loop.
          prompt: what happens.
          files: pictures or clips, in order.
          at: places of the given latent frames, as in 0,8; empty is the task's default.
          noise: their noise levels, as in 0.2,0.5; empty is the task's default.
          settings: num_frames, height, width, num_inference_steps, cfg_scale, shift, solver, seed,
            fps, model, lora, strength, negative_prompt; what is left out is as published.
          request: of the visitor.
          progress: told about each stage.
        """
        try:
            asked = asked_of(task, prompt, files or [], at, noise, settings or {})
            if not asked.given:
                asked = service.with_defaults(asked)
            service.announce(str(request.session_hash))
            for news in service.run(asked, str(request.session_hash)):
                if isinstance(news, Made):
                    return str(news.path), news.record
                progress((news.done, news.total), desc=news.stage)
        except Cancelled:
            raise gr.Error("cancelled", print_exception=False) from None
        except (ValueError, OSError, RuntimeError, MemoryError) as error:
            raise gr.Error(one_line(error), print_exception=False) from None
        raise gr.Error("nothing was made", print_exception=False)

    return generate


def asked_of(
    task: str, prompt: str, files: list[str], at: str, noise: str, settings: dict[str, Any]
) -> Asked:
    """The arguments of `/generate` as a job.

    Raises:
      ValueError: places and levels are no numbers, or not equally many.
    """
    try:
        places = [int(part) for part in at.split(",") if part.strip()]
        levels = [float(part) for part in noise.split(",") if part.strip()]
        given = tuple(zip(places, levels, strict=True))
    except ValueError:
        raise ValueError(
            f"places and noise levels are equally many numbers with commas between, got {at!r:.80} "
            f"and {noise!r:.80}."
        ) from None
    chosen = {name: settings[name] for name in CHOICES if name in settings}
    if not all(isinstance(v, float | int if k == "strength" else str) for k, v in chosen.items()):
        raise ValueError(f"model, lora and negative_prompt are words, got {chosen!r:.120}.")
    return Asked(
        task=task,
        prompt=prompt,
        inputs=tuple(str(Path(file)) for file in files),
        given=given,
        settings={name: value for name, value in settings.items() if name not in CHOICES},
        **chosen,
    )
