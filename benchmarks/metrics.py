"""Does each metric grow with what was done to an image? Rank correlations of all, written as docs/metrics.json.

    python benchmarks/metrics.py [--images 48] [--json docs/metrics.json]

Images and changes are those of `benchmarks/emoji_distance.py`: scenes of the emoji world under rising amounts of
blur, noise, shift, colour change and concept change. A metric whose network is not on this computer is a gap in the
table. Sets of images are compared with the originals; morphs are made up, with a known fault.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from emoji_distance import Series, distorted
from scipy.stats import spearmanr
from torch import Tensor

from sfumato.emoji.judge import EmojiClip
from sfumato.emoji.perceptual import EfficientNetDistance, EfficientNetFeatures, EmojiDistance, EmojiFeatures
from sfumato.emoji.scene_captions import caption
from sfumato.emoji.scenes import Scene
from sfumato.errors import ModelError
from sfumato.judges.clip import load_clip, load_dino
from sfumato.metrics import (
    Distance,
    Dists,
    Lpips,
    MissingNetworkError,
    PixelDistance,
    background_distance,
    background_mse,
    background_psnr,
    background_ssim,
    consecutive_distances,
    density_coverage,
    diffmorpher_measures,
    directness,
    endpoint_fidelity,
    features_of,
    frechet_distance,
    kernel_distance,
    smoothness,
    ssim,
    structure_distance,
    text_agreement,
)

Compare = Callable[[Tensor, Tensor], Tensor]
"""Originals and changed images to badness, (images,): larger is worse, whatever the metric's own direction."""
CompareSets = Callable[[Tensor, Tensor], float]

Row = dict[str, float | None] | str
"""Rank correlation of each change, or why there is none."""


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=48)
    parser.add_argument("--json", type=Path, default=Path("docs/metrics.json"))
    args = parser.parse_args()

    scenes, series = distorted(args.images)
    rows: dict[str, Row] = {}
    with torch.no_grad():
        for name, build in pair_metrics(scenes).items():
            rows[name] = measured(build, series, of_pairs)
            print(name, rows[name], flush=True)
        sets: dict[str, Row] = {}
        for name, build_set in set_metrics().items():
            sets[name] = measured(build_set, series, of_sets)
            print(name, sets[name], flush=True)
        shares = share_metrics()
        morphs = morph_metrics(series["concept (level)"])
    result = {"images": args.images, "pairs": rows, "sets": sets, "shares": shares, "morphs": morphs}
    args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def pair_metrics(scenes: list[Scene]) -> dict[str, Callable[[], Compare]]:
    """Every metric of two images: name to what builds it, which raises where its network is missing."""
    mask = torch.zeros(128, 128)
    mask[40:88, 40:88] = 1  # the middle may change; what happens outside is measured
    metrics: dict[str, Callable[[], Compare]] = {
        "MSE": lambda: lambda a, b: (a - b).square().mean(dim=(1, 2, 3)),
        "PSNR": lambda: lambda a, b: (a - b).square().mean(dim=(1, 2, 3)),  # falls as MSE grows, strictly
        "SSIM": lambda: lambda a, b: -ssim(b, a, data_range=2.0),
        "pixel distance": PixelDistance,
        "emoji distance": EmojiDistance,
        "efficientnet-lite0 distance (at 128 px)": lambda: _in_batches(EfficientNetDistance(side=128)),
        "LPIPS (alex)": lambda: Lpips("alex"),
        "LPIPS (vgg)": lambda: Lpips("vgg"),
        "LPIPS (squeeze)": lambda: Lpips("squeeze"),
        "DISTS": Dists,
        "structure distance (DINO)": _structure,
        "text agreement (emoji-clip)": lambda: _emoji_agreement(scenes),
        "CLIP score": lambda: _clip_agreement(scenes),
    }
    for protocol in ("strict", "pie-2023"):
        metrics |= {
            f"background MSE ({protocol})": lambda p=protocol: lambda a, b: background_mse(b, a, mask, protocol=p),
            f"background PSNR ({protocol})": lambda p=protocol: lambda a, b: -background_psnr(b, a, mask, protocol=p),
            f"background SSIM ({protocol})": lambda p=protocol: lambda a, b: -background_ssim(b, a, mask, protocol=p),
            f"background emoji distance ({protocol})": lambda p=protocol: _background(mask, p, EmojiDistance()),
            f"background LPIPS (squeeze, {protocol})": lambda p=protocol: _background(mask, p, Lpips("squeeze")),
        }
    return metrics


