"""The page in Chromium, as a person uses it: each part end to end, by mouse, by keyboard, on a phone."""

import io
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sfumato.emoji import EXAMPLES
from sfumato.images import recipe_in
from tests.apps.web.serving import Client
from tests.browser.conftest import AXE
from tests.command import invoke

Open = Callable[..., Any]
PAGES = ("edit", "compare", "morph", "slider", "attention", "methods", "history")


@pytest.fixture
def cat(tmp_path: Path) -> Path:
    return Path(shutil.copy(EXAMPLES / "cat.png", tmp_path))


def prepare(page: Any, image: Path | None, *, steps: int = 3, source: str = "a cat", target: str = "a dog") -> None:
    """Gives the image, says what it shows and what it should show, and how many steps to run."""
    if image is not None:
        page.locator(".stage input[type=file]").set_input_files(image)
        page.get_by_alt_text("The source image").wait_for()
    page.get_by_label("The image shows").fill(source)
    page.get_by_label("It should show").fill(target)
    if not page.get_by_label("Steps", exact=True).is_visible():
        page.get_by_text("Settings", exact=True).click()
    page.get_by_label("Steps", exact=True).fill(str(steps))
    page.get_by_label("Steps", exact=True).press("Tab")


def run(page: Any) -> None:
    page.get_by_role("button", name="Edit", exact=True).click()
    page.get_by_role("slider", name="How much of the source is shown").wait_for()


def result(page: Any) -> bytes:
    with page.expect_download() as download:
        page.get_by_role("link", name="Download", exact=True).click()
    return Path(download.value.path()).read_bytes()


def test_an_edit_from_a_file_to_the_download(
    opened: Open, client: Client, cat: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = opened()
    prepare(page, cat)
    run(page)
    data = result(page)
    assert recipe_in(data, "it")["num_inference_steps"] == 3
    assert recipe_in(data, "it")["image"]["path"] == "cat.png"
    upload = client.send(cat.read_bytes())
    asked = {"command": "edit", "source_prompt": "a cat", "target_prompts": ["a dog"], "num_inference_steps": 3}
    alone = client.run(asked, image=upload["id"])
    assert Image.open(io.BytesIO(data)).tobytes() == client.file(alone, "image-0.png").image.tobytes()
    page.get_by_role("button", name="As command").click()
    command = shlex.split(page.locator("dialog pre").inner_text())
    assert command[:3] == ["sfumato", "edit", "cat.png"]
    monkeypatch.chdir(cat.parent)
    done = invoke(*command[1:], "--device", "cpu")
    assert done.exit_code == 0, done.output
    assert Path("result.png").read_bytes() == data


def test_the_slider_between_before_and_after_is_moved_by_keys(opened: Open, cat: Path) -> None:
    page = opened()
    prepare(page, cat)
    run(page)
    between = page.get_by_role("slider", name="How much of the source is shown")
    between.focus()
    between.press("ArrowRight")
    assert between.input_value() == "51"
    assert page.locator(".board").evaluate("board => board.style.getPropertyValue('--x')") == "51%"


def test_a_painted_mask_is_honoured(opened: Open, cat: Path) -> None:
    page = opened()
    prepare(page, cat)
    page.get_by_text("Change only a part").click()
    page.get_by_role("button", name="What I paint").click()
    canvas = page.locator("canvas.paint")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.75, box["y"] + box["height"] * 0.2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.75, box["y"] + box["height"] * 0.8, steps=5)
    page.mouse.up()
    run(page)
    edited, source = np.asarray(Image.open(io.BytesIO(result(page)))), np.asarray(Image.open(cat))
    changed = (edited != source).any(axis=2)
    assert not changed[:, :64].any()
    assert changed[:, 80:].any()


def test_undo_and_invert_of_a_mask(opened: Open, cat: Path) -> None:
    page = opened()
    prepare(page, cat)
    page.get_by_text("Change only a part").click()
    page.get_by_role("button", name="What I paint").click()
    painted = """canvas => { const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
      let sum = 0; for (let k = 3; k < data.length; k += 4) sum += data[k]; return sum / (data.length / 4) / 255; }"""
    share = lambda: page.locator("canvas.paint").evaluate(painted)  # noqa: E731
    assert share() == 0
    for button, expected in (("Fill", 1), ("Invert", 0), ("Undo", 1), ("Redo", 0), ("Undo", 1), ("Clear", 0)):
        page.get_by_role("button", name=button, exact=True).click()
        assert share() == expected, button


