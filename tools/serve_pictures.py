"""Takes the pictures of the web page that docs/serve.md shows: `python -m tools.serve_pictures`, after `make browser`.

It serves the embedded model, edits one of the examples, and looks at the page in Chromium, on a desk and on a phone.
The seconds of the edit are on the page, so take them on a machine with nothing else to do.
"""

from __future__ import annotations

import io
import os
import shutil
import socket
import threading
from pathlib import Path
from typing import Any

import sfumato
from sfumato.apps.serve import _uvicorn
from sfumato.apps.web.forms import Limits
from sfumato.apps.web.server import Server, create_app
from sfumato.run.job_queue import JobQueue

FOLDER = Path(__file__).parents[1] / "docs" / "serve"
EXAMPLE, TARGET = "a fox and a pizza", "a dog and a pizza on a striped blue background"
MIDDLE = "30"
"""Percent of the image's width at which the thing is that is edited."""
WORD = "pizza"
OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
PATIENCE = 600_000
"""Milliseconds that an edit may take."""


def main() -> None:
    """Serves, looks, and writes `docs/serve/*.png`."""
    from playwright.sync_api import sync_playwright

    models = {"emoji": sfumato.load_model("emoji")}
    queue = JobQueue(models)
    listening = socket.create_server(("127.0.0.1", 0))
    server = _uvicorn(create_app(Server(queue, models, Limits())), "", None)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    FOLDER.mkdir(exist_ok=True)
    try:
        with sync_playwright() as playwright:
            program = shutil.which(os.environ.get("SFUMATO_CHROMIUM", "chromium"))
            browser = playwright.chromium.launch(executable_path=program, args=OPTIONS, timeout=PATIENCE)
            page = browser.new_page()
            page.set_default_timeout(PATIENCE)
            page.goto(f"http://127.0.0.1:{listening.getsockname()[1]}/")
            _edit(page)
            _take(page, "edit", 1280, 830, "light")
            _take(page, "phone", 390, 844, "dark")
            page.get_by_role("link", name="Attention").click()
            page.get_by_role("button", name=WORD, exact=True).first.click()
            page.locator("canvas.heat").wait_for()
            _take(page, "attention", 1280, 830, "dark")
            browser.close()
    finally:
        server.should_exit = True
        thread.join()
        queue.close()


def _edit(page: Any) -> None:
    page.locator(f".strip button[aria-label^='{EXAMPLE}']").click()
    page.get_by_alt_text("The source image").wait_for()
    page.get_by_label("It should show").fill(TARGET)
    page.get_by_role("button", name="Edit", exact=True).click()
    page.get_by_role("slider", name="How much of the source is shown").fill(MIDDLE)


def _take(page: Any, name: str, width: int, height: int, scheme: str) -> None:
    from PIL import Image

    page.set_viewport_size({"width": width, "height": height})
    page.emulate_media(color_scheme=scheme)
    page.evaluate("scrollTo(0, 0)")
    page.mouse.move(0, 0)
    page.wait_for_timeout(500)
    image = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    image.quantize(256, dither=Image.Dither.NONE).save(FOLDER / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
