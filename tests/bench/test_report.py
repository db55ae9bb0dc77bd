"""The report is one file that needs no network, and works in a browser."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from sfumato.bench.benchmark import Measure
from sfumato.bench.report import TEMPLATE, write_report
from sfumato.bench.rows import read_settings
from sfumato.bench.runner import run
from sfumato.bench.statistics import compare
from sfumato.errors import UsageError
from tests.bench.small import MEASURES, Small, load

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
NODE = shutil.which("node")
needs_node = pytest.mark.skipif(NODE is None, reason="no node here")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    benchmark = Small()
    rows = run(benchmark, benchmark.configurations([], []), folder, load)
    more = [{**row, "case": f"{row['case']}-{k}"} for k in range(2) for row in rows]  # enough for a verdict
    old = [{**row, "figures": dict.fromkeys(row["figures"], 9.0)} for row in more]
    return write_report(
        folder,
        folder / "report.html",
        rows,
        MEASURES,
        read_settings(folder),
        title=benchmark.title,
        about=benchmark.about,
        totals={"half": {"FID": 12.5}},
        changes=compare(more, old, MEASURES),
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


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (0.625, 2, "0.63"), (0.615, 2, "0.61"), (-0.625, 2, "-0.63"), (2.5, 0, "3"), (0.5, 0, "1"), (1.005, 2, "1.00"),
        (-0.001, 2, "0.00"), (0.0, 1, "0.0"), (1e20, 0, "100000000000000000000"), (1234.5678, 3, "1234.568"),
        (float("inf"), 2, "∞"), (float("-inf"), 2, "-∞"), (None, 2, "–"),
    ],
)  # fmt: skip
def test_the_terminal_rounds_as_the_report_does(value: float | None, digits: int, text: str) -> None:
    assert Measure("x", "x", "higher", "", digits=digits).shown(value) == text


def in_node(program: str) -> object:
    """What the report's own functions answer, without a browser."""
    script = TEMPLATE.read_text("utf-8")
    names = ("function show(", "function ticks(")
    functions = [script[script.index(name) :].partition("\n}\n")[0] + "\n}\n" for name in names]
    number = next(line for line in script.splitlines() if line.startswith("const number = "))
    source = "\n".join([number, *functions, f"console.log(JSON.stringify({program}))"])
    assert NODE is not None
    done = subprocess.run([NODE, "-e", source], capture_output=True, text=True, check=True, timeout=60)
    return json.loads(done.stdout)


@needs_node
def test_its_script_runs_without_a_browser(tmp_path: Path) -> None:
    benchmark = Small()
    rows = run(benchmark, benchmark.configurations([], []), tmp_path, load)
    for row in rows:
        if row["status"] == "error":
            row["error"] = "MissingNetworkError: `pip install <lpips>` has it"
    old = [{**row, "figures": dict.fromkeys(row["figures"], 9.0)} for row in rows]
    page = write_report(
        tmp_path, tmp_path / "r.html", rows, MEASURES, read_settings(tmp_path),
        title="t", about="a", changes=compare(rows, old, MEASURES),
    )  # fmt: skip
    script = Path(__file__).with_name("page.js")
    assert NODE is not None
    done = subprocess.run([NODE, script, page], capture_output=True, text=True, check=True, timeout=60)
    seen = json.loads(done.stdout)
    assert seen["ready"] == "yes"
    assert seen["board"][:3] == ["half", "1.79", "∞"]
    ticks = [text for text in seen["plot"] if re.fullmatch(r"-?[\d.]+", text)]
    assert len(set(ticks)) == len(ticks) >= 6
    assert "MissingNetworkError: pip install <lpips> has it" in seen["problems"]
    assert set(seen["code"]) == {"pip install <lpips>"}
    assert "too few" in seen["changes"]


@needs_node
def test_the_report_rounds_as_the_terminal_does() -> None:
    values = (
        [k / 2**m for m in range(1, 8) for k in range(-200, 201)] + [0.1 * k for k in range(100)] + [1e-9, 12345.675]
    )
    for digits in range(4):
        shown = in_node(f"{json.dumps(values)}.map(value => show(value, {{digits: {digits}}}))")
        assert shown == [Measure("x", "x", "higher", "", digits=digits).shown(value) for value in values]


@needs_node
@pytest.mark.parametrize(
    "ends", [(0, 1), (0.001, 0.0013), (27.81, 27.83), (-3, 5), (0, 0.16), (1e-8, 3e-8), (-1e6, 1e6), (4.9999, 5.0001)]
)
def test_every_tick_has_a_label_of_its_own(ends: tuple[float, float]) -> None:
    found = in_node(f"ticks({list(ends)})")
    assert isinstance(found, list)
    assert 3 <= len(found) <= 11
    assert len({label for _, label in found}) == len(found)
    assert all(ends[0] <= value <= ends[1] for value, _ in found)
    assert all(float(label) == pytest.approx(value, rel=1e-9, abs=1e-12) for value, label in found)


def test_words_in_backticks_are_set_as_code(report: Path) -> None:
    page = report.read_text()
    about = page.partition('id="about">')[2].partition("</p>")[0]
    assert about == "Numbers &amp; &lt;/script&gt; <code>nothing</code> else."


def test_pictures_come_from_the_run_alone(tmp_path: Path) -> None:
    from PIL import Image

    folder = tmp_path / "run"
    (folder / "pictures").mkdir(parents=True)
    for path in (tmp_path / "secret.png", folder / "pictures" / "good.png"):
        Image.new("RGB", (8, 8)).save(path)
    (folder / "pictures" / "link.png").symlink_to(tmp_path / "secret.png")
    (folder / "pictures" / "damaged.png").write_text("no image")
    os.mkfifo(folder / "pictures" / "pipe.png")
    names = ["good.png", "link.png", "damaged.png", "pipe.png", "../../secret.png", "gone.png"]
    rows = [
        {
            "case": name, "kind": "all", "configuration": "whole", "status": "done", "figures": {"error": 1.0},
            "pictures": {"result": f"pictures/{name}"},
        }
        for name in names
    ]  # fmt: skip
    page = write_report(folder, folder / "r.html", rows, MEASURES, {}, title="t", about="a").read_text()
    data = json.loads(page.partition('type="application/json">')[2].partition("</script>")[0])
    assert list(data["pictures"]) == ["pictures/good.png"]


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
        '"worst":"case &lt;7&gt;","slid":"20%","failed":"ImageError: image 3 is damaged","total":true}'
    )
