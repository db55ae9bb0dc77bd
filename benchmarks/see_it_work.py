"""Draws the figures of docs/see-it-work.md with the embedded model: one function a figure.

python benchmarks/see_it_work.py [--only maps,controls,...] [--steps 50] [--out docs/see-it-work]
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

import sfumato
from sfumato.api.cost import measured
from sfumato.apps.contact_sheet import Cell, Row, Words, changed_words, draw_sheet, heat_overlay
from sfumato.attention.features import decoder_layers
from sfumato.emoji import EXAMPLES
from sfumato.images import load_image, to_images, to_pixels
from sfumato.models.base import Model
from sfumato.sampling.layout import Branch
from sfumato.sampling.loop import sample

CAPTIONS = {entry["file"]: entry["prompt"] for entry in json.loads((EXAMPLES / "examples.json").read_text("utf-8"))}
TILE = 128


class Studio:
    """The model, and edits of bundled images by their captions.

    Args:
        steps: Denoising steps.
    """

    def __init__(self, steps: int) -> None:
        self.model: Model = sfumato.load_model("emoji")
        self.steps = steps

    def edit(
        self,
        file: str,
        old: str = "",
        new: str = "",
        method: str = "prompt-to-prompt",
        prompt: str | None = None,
        **options: Any,
    ) -> Any:
        """Replaces words of an image's caption, or of a prompt in its place."""
        prompt = prompt or CAPTIONS[file]
        assert old in prompt, (old, prompt)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return sfumato.edit(
                self.model, EXAMPLES / file, source_prompt=prompt, target_prompt=prompt.replace(old, new, 1),
                method=method, num_inference_steps=self.steps, **options,
            )  # fmt: skip

    def image(self, file: str) -> Image.Image:
        """A bundled image."""
        return load_image(EXAMPLES / file).image


def maps(studio: Studio) -> Image.Image:
    """Where the words of a caption look."""
    rows = []
    for file, words in (
        ("fox-and-pizza.png", ("fox", "pizza", "striped", "background")),
        ("apple-and-cat.png", ("red", "apple", "cat", "yellow")),
        ("rabbit-and-tree.png", ("rabbit", "tree", "blue", "snowflakes")),
    ):
        result = studio.edit(file)
        cells = [Cell(result.source, "image")]
        cells += [
            Cell(heat_overlay(enlarged(result.source), result.attention_map(word, target=None)), word) for word in words
        ]
        rows.append(Row("", [[Words(CAPTIONS[file])]], cells))
    return sheet(rows, 5)


def controls(studio: Studio) -> Image.Image:
    """Prompt-to-Prompt: swap a word, add one, weigh one."""
    untold = CAPTIONS["apple-and-cat.png"].replace("a red apple", "an apple")
    rows = [
        edited_row("swap", studio.edit("fox-and-pizza.png", "fox", "dog"), "dog"),
        edited_row("refine", studio.edit("apple-and-cat.png", "an apple", "a green apple", prompt=untold), "green"),
    ]
    words = ("some", "snowflakes")
    weighed = [
        (factor, studio.edit("rabbit-and-tree.png", weights=dict.fromkeys(words, factor)))
        for factor in (-1.0, 0.0, 1.5, 3.0)
    ]
    said = [Words("the maps of "), Words("some snowflakes", changed=True), Words("times a factor")]
    rows.append(Row("re-weight", [said], [Cell(result.image, f"x {factor:g}") for factor, result in weighed]))
    return sheet(rows, 4)


def edited_row(title: str, result: Any, word: str) -> Row:
    """An edit, with what changes in its prompt and where a word of the target looks."""
    source, target = result.recipe["source_prompt"], result.recipe["target_prompts"][0]
    words = [changed_words(source, target), [Words("becomes")], changed_words(target, source)]
    cells = [Cell(result.source, "image"), Cell(result.reconstruction, "reconstruction"), Cell(result.image, "edit")]
    heat = heat_overlay(enlarged(result.image), result.attention_map(word))
    return Row(title, words, [*cells, Cell(heat, word)])


