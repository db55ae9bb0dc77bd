"""What `sfumato edit` says of its results."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfumato.apps.console import comes_back, cost_fields, note, print_json, stdout, table

if TYPE_CHECKING:
    from sfumato import EditResult


def report(results: list[EditResult], paths: list[list[Path]], as_json: bool) -> None:
    """Prints where each result is, how well its source was reconstructed, and what it cost; or all of it as JSON."""
    if as_json and len(results) == 1:
        print_json({"command": "edit", **_fields(results[0], paths[0])})
        return
    if as_json:
        each = [_fields(result, files) for result, files in zip(results, paths, strict=True)]
        print_json({"command": "edit", "images": [str(file) for files in paths for file in files], "pictures": each})
        return
    for result, files in zip(results, paths, strict=True):
        rows = [("result", ", ".join(map(str, files)))]
        rows += [("source", comes_back(result.reconstruction_psnr, result.ceiling_psnr))]
        if result.distances is not None:
            first, last = result.distances[0].tolist(), result.distances[-1].tolist()
            parted = ", ".join(f"{start:.2f} to {end:.2f}" for start, end in zip(first, last, strict=True))
            rows.append(("apart", f"{parted} (distance of the latents to the source's, first and last step)"))
        rows.append(("cost", str(result.cost)))
        table(rows, to=stdout())
        for text in result.notes:
            note(text)


def _fields(result: EditResult, paths: list[Path]) -> dict[str, Any]:
    """What `--json` says of one image."""
    return {
        "images": [str(path) for path in paths],
        "reconstruction_psnr": result.reconstruction_psnr,
        "ceiling_psnr": result.ceiling_psnr,
        "distances": None if result.distances is None else result.distances.tolist(),
        "tried": [
            {
                "method": edit.method,
                "options": dict(edit.options),
                "agreement": edit.agreement,
                "change": edit.change,
            }
            for edit in result.tried
        ],
        "cost": cost_fields(result.cost),
        "notes": list(result.notes),
        "recipe": dict(result.recipe),
    }


def save_tried(result: EditResult, path: Path) -> None:
    """A sheet of all candidates beside the result, where there were several."""
    if not result.tried:
        return
    from sfumato.apps.tradeoff import tradeoff_sheet
    from sfumato.images import save_image

    sheet = save_image(tradeoff_sheet(result), path.with_name(f"{path.stem}-tried.png"))
    note(f"all {len(result.tried)} candidates and their trade-off: {sheet}")
