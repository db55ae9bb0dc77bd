"""Takes the pictures of the web page that docs/serve.md shows: `python -m tools.serve_pictures`, after `make browser`.

It serves the embedded model, edits the first example that has an idea of an edit, and looks at the page in Chromium.
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
VIEWS: tuple[tuple[str, int, int, Any], ...] = (("edit", 1280, 830, "light"), ("phone", 390, 844, "dark"))
OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
PATIENCE = 300_000
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
            browser = playwright.chromium.launch(executable_path=program, args=OPTIONS)
            for name, width, height, scheme in VIEWS:
                context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
                page = context.new_page()
                page.set_default_timeout(PATIENCE)
                page.goto(f"http://127.0.0.1:{listening.getsockname()[1]}/")
                _take(page, FOLDER / f"{name}.png")
            browser.close()
    finally:
        server.should_exit = True
        thread.join()
        queue.close()


def _take(page: Any, path: Path) -> None:
    """Edits an example, and takes the picture."""
    from PIL import Image

    examples = page.locator(".strip button")
    examples.first.wait_for()
    for k in range(examples.count()):
        examples.nth(k).click()
        page.get_by_alt_text("The source image").wait_for()
        if page.get_by_role("group", name="Ideas").is_visible():
            break
        page.get_by_role("button", name="Start anew").click()
    page.get_by_role("button", name="Edit", exact=True).click()
    page.get_by_role("slider", name="How much of the source is shown").wait_for()
    page.wait_for_timeout(500)
    page.evaluate("scrollTo(0, 0)")
    image = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    image.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    main()
