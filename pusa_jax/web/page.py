"""The page: fields and buttons of Gradio around a `Service`; knows neither models nor JAX."""

from collections.abc import Iterator
from html import escape
from typing import Any

import gradio as gr  # pyright: ignore[reportMissingImports]

from pusa_jax.cli.printing import one_line
from pusa_jax.web import timeline
from pusa_jax.web.asked import SETTINGS, Asked
from pusa_jax.web.endpoints import add_endpoints
from pusa_jax.web.run import Cancelled, Made
from pusa_jax.web.service import Service

TASKS = ("t2v", "i2v", "start-end", "interpolate", "complete", "extend", "transition", "loop")

PROMPT = "a red circle moves right on black"

CSS = """
.noise-table text { font: 11px system-ui, sans-serif; fill: currentColor; }
.pj-status { font-variant-numeric: tabular-nums; min-height: 1.6em; }
"""

LIVE = {"queue": False, "show_progress": "hidden", "trigger_mode": "always_last"}
"""Events that follow the hand."""


def build(service: Service) -> gr.Blocks:
    """The whole page."""
    folders = service.folders
    with gr.Blocks(title="pusa-jax", analytics_enabled=False) as page:
        gr.Markdown("## pusa-jax: noise per latent frame, by hand")
        with gr.Row():
            with gr.Column(scale=3):
                task = gr.Radio(list(TASKS), value="i2v", label="task", elem_id="task")
                line = gr.HTML(
                    value="",
                    html_template='<div class="pj-timeline"></div>',
                    css_template=timeline.source("css"),
                    js_on_load=timeline.source("js"),
                    elem_id="timeline",
                )
            with gr.Column(scale=2):
                table = gr.HTML(label="noise levels, a row per step", elem_id="table")
        with gr.Row():
            with gr.Column(scale=3):
                prompt = gr.Textbox(PROMPT, label="prompt", lines=2, elem_id="prompt")
                with gr.Row():
                    go = gr.Button("run", variant="primary", elem_id="run")
                    stop = gr.Button("cancel", elem_id="cancel")
                status = gr.HTML(_status("ready"), elem_id="status")
                numbers = _number_fields()
                with gr.Accordion("model", open=False):
                    negative = gr.Textbox("", label="negative prompt (empty: as published)")
                    names, loras = folders.model_names(), folders.lora_names()
                    model = gr.Dropdown(names, value=names[0], label="model", elem_id="model")
                    lora = gr.Dropdown(["", *loras], value="", label="LoRA", elem_id="lora")
                    strength = gr.Number(1.0, label="strength of the LoRA", step=0.1)
            with gr.Column(scale=2):
                preview = gr.Image(
                    label="latents", elem_id="preview", interactive=False, height=140, buttons=[]
                )
                video = gr.Video(label="result", elem_id="result", loop=True, interactive=False)
                gallery = gr.Dropdown(
                    folders.result_names(), value=None, label="earlier results", elem_id="gallery"
                )
                take = gr.Button("take these settings", elem_id="take")
        asks = [line, task, prompt, negative, model, lora, strength, *numbers]
        shown = [task, prompt, negative, model, lora, strength, *numbers, line, table, status]

        fresh = {"fn": _fresh(service), "inputs": asks, "outputs": [line, table]}
        page.load(**fresh, api_name="start", **LIVE)
        for field in (task, model):
            field.input(**fresh, api_visibility="private", **LIVE)
        refit = fresh | {"fn": _refit(service)}
        numbers[0].change(**refit, api_visibility="private", **LIVE)
        draw = {"fn": _draw(service), "inputs": asks, "outputs": table}
        line.input(**draw, api_visibility="private", **LIVE)
        for field in numbers[1:]:
            field.change(**draw, api_visibility="private", **LIVE)
        go.click(_announce(service), None, status, api_visibility="private", **LIVE).then(
            _run(service),
            asks,
            [status, preview, video, gallery],
            show_progress="hidden",
            concurrency_limit=1,
            concurrency_id="job",
            api_visibility="private",
        )
        stop.click(_cancel(service), None, status, queue=False, api_name="cancel")
        gallery.input(_shown(service), gallery, [video, status], api_visibility="private")
        take.click(_take(service), gallery, shown, api_visibility="private")
        page.load(
            lambda: gr.update(choices=folders.result_names()),
            None,
            gallery,
            api_visibility="private",
            **LIVE,
        )
        add_endpoints(service)
    return page