def set_metrics() -> dict[str, Callable[[], CompareSets]]:
    """Every metric of two sets of images, under each network of features."""
    metrics: dict[str, Callable[[], CompareSets]] = {}
    for words, network in (
        ("emoji-clip", EmojiFeatures),
        ("efficientnet-lite0 at 128 px", partial(EfficientNetFeatures, side=128)),
    ):
        metrics |= {
            f"Fréchet distance ({words})": lambda n=network: _of_features(n(), frechet_distance),
            f"kernel distance ({words})": lambda n=network: _of_features(n(), _kernel),
            f"density ({words})": lambda n=network: _of_features(n(), lambda a, b: -density_coverage(b, a).density),
            f"coverage ({words})": lambda n=network: _of_features(n(), lambda a, b: -density_coverage(b, a).coverage),
        }
    return metrics


def measured(
    build: Callable[[], object], series: dict[str, Series], correlation: Callable[..., float | None]
) -> object:
    """Rank correlation for each change, or why there is none."""
    try:
        metric = build()
    except (MissingNetworkError, ModelError) as error:
        return f"gap: {_needed(error)}"
    return {name.split()[0]: correlation(metric, one) for name, one in series.items()}


def of_pairs(metric: Compare, series: Series) -> float | None:
    """Mean over the images of the rank correlation of amount and badness."""
    found = np.array([metric(series.pixels[0], pixels).double().numpy() for pixels in series.pixels])
    moved = [k for k in range(found.shape[1]) if len(set(found[:, k].tolist())) > 1]
    each = [float(spearmanr(series.amounts, found[:, k]).statistic) for k in moved]
    return round(float(np.mean(each)), 3) if each else None


def of_sets(metric: CompareSets, series: Series) -> float | None:
    """Rank correlation of amount and badness of the whole set."""
    found = [metric(series.pixels[0], pixels) for pixels in series.pixels]
    return round(float(spearmanr(series.amounts, found).statistic), 3) if len(set(found)) > 1 else None


