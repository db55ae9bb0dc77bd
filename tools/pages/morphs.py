"""docs/morphs.md, of what benchmarks/morphs.py measured."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping
from typing import Any

from benchmarks.morph_groups import REAL, groups_of
from tools.pages import DOCS, other_weights

PAGE = DOCS / "morphs.md"

# In the table, in this order: key, title, format
COLUMNS = (
    ("max_over_mean", "largest step / mean", "{:.2f}"),
    ("std_over_mean", "std / mean", "{:.2f}"),
    ("path_length", "path length", "{:.2f}"),
    ("detour", "/ end to end", "{:.2f}"),
    ("far_from_real", "far from real", "{:.2f}"),
    ("density", "density", "{:.2f}"),
    ("draws", "frames drawn", "{:.0f}"),
    ("evaluations", "evaluations", "{:.0f}"),
    ("seconds", "seconds", "{:.0f}"),
)


def written(_: str) -> str:
    """The page, of the stored figures."""
    return page(json.loads((DOCS / "morphs.json").read_text(encoding="utf-8")))


def page(report: Mapping[str, Any]) -> str:
    """The tables, and how to read them."""
    runs, settings = report["runs"], report["settings"]
    refused = [f"- {key}: {run['refused']}" for key, run in runs.items() if "refused" in run]
    for key, run in runs.items():
        refused += [f"- {key}, {name}: {words}" for name, words in run.get("refused_spacings", {}).items()]
    gaps = f"\nNot measured:\n\n{chr(10).join(refused)}\n" if refused else ""
    ceilings = [value for run in runs.values() for value in run.get("ceiling_psnr", ())]
    sections = []
    for title, group in groups_of(runs).items():
        of_group = {key: run for key, run in runs.items() if key.split(" ")[0] in group and "spacings" in run}
        many = report.get("realism", {}).get(title)
        sections += [f"## {title}\n", f"{', '.join(group)}.\n", *table(of_group), "", *contests(of_group), ""]
        sections += realism_table(many, of_group)
    steps = settings["steps"] or "each method's own number of"
    return f"""# Morphs, measured

Measured by `python benchmarks/morphs.py`: {settings["frames"]} frames, {steps} steps, default options unless
`morphs.json` says otherwise, {settings["encode_steps"]} `encode_steps`, distances of the embedded emoji model, means
over the pairs that are named above each table.
The guidance scale of `impus` for this model, 1.5, was chosen on the first group and the model's first weights (of 1,
1.5, 2 and 3, not all on each pair); no option of another method was chosen so. Its figures on that group are therefore
better than they would be on other images.
{other_weights(settings["model"])}
- *Largest step / mean* and *std / mean* are of the distances of neighbouring frames: 1 and 0 are perfectly even.
  Compare the row `even` of a method (before) with the others (after).
- *Path length* is their sum, and *end to end* the distance of the two ends: a ratio near 1 is a morph without detours.
- *Far from real* measures whether the frames in between look like real emoji: their distance to the nearest of
  {settings["real"]} real ones in the features of `emoji-clip`, over that of other real images. 1 is as good as real.
- *Density* is the mean number of real images' neighbourhoods that such a frame is in, over 5. It is the less exact of
  the two: a few unusual real images have wide neighbourhoods.
- *Evaluations* are rows through the network, preparation included; *seconds* are of one thread.
- *PSNR of the ends*: of the first and last frame against the two images. The autoencoder alone reaches
  {decibels(ceilings)}.
