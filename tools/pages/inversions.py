"""docs/inversions.md, of what benchmarks/inversions.py measured."""

from __future__ import annotations

import json
import math
from typing import Any

from sfumato.registry import INVERSIONS, METHODS
from tools.pages import DOCS

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

An inversion finds the noise, and whatever else a replay needs, that leads back to an image. This page is written by
`python benchmarks/inversions.py`: every inversion with its default options, {report["steps"]} steps,
{report["pictures"]} example images of the embedded model one at a time, inverted for a source branch at guidance 1
and at 7.5 and replayed at the same guidance. `docs/inversions.json` holds the same numbers.

**Ceiling: {best_text}.** That is the autoencoder alone; no reconstruction can be much better.

{chr(10).join(rows)}

How to read it:

- *Evaluations* are rows through the network for one image, the mean over the images. *Seconds* are processor time
  of one thread for the inversion alone, the median. *Memory* is what the inversion took over what the process held
  before it, the largest; most of it is the network's own activations, and null-text keeps these for its backward pass.
- *PSNR* compares the replay, decoded, with the image: mean and worst; and on how many images the inversion itself
  warned that it had missed.
- `ddim` and `regularised-ddim` invert without guidance whatever the replay's is: `sfumato edit` therefore runs their
  source branch at guidance 1, and only the edited branches are guided.
- `direct` sets the source branch to the inverted trajectory after every step, so it is at the ceiling by construction
  and says nothing of how well the model by itself leads back; `ddim` does. `bdia` gets there by sampling alone, as its
  step can be solved backwards, `edit-friendly` and `dpm-encoder` by keeping the noise of each stochastic step.
- `negative-prompt` replays at any guidance as `ddim` does at 1.
- A source that comes back is not yet a good edit. At guidance 7.5 an inversion may push the noise far from normal to
  get there, and what is edited from such noise looks it: prefer the source at guidance 1 where it can be chosen.

## The default

**`direct`**, for every method that takes it but pix2pix-zero, and for `sfumato invert`. It costs what `ddim` costs,
the source comes back as well or better, and the edits are no worse in the mean: the same six edits as in the
[gallery](gallery/README.md), {report["edits"]["steps"]} steps, each method from either inversion. PSNR and perceptual
distance are those to the exact target. `auto` runs some of these methods and is not measured by itself.

{chr(10).join(edit_rows(report["edits"]["methods"]))}

- Prompt-to-Prompt reads the source's attention maps: with `direct` these are the image's own. MasaCtrl, Plug-and-Play
  and DiffEdit read the trajectory of either inversion, and DDIB reads only its end: the edited image is the same, bit
  for bit. Outside a mask the image stays with either.
- The guidance of the source branch is 1 with `direct`, too. Its prediction is replaced by the trajectory, and what is
  read from it is computed before guidance is applied, so that the edits at 1 and at the model's own guidance are the
  same, bit for bit; the replay alone costs half at 1.
- pix2pix-zero starts from `regularised-ddim`, as its paper does; on these edits that gains nothing.

Measured with:

{stated}
"""


def edit_rows(methods: dict[str, dict[str, dict[str, float]]]) -> list[str]:
    """The second table; the default inversion of a method is marked."""
    rows = ["| method | from | PSNR | perceptual distance | source comes back |", "|---|---|---|---|---|"]
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