def test_words_show_where_they_look_before_the_edit(opened: Open, cat: Path) -> None:
    page = opened()
    prepare(page, cat)
    page.get_by_text("Change only a part").click()
    page.get_by_role("button", name="What words name").click()
    page.get_by_role("group", name="Words").get_by_role("button", name="cat", exact=True).click()
    page.locator("canvas.heat").wait_for()
    run(page)
    assert recipe_in(result(page), "it")["mask"]["words"] == ["cat"]


def test_a_run_is_cancelled(opened: Open, cat: Path) -> None:
    page = opened()
    prepare(page, cat, steps=200)
    page.get_by_role("button", name="Edit", exact=True).click()
    page.get_by_role("button", name="Cancel").click()
    page.get_by_text("Cancelled.").wait_for()
    page.get_by_alt_text("The source image").wait_for()


def test_mistakes_are_said_in_words(opened: Open) -> None:
    page = opened()
    page.get_by_role("button", name="Edit", exact=True).click()
    page.get_by_text("Say what the image shows.").wait_for()
    assert page.get_by_label("The image shows").evaluate("box => box === document.activeElement")


def test_the_history_is_there_after_a_reload_and_loads(opened: Open, cat: Path) -> None:
    page = opened()
    prepare(page, cat)
    run(page)
    page.get_by_role("link", name="History").click()
    page.get_by_role("button", name="Load", exact=True).wait_for()
    page.reload()
    page.get_by_role("button", name="Load", exact=True).click()
    page.get_by_alt_text("The source image").wait_for()
    assert page.get_by_label("It should show").input_value() == "a dog"
    page.get_by_role("link", name="History").click()
    page.get_by_role("searchbox").fill("nothing like this")
    page.get_by_text("Nothing fits.").wait_for()


def test_an_image_of_sfumato_brings_its_settings(opened: Open, client: Client, tmp_path: Path, cat: Path) -> None:
    asked = {"command": "edit", "source_prompt": "a house", "target_prompts": ["a hat"], "method": "sdedit",
             "num_inference_steps": 4, "options": {"strength": 0.5}}  # fmt: skip
    made = client.run(asked, image=client.send(cat.read_bytes())["id"])
    (tmp_path / "made.png").write_bytes(client.file(made, "image-0.png").body)
    page = opened("#/history")
    page.locator("input[type=file]").set_input_files(tmp_path / "made.png")
    page.get_by_text("It started from cat.png").wait_for()
    assert page.get_by_label("The image shows").input_value() == "a house"
    assert page.get_by_label("Method", exact=True).input_value() == "sdedit"
    page.get_by_text("Options of SDEdit").click()
    assert page.get_by_label("Strength, as a number").input_value() == "0.5"


def test_a_result_becomes_the_next_input(opened: Open, cat: Path) -> None:
    page = opened()
    prepare(page, cat)
    run(page)
    page.get_by_role("button", name="Use as input").click()
    page.get_by_alt_text("The source image").wait_for()
    assert page.get_by_label("The image shows").input_value() == "a dog"


def test_methods_side_by_side(opened: Open, cat: Path) -> None:
    page = opened()
    prepare(page, cat)
    page.get_by_label("Method", exact=True).select_option("auto")
    page.get_by_text("Options of Automatic choice").click()
    page.get_by_label("Tries", exact=True).fill("2")
    page.get_by_label("Tries", exact=True).press("Tab")
    page.get_by_role("link", name="Compare").click()
    page.get_by_role("heading", name="Compare").wait_for()
    pressed = page.locator(".chip[aria-pressed=true]")
    while pressed.count():
        pressed.first.click()
    for name in ("SDEdit", "Prompt-to-Prompt"):
        page.get_by_role("button", name=name, exact=True).click()
    page.get_by_role("button", name="Compare", exact=True).click()
    page.locator(".card img").nth(1).wait_for()
    page.get_by_role("button", name="Let sfumato choose").click()
    page.locator("svg.plot circle").first.wait_for()
    page.locator(".card.best").wait_for()


