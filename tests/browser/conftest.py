"""A real Chromium on a real server with the embedded model; `make browser` installs what that needs.

`SFUMATO_CHROMIUM` names the program, by default `chromium`. Without it, or without playwright, the tests are skipped.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import sfumato
from sfumato.run.job_queue import Bounds
from tests.apps.web.serving import Client, serving

AXE = Path(__file__).parents[2] / ".browser" / "node_modules" / "axe-core" / "axe.min.js"
OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
PATIENCE = 180_000
"""Milliseconds that a step may take, on a machine with much else to do."""


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="no playwright here: make browser")
    program = shutil.which(os.environ.get("SFUMATO_CHROMIUM", "chromium"))
    if program is None:
        pytest.skip("no Chromium here: make browser")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=OPTIONS, timeout=PATIENCE)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def client(chromium: Any) -> Iterator[Client]:
    with serving(sfumato.load_model("emoji", device="cpu"), name="emoji", bounds=Bounds(per_client=50)) as client:
        yield client


@pytest.fixture
def opened(chromium: Any, client: Client) -> Iterator[Callable[..., Any]]:
    """Opens the page in a browser of its own; at the end no other server was asked, and nothing complained."""
    complaints: list[str] = []
    contexts: list[Any] = []
    own = f"http://127.0.0.1:{client.port}/"

    def look(request: Any) -> None:
        if not request.url.startswith((own, "blob:", "data:")):
            complaints.append(f"asked {request.url}")

    def open_page(where: str = "", width: int = 1280, height: int = 900, **settings: Any) -> Any:
        contexts.append(chromium.new_context(viewport={"width": width, "height": height}, **settings))
        page = contexts[-1].new_page()
        page.set_default_timeout(PATIENCE)
        page.on("console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", look)
        page.goto(own + where)
        page.wait_for_selector("main :is(.stage, section, h1)")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not complaints
