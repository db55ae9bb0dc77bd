"""docs/inversions.md, of what benchmarks/inversions.py measured."""

from __future__ import annotations

import json
import math
from typing import Any

from sfumato.edits.method import METHODS
from sfumato.inversions.method import INVERSIONS
from tools.pages import DOCS, other_weights

PAGE = DOCS / "inversions.md"


def written(_: str) -> str:
    """The page, of the stored figures."""
    return page(json.loads((DOCS / "inversions.json").read_text(encoding="utf-8")))


def page(report: dict[str, Any]) -> str:
    """The table, and how to read it."""
    rows = [
        "| inversion | evaluations at guidance 1 / 7.5 | seconds | memory, MB | PSNR at 1 | PSNR at 7.5 | serves |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, by_scale in report["inversions"].items():
        if name not in INVERSIONS:
            continue
        one, guided = by_scale["1"], by_scale["7.5"]
        serves = [method for method, entry in METHODS.items() if name in entry.starts]
        cells = [
            f"`{name}`",
            f"{one['evaluations']:g} / {guided['evaluations']:g}",
            f"{one['seconds']:.1f} / {guided['seconds']:.1f}",
            f"{one['memory_mb']:.0f} / {guided['memory_mb']:.0f}",
            *(f"{shown['psnr']:.1f} (worst {shown['worst_psnr']:.1f})" + warned(shown) for shown in (one, guided)),
            ", ".join(serves) or "none yet",
        ]
        rows.append(f"| {' | '.join(cells)} |")
    stated = "\n".join(f"- {key}: {value}" for key, value in report["machine"].items())
    best = report["ceiling_psnr"]
    best_text = f"{best:.1f} dB" if math.isfinite(best) else "infinite"
    return f"""# Inversions, measured

An inversion finds the noise, and whatever else a replay needs, from which the model reconstructs an image. Measured by
`python -m benchmarks.inversions`: every inversion with its default options, {report["steps"]} steps,
{report["images"]} example images of the embedded model one at a time, inverted for a source branch at guidance scale
1 and at 7.5 and replayed at the same scale. `docs/inversions.json` has all numbers.
{other_weights(report.get("model"))}
**Ceiling: {best_text}.** This is the autoencoder alone; no reconstruction can be much better.

{chr(10).join(rows)}

How to read it:

- *Evaluations*: rows through the network for one image, mean over the images. *Seconds*: processor time of one thread
  for the inversion alone, median. *Memory*: peak memory of the inversion above that of the process before it, the
  largest. Most of it is the network's activations, which null-text keeps for its backward pass.
- *PSNR* compares the decoded reconstruction with the image: mean and worst; then on how many images the inversion
  warned of a bad reconstruction.
- `ddim` and `regularised-ddim` invert without guidance, whatever the scale of the replay: `sfumato edit` therefore runs
  their source branch at guidance scale 1, and guides only the edited branches.
- `direct` sets the source branch to the inverted trajectory after every step, so it is at the ceiling by construction.
  How well the model inverts by itself is seen at `ddim`. `bdia` reaches the ceiling by sampling alone, as its step can
  be solved backwards; `edit-friendly` and `dpm-encoder` by keeping the noise of each stochastic step.
- `negative-prompt` reconstructs at any guidance scale as `ddim` does at 1.
- A good reconstruction does not make a good edit. At guidance scale 7.5 an inversion may push the noise far from normal
  to reach it, and edits from such noise are bad: prefer a source branch at guidance scale 1.

## The default

**`direct`**, for every method that takes it but pix2pix-zero, and for `sfumato invert`. It costs as much as `ddim`,
its reconstruction is as good or better, and the edits are no worse on average: edits of bundled images as in the
[gallery](gallery/README.md), {report["edits"]["steps"]} steps, each method from either inversion. PSNR and perceptual
distance are those to the exact target. `auto` runs some of these methods and is not measured by itself.
{other_weights(report["edits"].get("model"))}
{chr(10).join(edit_rows(report["edits"]["methods"]))}

- Prompt-to-Prompt uses the source's attention maps: with `direct` these are the image's own. MasaCtrl, Plug-and-Play
  and DiffEdit use the trajectory of either inversion, and DDIB only its end: the edited image is the same, bit for bit.
  Outside a mask the image stays with either.
- The guidance scale of the source branch is 1 with `direct`, too. Its prediction is replaced by the trajectory, and
  what is read from it is computed before guidance is applied. So edits at scale 1 and at the model's own scale are the
  same, bit for bit, and the replay costs half at 1.
- pix2pix-zero starts from `regularised-ddim`, as its paper does; on these edits that gains nothing.

Measured with:

{stated}
"""


def edit_rows(methods: dict[str, dict[str, dict[str, float]]]) -> list[str]:
    """The second table; the default inversion of a method is marked."""
    rows = ["| method | from | PSNR | perceptual distance | reconstruction PSNR |", "|---|---|---|---|---|"]
    for name, by_inversion in methods.items():
        for inversion, shown in by_inversion.items() if name in METHODS else ():
            marked = " (default)" if inversion == METHODS[name].default_inversion else ""
            rows.append(
                f"| {name} | `{inversion}`{marked} | {shown['psnr']:.2f} dB | {shown['perceptual']:.3f} |"
                f" {shown['reconstruction_psnr']:.1f} dB |"
            )
    return rows


def warned(shown: dict[str, float]) -> str:
    return f", {shown['warned']} warned" if shown["warned"] else ""