def test_a_morph_plays(opened: Open) -> None:
    page = opened("#/morph")
    page.locator(".tiles input[type=file]").set_input_files([EXAMPLES / "cat.png", EXAMPLES / "dog.png"])
    page.get_by_alt_text("Image 2").wait_for()
    page.get_by_label("Method", exact=True).select_option("crossfade")
    page.get_by_role("spinbutton", name="Frames").fill("4")
    page.get_by_role("button", name="Morph", exact=True).click()
    page.get_by_role("slider", name="Frame").wait_for()
    assert page.locator(".strip button[aria-label^=Frame]").count() == 4
    with page.expect_download() as download:
        page.get_by_role("link", name="GIF").click()
    with Image.open(download.value.path()) as movie:
        assert movie.n_frames == 4


def test_a_slider_shows_frames(opened: Open, cat: Path) -> None:
    page = opened()
    prepare(page, cat)
    page.get_by_role("link", name="Slider", exact=True).click()
    page.get_by_role("spinbutton", name="Frames").fill("3")
    page.get_by_role("button", name="Make the slider").click()
    frames = page.get_by_role("slider", name="Frame")
    frames.focus()
    frames.press("End")
    page.get_by_alt_text("Frame 3 of 3").wait_for()


def test_words_and_where_they_look(opened: Open, cat: Path) -> None:
    page = opened()
    prepare(page, cat)
    run(page)
    page.get_by_role("link", name="Attention").click()
    page.get_by_role("button", name="dog", exact=True).click()
    page.get_by_alt_text("Where “dog” looks").wait_for()
    page.locator("canvas.heat").wait_for()


def test_by_keyboard_alone(opened: Open) -> None:
    page = opened(reduced_motion="reduce")

    def tab_to(name: str) -> None:
        for _ in range(60):
            page.keyboard.press("Tab")
            at = "document.activeElement.getAttribute('aria-label') || document.activeElement.textContent"
            if re.search(name, str(page.evaluate(at))):
                return
        raise AssertionError(f"Tab does not reach {name}")

    tab_to("Skip to the content")
    tab_to("^Edit$")
    tab_to("^a .* background|^a ")  # the first example
    page.keyboard.press("Enter")
    page.get_by_alt_text("The source image").wait_for()
    tab_to("^Settings$")
    page.keyboard.press("Enter")
    tab_to("^Draft$")
    page.keyboard.press("Enter")
    page.get_by_label("It should show").focus()
    page.keyboard.press("Tab")
    for _ in range(60):
        if page.evaluate("document.activeElement.textContent") == "Edit":
            break
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.get_by_role("slider", name="How much of the source is shown").wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_violation_of_accessibility(opened: Open, client: Client, cat: Path, scheme: str) -> None:
    if not AXE.exists():
        pytest.skip("axe-core is not here: make browser")
    page = opened(color_scheme=scheme)
    prepare(page, cat)
    run(page)
    for name in PAGES:
        page.get_by_role("link", name=name.capitalize(), exact=True).click()
        page.wait_for_timeout(300)
        for fold in page.locator("summary").all():
            if fold.is_visible() and fold.evaluate("fold => !fold.parentElement.open"):
                fold.click()
        session = page.context.new_cdp_session(page)
        session.send("Runtime.evaluate", {"expression": AXE.read_text(encoding="utf-8")})
        said = session.send(
            "Runtime.evaluate",
            {"expression": "axe.run().then(found => JSON.stringify(found.violations.map(one =>"
             " [one.id, one.nodes.map(node => node.html.slice(0, 200) + ' ' + node.failureSummary)])))",
             "awaitPromise": True},
        )  # fmt: skip
        assert said["result"]["value"] == "[]", name


@pytest.mark.parametrize("width", [320, 390])
def test_nothing_scrolls_sideways_on_a_phone(opened: Open, cat: Path, width: int) -> None:
    page = opened(width=width, height=800, has_touch=True)
    prepare(page, cat)
    run(page)
    for name in PAGES:
        page.get_by_role("link", name=name.capitalize(), exact=True).click()
        page.wait_for_timeout(200)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
