"""`sfumato doctor`: what is here, what is missing, and how to get it."""

from __future__ import annotations

import os
import platform
import re
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

import typer

from sfumato import __version__
from sfumato.apps.console import FAILED, print_json, stdout, working
from sfumato.apps.options import AsJson
from sfumato.errors import SfumatoError

REPORTED = ("torch", "diffusers", "transformers", "safetensors", "huggingface_hub", "pillow", "numpy")


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        name: What was looked at.
        state: "ok"; "optional": missing, and only some things need it; "missing": sfumato needs it.
        found: What is there.
        remedy: How to get what is missing.
    """

    name: str
    state: Literal["ok", "optional", "missing"]
    found: str
    remedy: str = ""


def doctor(as_json: AsJson = False) -> None:
    """Show versions, device, memory and models, and what is missing. Exit code 1 if something required is missing."""
    with working("looking around"):
        findings = list(_findings())
    healthy = all(finding.state != "missing" for finding in findings)
    if as_json:
        print_json({"healthy": healthy, "findings": [asdict(finding) for finding in findings]})
    else:
        _show(findings)
    if not healthy:
        raise typer.Exit(FAILED)


def _show(findings: list[Finding]) -> None:
    from rich.table import Table
    from rich.text import Text

    marks = {"ok": ("ok", "green"), "optional": ("optional", "yellow"), "missing": ("missing", "bold red")}
    shown = Table.grid(padding=(0, 2))
    for finding in findings:
        remedy = f"\nget it: {finding.remedy}" if finding.remedy else ""
        shown.add_row(Text(*marks[finding.state]), Text(finding.name, "bold"), Text(finding.found + remedy))
    stdout().print(shown)


def _findings() -> Iterator[Finding]:
    yield Finding("sfumato", "ok", f"{__version__} in {Path(__file__).parents[1]}")
    yield Finding("python", "ok", f"{platform.python_version()} on {platform.platform()}")
    for package in REPORTED:
        yield _package(package)
    yield from _device()
    yield Finding("memory", "ok", _memory())
    yield _embedded()
    yield _cache()
    yield from _extras()


def _package(name: str) -> Finding:
    try:
        return Finding(name, "ok", metadata.version(name))
    except metadata.PackageNotFoundError:
        return Finding(name, "missing", "not installed", f"pip install {name}")


def _device() -> Iterator[Finding]:
    try:
        import torch

        from sfumato.models.devices import resolve_device

        device = resolve_device()
    except (ImportError, OSError) as error:
        yield Finding("device", "missing", f"torch does not load: {error}", "pip install --force-reinstall torch")
        return
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        yield Finding(
            "device",
            "ok",
            f"cuda: {torch.cuda.get_device_name(device)}, {_gigabytes(free)} of {_gigabytes(total)} free",
        )
    elif device.type == "mps":
        yield Finding("device", "ok", "mps (Apple GPU)")
    else:
        found = f"cpu, {torch.get_num_threads()} threads; enough for emoji, slow for Stable Diffusion"
        yield Finding("device", "ok", found)


def _memory() -> str:
    try:
        return f"{_gigabytes(os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES'))} on this machine"
    except (AttributeError, ValueError, OSError):
        return "size not known on this system"


def _embedded() -> Finding:
    from sfumato.emoji import WEIGHTS
    from sfumato.models.folder import check_folder

    remedy = "install sfumato again, from a release or a complete clone"
    if not WEIGHTS.is_dir():
        return Finding("model emoji", "missing", f"there is no folder {WEIGHTS}", remedy)
    try:
        files = check_folder(WEIGHTS).weights
    except (SfumatoError, OSError) as error:
        return Finding("model emoji", "missing", str(error), remedy)
    return Finding("model emoji", "ok", f"embedded, {sum(file.stat().st_size for file in files) / 1e6:.1f} MB")


def _cache() -> Finding:
    from huggingface_hub.constants import HF_HUB_CACHE, HF_HUB_OFFLINE

    folder = Path(HF_HUB_CACHE)
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    offline = ", offline (HF_HUB_OFFLINE is set)" if HF_HUB_OFFLINE else ""
    return Finding("hub cache", "ok", f"{folder}, {_gigabytes(free)} free on its disk{offline}")


def _extras() -> Iterator[Finding]:
    """The optional parts, as the installed package declares them."""
    try:
        requirements = metadata.requires("sfumato") or []
    except metadata.PackageNotFoundError:
        yield Finding("optional parts", "optional", "sfumato runs from its sources", "pip install -e .")
        return
    wanted: dict[str, list[str]] = {}
    for requirement in requirements:
        package = re.match(r"[\w.-]+", requirement)
        found = re.search(r"extra\s*==\s*['\"]([\w-]+)['\"]", requirement)
        if package is not None and found is not None and package[0] != "sfumato":
            wanted.setdefault(found[1], []).append(package[0])
    for extra, names in wanted.items():
        missing = [name for name in names if _package(name).state == "missing"]
        if missing:
            remedy = f"pip install 'sfumato[{extra}]'"
            yield Finding(f"extra {extra}", "optional", f"missing: {', '.join(missing)}", remedy)
        else:
            yield Finding(f"extra {extra}", "ok", ", ".join(names))


def _gigabytes(count: int) -> str:
    return f"{count / 2**30:.1f} GB"