def _number_fields() -> list[Any]:
    """A field for each of `SETTINGS`, in their order; empty is as published with the model."""
    # Words, not numbers: what is wrong with one is said as on the command line.
    fields = []
    with gr.Row():
        for name in SETTINGS:
            words = name.replace("num_inference_steps", "steps").replace("_", " ")
            given = {"label": words, "elem_id": name, "min_width": 90}
            if name == "solver":
                solvers = ["", "euler", "unipc", "dpm++", "ab2", "ddim"]
                fields.append(gr.Dropdown(solvers, value="", **given))
            else:
                value = "0" if name == "seed" else ""
                fields.append(gr.Textbox(value, placeholder="default", max_lines=1, **given))
    return fields


def _status(text: str) -> str:
    return f'<div class="pj-status">{escape(text)}</div>'


def _asked(state: Any, task: Any, prompt: Any, negative: Any, *others: Any) -> Asked:
    """The fields of the page, in the order of `asks`."""
    model, lora, strength, *numbers = others
    inputs, given = timeline.read(state) if state else ((), ())
    return Asked(
        task=task,
        prompt=prompt or "",
        negative_prompt=negative or "",
        model=model,
        lora=lora or "",
        strength=1.0 if strength is None else float(strength),
        inputs=inputs,
        given=given,
        settings=dict(zip(SETTINGS, numbers, strict=True)),
    )


def _fresh(service: Service) -> Any:
    def fresh(*fields: Any) -> tuple[Any, str]:
        try:
            state = service.fresh(_asked(None, *fields[1:]))
            return state, service.table(_asked(state, *fields[1:]))
        except (ValueError, OSError) as error:
            return gr.skip(), _status(one_line(error))

    return fresh


def _refit(service: Service) -> Any:
    """A new length begins anew; settings of a video, which have theirs already, stay."""

    def refit(*fields: Any) -> tuple[Any, str]:
        state, table = _fresh(service)(*fields)
        is_same = isinstance(state, str) and timeline.length(state) == timeline.length(fields[0])
        return (gr.skip(), _draw(service)(*fields)) if is_same else (state, table)

    return refit


def _announce(service: Service) -> Any:
    def announce(request: gr.Request) -> str:
        service.announce(str(request.session_hash))
        return _status("waiting")

    return announce


def _draw(service: Service) -> Any:
    """The table, or in its place what is wrong."""

    def draw(*fields: Any) -> str:
        try:
            return service.table(_asked(*fields))
        except (ValueError, OSError) as error:
            return _status(one_line(error))

    return draw


def _run(service: Service) -> Any:
    def run(request: gr.Request, *fields: Any) -> Iterator[tuple[Any, Any, Any, Any]]:
        nothing = gr.skip()
        yield _status("checking"), None, None, nothing
        try:
            for news in service.run(_asked(*fields), str(request.session_hash)):
                if isinstance(news, Made):
                    names = service.folders.result_names()
                    choices = gr.update(choices=names, value=news.path.name)
                    yield _status(f"made {news.path.name}"), nothing, str(news.path), choices
                else:
                    picture = nothing if news.preview is None else news.preview
                    yield _status(news.in_words()), picture, nothing, nothing
        except Cancelled:
            yield _status("cancelled"), nothing, nothing, nothing
        except (ValueError, OSError, RuntimeError, MemoryError) as error:
            yield _status(one_line(error)), nothing, nothing, nothing

    return run


def _cancel(service: Service) -> Any:
    def cancel(request: gr.Request) -> str:
        found = service.cancel(str(request.session_hash))
        return _status("cancelling" if found else "nothing of yours is running")

    return cancel


def _shown(service: Service) -> Any:
    def shown(name: str) -> tuple[Any, str]:
        try:
            return str(service.folders.result(name)), _status(f"shows {name}")
        except ValueError as error:
            return None, _status(one_line(error))

    return shown


def _take(service: Service) -> Any:
    def take(name: str | None) -> list[Any]:
        try:
            asked, state, strange = service.settings_of(name or "")
            table = service.table(asked)
        except (ValueError, OSError) as error:
            return [gr.skip()] * (len(SETTINGS) + 8) + [_status(one_line(error))]
        texts = [asked.task, asked.prompt, asked.negative_prompt, asked.model, asked.lora]
        numbers = [str(asked.settings[setting]) for setting in SETTINGS]
        words = "; ".join([f"settings of {name}", *strange])
        return [*texts, asked.strength, *numbers, state, table, _status(words)]

    return take