def inversion(studio: Studio) -> Image.Image:
    """How an image comes back, by inversion and guidance."""
    file, rows = "panda-and-cupcake.png", []
    for method, words in (
        ("ddim", "DDIM inversion: the steps run backwards, each with the prediction of the level before."),
        ("null-text", "Null-text inversion: DDIM's path, and an empty prompt that is fitted at each step."),
        ("edit-friendly", "Edit-friendly noise: what each random step would have to draw is kept."),
    ):
        cells = []
        for scale in (1.0, 3.0, 7.5):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = sfumato.invert(
                    studio.model, EXAMPLES / file, prompt=CAPTIONS[file], method=method,
                    num_inference_steps=studio.steps, guidance_scale=scale if method != "ddim" else None,
                ).inversion  # fmt: skip
                back, psnr = replayed(studio, found, file, scale)
            cells.append(Cell(back, f"guidance {scale:g}: {psnr:.1f} dB"))
        rows.append(Row(method, [[Words(words)]], cells))
    return sheet(rows, 3)


def replayed(studio: Studio, inversion: Any, file: str, scale: float) -> tuple[Image.Image, float]:
    """The source branch of an inversion at a guidance, and its PSNR."""
    model = studio.model
    branch = {"source": Branch(model.encode_prompt(CAPTIONS[file]), guidance_scale=scale)}
    back = sample(model, inversion.noise, branch, timesteps=inversion.timesteps, replay=inversion, eta=inversion.eta)[0]
    with torch.no_grad():
        (image,) = to_images(model.decode_latents(back))
    error = (to_pixels(image) - to_pixels(studio.image(file))).square().mean() / 4
    return image, float(-10 * error.log10())


def directions(studio: Studio) -> Image.Image:
    """pix2pix-zero: one direction between words, applied to several images."""
    rows = []
    for old, new, files in (
        ("cat", "dog", ("cat.png", "apple-and-cat.png")),
        ("lion", "panda", ("lion-and-sunflower.png",)),
    ):
        for file in files:
            result = studio.edit(file, old, new, "pix2pix-zero")
            cells = [Cell(result.source, "image"), Cell(result.reconstruction, "reconstruction")]
            rows.append(Row(f"{old} to {new}", [[Words(CAPTIONS[file])]], [*cells, Cell(result.image, "edit")]))
    return sheet(rows, 3)


def noise_maps(studio: Studio) -> Image.Image:
    """What edit-friendly inversion keeps in its noise, beside noise that is drawn, and what it is good for."""
    file = "lion-and-sunflower.png"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = sfumato.invert(
            studio.model, EXAMPLES / file, prompt=CAPTIONS[file], method="edit-friendly",
            num_inference_steps=studio.steps,
        ).inversion  # fmt: skip
    assert found.noise_maps is not None
    kept = len(found.noise_maps)
    cells = [Cell(studio.image(file), "image")]
    drawn = torch.randn(found.noise.shape, generator=torch.Generator().manual_seed(0))
    cells.append(Cell(as_colours(drawn[0]), "noise as drawn"))
    cells += [
        Cell(as_colours(found.noise_maps[int(share * kept)][0]), f"kept, {share:.0%} done") for share in (0.4, 0.8)
    ]
    fox, tree = (studio.edit(file, *words, "edit-friendly") for words in (("lion", "fox"), ("sunflower", "tree")))
    edits = [Cell(fox.source, "image"), Cell(fox.reconstruction, "reconstruction")]
    edits += [Cell(fox.image, "a fox"), Cell(tree.image, "a tree")]
    rows = [
        Row("noise maps", [[Words("three of the latent channels as red, green and blue")]], cells),
        Row("an edit", [[Words("the same noise maps, another prompt")]], edits),
    ]
    return sheet(rows, 4)