def share_metrics(count: int = 160) -> dict[str, float]:
    """Rank correlations of density and coverage with what they are for: bad images, and kinds that never come."""
    real, made = (distorted(count, seed=seed)[1]["blur (radius, px)"].pixels[0] for seed in (1, 2))
    noise = torch.randn(made.shape, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    network, shares = EmojiFeatures(), [0.0, 0.1, 0.25, 0.5, 0.75, 0.9]
    of_real, of_made, of_noise = (features_of(pixels, network) for pixels in (real, made, noise))
    found: dict[str, list[float]] = {}
    for share in shares:
        number = round(share * count)
        spoilt = density_coverage(torch.cat([of_noise[:number], of_made[number:]]), of_real)
        repeated = density_coverage(torch.cat([of_made[-1:].expand(number, -1), of_made[number:]]), of_real)
        found.setdefault("density; share of the images that is noise", []).append(-spoilt.density)
        found.setdefault("coverage; share of the images that is noise", []).append(-spoilt.coverage)
        found.setdefault("coverage; share of the images that is one and the same", []).append(-repeated.coverage)
    return {name: round(float(spearmanr(shares, values).statistic), 3) for name, values in found.items()}


def morph_metrics(images: Series) -> dict[str, float]:
    """Rank correlations with the known fault of cross-fades: uneven weights, a way round, ends that miss."""
    distance: Distance = PixelDistance()
    pairs = list(zip(images.pixels[0][:8, None], images.pixels[3][:8, None], strict=True))

    def fade(first: Tensor, last: Tensor, weights: Tensor) -> Tensor:
        return first.lerp(last, weights.view(-1, 1, 1, 1))

    even = torch.linspace(0, 1, 17)
    powers, detours, misses = [1.0, 1.5, 2.0, 3.0, 5.0], [0.0, 0.25, 0.5, 0.75, 1.0], [0.0, 0.1, 0.2, 0.3, 0.4]
    found: dict[str, list[list[float]]] = {}
    for first, last in pairs:
        uneven = [consecutive_distances(fade(first, last, even**power), distance) for power in powers]
        spread = [smoothness(steps) for steps in uneven]
        found.setdefault("smoothness: std / mean", []).append([one.std_over_mean for one in spread])
        found.setdefault("smoothness: max / mean", []).append([one.max_over_mean for one in spread])
        found.setdefault("smoothness: evenness (1 - Gini)", []).append([-one.evenness for one in spread])
        found.setdefault("DiffMorpher's PDV", []).append([diffmorpher_measures(steps).pdv for steps in uneven])
        other = first.flip(3)
        bulge = (4 * even * (1 - even)).view(-1, 1, 1, 1)
        way = fade(first, last, even)
        ways = [(way + share * bulge * (other - first)).clamp(-1, 1) for share in detours]
        steps_of = [consecutive_distances(way, distance) for way in ways]
        ends = float(distance(first, last))
        found.setdefault("directness: detour", []).append([directness(steps, ends).detour for steps in steps_of])
        found.setdefault("DiffMorpher's PPL", []).append([diffmorpher_measures(steps).ppl for steps in steps_of])
        starts = [fade(first, last, miss + (1 - miss) * even) for miss in misses]
        found.setdefault("endpoint fidelity", []).append(
            [endpoint_fidelity(frames, first, last, distance).first for frames in starts]
        )
    ranks = range(5)
    return {
        name: round(float(np.mean([spearmanr(ranks, row).statistic for row in rows])), 3)
        for name, rows in found.items()
    }


def _needed(error: Exception) -> str:
    text = str(error)
    if isinstance(error, MissingNetworkError):
        return text.partition(" are not on this computer")[0].removeprefix("the weights of ")
    return text.partition(":")[0].removeprefix("cannot load ")


def _in_batches(distance: Distance, size: int = 8) -> Compare:
    """A large network, a few images at a time."""
    return lambda a, b: torch.cat([distance(*pair) for pair in zip(a.split(size), b.split(size), strict=True)])


def _background(mask: Tensor, protocol: str, distance: Distance) -> Compare:
    return lambda a, b: background_distance(b, a, mask, distance, protocol=protocol)


def _structure() -> Compare:
    keys = load_dino()
    return lambda a, b: structure_distance(a, b, keys)


def _emoji_agreement(scenes: list[Scene]) -> Compare:
    """How far the agreement with the original's caption has fallen."""
    encoder = EmojiClip()
    texts = encoder.encode_text([caption(scene) for scene in scenes])
    return lambda a, b: -text_agreement(encoder.encode_image(b), texts)


def _clip_agreement(scenes: list[Scene]) -> Compare:
    judge = load_clip()
    texts = judge.text_features([f"a drawing of {caption(scene)}" for scene in scenes])
    return lambda a, b: -text_agreement(judge.image_features(b), texts)


def _of_features(network: Callable[[Tensor], Tensor], compare: CompareSets) -> CompareSets:
    known: dict[int, Tensor] = {}

    def features(pixels: Tensor) -> Tensor:
        if id(pixels) not in known:
            known[id(pixels)] = features_of(pixels, network, batch_size=8)
        return known[id(pixels)]

    return lambda a, b: compare(features(a), features(b))


def _kernel(first: Tensor, second: Tensor) -> float:
    return kernel_distance(first, second, num_subsets=1, subset_size=min(len(first), len(second))).mean


if __name__ == "__main__":
    main()
