"""The page in a real browser: drop a picture, drag noise, run, play, cancel, take settings."""

import base64
import re

import pytest

from pusa_jax.media.outputs import read_record

pytestmark = pytest.mark.long
SLOW = 45_000

DROP = """([place, data, name]) => {
  const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], name, { type: "image/png" }));
  const target = document.querySelector(`#timeline [data-place="${place}"] .pj-column`);
  const box = target.getBoundingClientRect();
  const where = { clientX: box.x + box.width / 2, clientY: box.y + 5 };
  const said = { bubbles: true, cancelable: true, dataTransfer: transfer, ...where };
  target.dispatchEvent(new DragEvent("drop", said));
}"""


@pytest.fixture
def page(chromium, served):
    """The page, loaded; what goes wrong in its scripts fails the test."""
    page, wrong = chromium.new_page(viewport={"width": 1280, "height": 1000}), []
    page.on("pageerror", lambda error: wrong.append(error))
    page.set_default_timeout(SLOW)
    page.goto(served.address)
    page.wait_for_selector("#timeline [data-place='8']")
    page.wait_for_selector("#table svg rect")
    yield page
    page.close()
    assert not wrong


def drop(page, picture, place):
    """Drops a picture on a frame and waits until it is seen there."""
    data = base64.b64encode(picture.read_bytes()).decode()
    page.evaluate(DROP, [place, data, picture.name])
    page.wait_for_selector(f"#timeline [data-place='{place}'] image")


def drag(page, place, level):
    """Drags the bar of a frame to a noise level, with the mouse."""
    page.locator("#timeline").scroll_into_view_if_needed()
    box = page.locator(f"#timeline [data-place='{place}'] .pj-column").bounding_box()
    handle = page.locator(f"#timeline [data-place='{place}'] .pj-handle").bounding_box()
    x = box["x"] + box["width"] / 2
    page.mouse.move(x, handle["y"] + handle["height"] / 2)
    page.mouse.down()
    page.mouse.move(x, box["y"] + (1 - level) * box["height"], steps=5)
    page.mouse.up()


def status(page, pattern):
    """Waits for a status and returns it."""
    found = page.locator("#status", has_text=re.compile(pattern))
    found.wait_for()
    return found.inner_text()


def fill(page, name, value):
    page.locator(f"#{name} input, #{name} textarea").first.fill(value)


def test_drop_drag_run_play_and_take_the_settings(page, served, picture):
    drop(page, picture, 0)
    drag(page, 0, 0.6)
    shown = page.locator("#timeline [data-place='0'] .pj-handle").get_attribute("aria-valuenow")
    assert float(shown) == pytest.approx(0.6, abs=0.02)
    page.wait_for_function(
        "level => Math.abs(document.querySelector('#table rect').dataset.level - level) < 0.002",
        arg=float(shown),
    )
    fill(page, "num_inference_steps", "3")
    page.click("#run")
    name = status(page, r"made \S+\.mp4").split()[-1]
    job = read_record(served.output / name)["job"]
    assert job["task"] == "i2v" and job["at"] == [0] and job["settings"]["num_steps"] == 3
    assert job["multipliers"] == [float(shown)]
    assert page.locator("#preview img").count() == 1
    page.wait_for_selector("#result video")
    played = page.evaluate(
        "async () => { const v = document.querySelector('#result video'); v.muted = true;"
        "await v.play(); await new Promise(r => setTimeout(r, 500));"
        "return [v.currentTime, v.error]; }"
    )
    assert played[0] > 0 and played[1] is None

    page.locator("#task input[value='t2v']").check()
    page.wait_for_function("!document.querySelector('#timeline .pj-given')")
    page.click("#take")
    status(page, f"settings of {name}")
    page.wait_for_selector("#timeline [data-place='0'] image")
    state = page.locator("#timeline [data-place='0'] .pj-handle").get_attribute("aria-valuenow")
    assert state == shown


def test_cancel_ends_a_run_and_the_next_one_works(page, served):
    page.locator("#task input[value='t2v']").check()
    page.wait_for_function("!document.querySelector('#timeline .pj-given')")
    before = set(served.output.glob("*.mp4"))
    fill(page, "num_inference_steps", "3000")
    page.click("#run")
    status(page, r"denoise \d+/3000, .* left")
    page.click("#cancel")
    status(page, "cancelled")
    assert set(served.output.glob("*.mp4")) == before
    fill(page, "num_inference_steps", "2")
    page.click("#run")
    name = status(page, r"made \S+\.mp4").split()[-1]
    assert read_record(served.output / name)["job"]["settings"]["num_steps"] == 2


def test_what_is_wrong_is_one_line(page):
    page.click("#run")
    assert "drop it on the timeline" in status(page, "needs the image")
    fill(page, "height", "50")
    page.locator("#table", has_text="height must be divisible by 16, got 50; nearest").wait_for()
