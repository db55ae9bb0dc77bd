"""The report is one file that needs no network, and works in a browser."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from sfumato.bench.report import write_report
from sfumato.bench.rows import read_settings
from sfumato.bench.runner import run
from sfumato.bench.statistics import compare
from sfumato.errors import UsageError
from tests.bench.small import MEASURES, Small, load

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    benchmark = Small()
    rows = run(benchmark, benchmark.configurations([], []), folder, load)
    old = [{**row, "figures": dict.fromkeys(row["figures"], 9.0)} for row in rows]
    return write_report(
        folder,
        folder / "report.html",
        rows,
        MEASURES,
        read_settings(folder),
        title=benchmark.title,
        about=benchmark.about,
        totals={"half": {"FID": 12.5}},
        changes=compare(rows, old, MEASURES),
        most_cases=5,
    )


def test_is_one_file_without_addresses(report: Path) -> None:
    page = report.read_text()
    assert not re.search(r"(src|href)=[\"']?https?:", page)
    assert "@import" not in page
    assert page.count("</script>") == 2  # what a title holds does not end the script
    assert "A &lt;small&gt; benchmark" in page
    assert not list(report.parent.glob(".*.part"))


def test_shows_the_worst_cases_first(report: Path) -> None:
    shown = set(re.findall(r"pictures/(\d\d)/whole-result\.png", report.read_text()))
    assert shown == {"07", "06", "05", "04", "02"}  # 3 failed


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot write"):
        write_report(tmp_path, tmp_path / "nowhere" / "r.html", [], MEASURES, {}, title="t", about="a")


@needs_browser
def test_works_in_a_browser(report: Path, tmp_path: Path) -> None:
    probe = """<script>
      const seen = {};
      const first = () => document.querySelector("#board tbody td").textContent;
      seen.leader = first();
      const heading = [...document.querySelectorAll("#board th button")].find(b => b.textContent.startsWith("error"));
      heading.click(); seen.turned = first();
      seen.sorted = document.querySelector("th[aria-sort]").getAttribute("aria-sort");
      seen.dots = document.querySelectorAll("#plot circle").length;
      seen.kinds = [...document.querySelectorAll("#kinds th")].map(cell => cell.textContent).join();
      seen.changes = document.querySelectorAll("#changes .better").length;
      const which = document.getElementById("which"); which.value = "whole"; which.onchange();
      seen.worst = document.querySelector(".case h3").textContent;
      const slider = document.querySelector(".case input"); slider.value = 20; slider.oninput();
      seen.slid = slider.parentElement.style.getPropertyValue("--at");
      seen.failed = document.querySelector("#problems td:last-child").textContent;
      seen.total = document.querySelector("#board").textContent.includes("12.500");
      const pre = Object.assign(document.createElement("pre"), {id: "seen", textContent: JSON.stringify(seen)});
      document.body.append(pre);
    </script></body>"""
    page = tmp_path / "page.html"
    page.write_text(report.read_text().replace("</body>", probe))
    assert CHROMIUM is not None
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
    done = subprocess.run(
        [CHROMIUM, *flags, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", page.as_uri()],
        capture_output=True, text=True, timeout=120, check=True, env={**os.environ, "HOME": str(tmp_path)},
    ).stdout  # fmt: skip
    assert 'data-ready="yes"' in done
    found = re.search(r'<pre id="seen">(.*?)</pre>', done)
    assert found is not None, "the page's script broke"
    assert found[1] == (
        '{"leader":"half","turned":"whole","sorted":"descending","dots":1,"kinds":"configuration,even,odd","changes":4,'
        '"worst":"case &lt;7&gt;","slid":"20%","failed":"ImageError: picture 3 is damaged","total":true}'
    )