- The second table of a group takes the frames of all its pairs together, by the features of the network that also
  measures the spacing (`emoji-clip`), and of one that has only seen photographs (`efficientnet-lite0`). *Kernel* is the
  kernel distance to the real images, times 1000 (KID's estimate; 0 is like them). *Coverage* is the share of real
  images with a frame near by: it says how many kinds of image occur, and a few morphs have few. A network of
  photographs is sensitive to what the autoencoder does to fine detail. Only `crossfade` mixes pixels, without the
  autoencoder; so its frames, and real images, are shown reconstructed by the autoencoder, too.

{chr(10).join(sections)}{gaps}
Measured with {report["measured_with"]}; model {settings["model"][:19]}.
"""


def table(runs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Lines of the table of a group: the mean over its pairs, the number of them where it is not all."""
    pairs = {key.split(" ")[0] for key in runs}
    title = ["method", "spacing", *(words for _, words, _ in COLUMNS), "PSNR of the ends"]
    lines = [f"| {' | '.join(title)} |", "|---" * len(title) + "|"]
    for method in sorted({key.split(" ")[1] for key in runs}):
        of_method = [run for key, run in runs.items() if key.split(" ")[1] == method]
        for spacing in sorted({name for run in of_method for name in run["spacings"]}):
            measured = [run for run in of_method if spacing in run["spacings"]]
            few = f" ({len(measured)} of {len(pairs)} pairs)" if len(measured) < len(pairs) else ""
            cells = [f"`{method}`", spacing + few]
            for key, _, form in COLUMNS:
                cells.append(form.format(statistics.mean(run["spacings"][spacing][key] for run in measured)))
            cells[2] += f" (worst {max(run['spacings'][spacing]['max_over_mean'] for run in measured):.2f})"
            cells.append(decibels(value for run in measured for value in run["end_psnr"]))
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def contests(runs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Lines that say on how many pairs of a group, spaced uniformly, IMPUS does better than the baselines."""
    pairs, lines = list(dict.fromkeys(key.split(" ")[0] for key in runs)), []
    for other, name, words, sign in (
        ("slerp", "path_length", "takes the shorter path", 1),
        ("crossfade", "far_from_real", "is nearer to real images", 1),
        ("crossfade", "density", "has a higher density", -1),
    ):
        values = [
            [runs[f"{pair} {method}"]["spacings"]["uniform"][name] for method in ("impus", other)]
            for pair in pairs
            if all("uniform" in runs.get(f"{pair} {method}", {}).get("spacings", {}) for method in ("impus", other))
        ]
        if values:
            won = sum(sign * own < sign * theirs for own, theirs in values)
            means = [f"{statistics.mean(column):.2f}" for column in zip(*values, strict=True)]
            lines.append(f"- `impus` {words} than `{other}` on {won} of {len(values)} pairs ({means[0]}, {means[1]}).")
    return lines


def realism_table(many: Mapping[str, Any] | None, runs: Iterable[str]) -> list[str]:
    """Lines of the table of all frames of a group together, and which methods' frames were not kept."""
    if many is None:
        return []
    rows = {key: figures for key, figures in many.items() if key != "pairs"}
    networks = list(next(iter(rows.values())))
    names = {"kernel": "kernel", "density": "density", "coverage": "coverage", "far_from_real": "far from real"}
    title = ["method", "spacing", *(f"{words}, `{network}`" for network in networks for words in names.values())]
    absent = sorted({key.split(" ")[1] for key in runs} - {key.split(" ")[0] for key in rows})
    without = f" (those of {', '.join(f'`{method}`' for method in absent)} were not kept)" if absent else ""
    lines = [f"Frames of {', '.join(many['pairs'])} together{without}:", ""]
    lines += [f"| {' | '.join(title)} |", "|---" * len(title) + "|"]
    for key, figures in rows.items():
        method, _, spacing = key.partition(" ")
        first = [key, ""] if key.startswith(REAL) else [f"`{method}`", spacing]
        cells = [f"{figures[network][name]:.2f}" for network in networks for name in names]
        lines.append(f"| {' | '.join([*first, *cells])} |")
    return [*lines, ""]


def decibels(values: Iterable[float | None]) -> str:
    """The mean of those that are not exact."""
    inexact = [value for value in values if value is not None]
    return f"{statistics.mean(inexact):.1f} dB" if inexact else "exactly"