def features(studio: Studio) -> Image.Image:
    """What Plug-and-Play copies: the decoder's features, their first three principal components as colours."""
    model, rows = studio.model, []
    for file in ("fox-and-pizza.png", "star-and-heart.png"):
        clean = model.encode_image(to_pixels(studio.image(file)))
        layer, _ = decoder_layers(model, (clean.shape[-2], clean.shape[-1]))
        noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
        cells = [Cell(studio.image(file), "image")]
        for step in model.schedule.steps(studio.steps)[:: studio.steps // 4][1:]:
            noisy = step.level.signal * clean + step.level.noise * noise
            seen: list[Tensor] = []
            with (
                torch.no_grad(),
                model.feature_hook([layer], keep_in(seen)),
            ):
                model.predict(noisy, step.time, model.encode_prompt(CAPTIONS[file]))
            cells.append(Cell(as_colours(components(seen[0][0])), f"noise {step.level.noise:.2f}"))
        rows.append(Row("", [[Words(CAPTIONS[file])]], cells[:4]))
    return sheet(rows, 4)


def keep_in(seen: list[Tensor]) -> Callable[[str, Tensor], Tensor]:
    """A hook that notes features and leaves them as they are."""

    def hook(_: str, output: Tensor) -> Tensor:
        seen.append(output)
        return output

    return hook


def morphs(studio: Studio) -> Image.Image:
    """A morph, and a cross-fade of the same images."""
    strips = []
    for method in ("crossfade", "impus"):
        with warnings.catch_warnings(), measured(studio.model):
            warnings.simplefilter("ignore")
            found = sfumato.morph(
                studio.model, EXAMPLES / "cat.png", EXAMPLES / "dog.png",
                prompts=[CAPTIONS["cat.png"], CAPTIONS["dog.png"]], method=method, num_frames=8,
            )  # fmt: skip
        strips.append(
            Row(method, [[Words(f"largest step over mean {found.spread:.2f}")]], [Cell(f) for f in found.images])
        )
    return sheet(strips, 8, tile=96)


FIGURES: dict[str, Callable[[Studio], Image.Image]] = {
    "maps": maps,
    "controls": controls,
    "inversion": inversion,
    "directions": directions,
    "noise-maps": noise_maps,
    "features": features,
    "morphs": morphs,
}


def sheet(rows: Sequence[Row], columns: int, tile: int = TILE) -> Image.Image:
    """Rows of images with their captions below."""
    return draw_sheet(rows, [""] * columns, tile=tile, text_width=210)


def enlarged(image: Image.Image) -> Image.Image:
    return image.resize((2 * TILE, 2 * TILE), Image.Resampling.BICUBIC)


def as_colours(values: Tensor) -> Image.Image:
    """Three channels as an image: (channels, height, width), any range."""
    shown = values[:3].float()
    shown = (shown - shown.mean((1, 2), keepdim=True)) / (2.5 * shown.std((1, 2), keepdim=True))
    (image,) = to_images(shown[None].clamp(-1, 1))
    return image.resize((TILE, TILE), Image.Resampling.NEAREST)


def components(features: Tensor) -> Tensor:
    """The first three principal components of features (channels, height, width) over places, (3, height, width)."""
    flat = features.float().flatten(1).T
    _, _, directions = torch.linalg.svd(flat - flat.mean(0), full_matrices=False)
    return ((flat - flat.mean(0)) @ directions[:3].T).T.view(3, *features.shape[1:])


def main() -> None:
    """Draws and writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(FIGURES), help=f"of {', '.join(FIGURES)}")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--out", type=Path, default=Path("docs/see-it-work"))
    args = parser.parse_args()
    if unknown := set(args.only.split(",")) - set(FIGURES):
        parser.error(f"unknown figure {', '.join(sorted(unknown))}; there are {', '.join(FIGURES)}")
    args.out.mkdir(parents=True, exist_ok=True)
    studio = Studio(args.steps)
    for name in args.only.split(","):
        figure = FIGURES[name](studio)
        figure.quantize(256, dither=Image.Dither.NONE).save(args.out / f"{name}.png", optimize=True)
        print(args.out / f"{name}.png", flush=True)


if __name__ == "__main__":
    main()
