"""The policy for masks: how they are read and fitted, what greys and feathers mean, what stays outside."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import sfumato
from sfumato.api.masks import feathered, read_mask, to_latent_size
from sfumato.api.source_image import read_source
from sfumato.edits import auto
from sfumato.edits.keep_outside import KeepOutside
from sfumato.edits.method import METHODS
from sfumato.edits.task import EditTask
from sfumato.errors import ImageError, UsageError
from sfumato.images import load_image
from sfumato.inversions.method import INVERSIONS
from sfumato.inversions.result import Inversion
from sfumato.models.schedules import Level, Step, add_noise
from tests.served import DIFFUSION, on

PROMPTS: dict[str, Any] = {"source_prompt": "a photo of a cat", "target_prompt": "a photo of a dog"}
QUICK: dict[str, dict[str, Any]] = {
    "auto": {"tries": 2, "draws": 1},
    "diffedit": {"contrast_draws": 1},
    "delta-denoising": {"iterations": 2},
    "langevin": {"energy": {"stay-near": -0.05}, "num_langevin_steps": 2, "keep": "last"},  # away from the image
}
SIZE = (128, 96)
DRIFTING = ("ddim", "regularised-ddim", "null-text", "negative-prompt", "fixed-point", "bdia", "direct")

pytestmark = pytest.mark.filterwarnings("ignore:the reconstruction differs from the image")  # random weights


@pytest.fixture(scope="module")
def image() -> Image.Image:
    return drawn(SIZE)


@pytest.fixture(scope="module")
def left() -> Image.Image:
    """White on the left half: 8 of 16 columns of latents."""
    return half(SIZE)


def drawn(size: tuple[int, int]) -> Image.Image:
    coarse = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def half(size: tuple[int, int]) -> Image.Image:
    mask = Image.new("L", size, 0)
    mask.paste(255, (0, 0, size[0] // 2, size[1]))
    return mask


def edit(model: Any, image: Any, method: str = "ddib", **options: Any) -> sfumato.EditResult:
    given = {"num_inference_steps": 4, "guidance_scale": 3.0, "method": method, **PROMPTS, **QUICK.get(method, {})}
    return sfumato.edit(model, image, **(given | options))


def final_latents(model: Any, image: Any, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Tensor:
    """What an edit decodes at its end, (branch, channels, height, width)."""
    decoded: list[Tensor] = []
    decode = type(model).decode_latents
    with monkeypatch.context() as patch:
        patch.setitem(vars(model), "decode_latents", lambda latents: decoded.append(latents) or decode(model, latents))
        edit(model, image, **options)
    return next(latents for latents in decoded if len(latents) > 1)


def encoding(model: Any, image: Image.Image) -> Tensor:
    latents: Tensor = model.encode_image(sfumato.images.to_pixels(image))[0]
    return latents


# outside the mask


@pytest.mark.parametrize("method", on(DIFFUSION, METHODS))
def test_outside_the_mask_every_method_keeps_the_image(
    toy_model: Any, image: Image.Image, left: Image.Image, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"method": method, "num_inference_steps": 2, "mask": left}
    result = edit(toy_model, image, **given, mask_pixels=True, mask_feather=6.0)
    shown, source = np.asarray(result.image), np.asarray(image)
    assert np.array_equal(shown[:, 64:], source[:, 64:])
    assert not np.array_equal(shown[:, :40], source[:, :40])
    latents, clean = final_latents(toy_model, image, monkeypatch, **given), encoding(toy_model, image)
    assert torch.equal(latents[1][..., 8:], clean[..., 8:])
    assert not torch.allclose(latents[1][..., :8], clean[..., :8], atol=1e-4)
    assert result.recipe["mask"]["feather"] == 6.0


@pytest.mark.parametrize("inversion", DRIFTING)
def test_outside_the_mask_the_image_stays_whatever_the_inversion(
    toy_model: Any, image: Image.Image, left: Image.Image, inversion: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = {"num_inference_steps": 2, "inversion_options": {"inner_steps": 1} if inversion == "null-text" else {}}
    arguments = {"method": "pix2pix-zero", "inversion": inversion, "mask": left, "source_guidance_scale": 4.0, **quick}
    latents, clean = final_latents(toy_model, image, monkeypatch, **arguments), encoding(toy_model, image)
    assert torch.equal(latents[1][..., 8:], clean[..., 8:])
    assert inversion in INVERSIONS


def test_a_saved_inversion_keeps_the_image_outside_too(
    toy_model: Any, image: Image.Image, left: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    inverted = sfumato.invert(toy_model, image, prompt=PROMPTS["source_prompt"], num_inference_steps=3, method="ddim")
    arguments = {"inverted": inverted.inversion, "num_inference_steps": 3, "mask": left}
    latents = final_latents(toy_model, image, monkeypatch, method="prompt-to-prompt", **arguments)
    assert torch.equal(latents[1][..., 8:], encoding(toy_model, image)[..., 8:])


def test_during_the_run_the_image_stays_on_its_own_path() -> None:
    clean, noise, at_250, edited = torch.randn(4, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    weight = torch.zeros(1, 1, 8, 8)
    weight[..., :4] = 0.3  # any grey is inside while the run lasts
    source = Inversion("ddim", noise, (500, 250), trajectory=torch.stack([clean, at_250, noise]))
    drawn = Inversion("picture", noise, (500, 250), trajectory=clean[None])
    half, last = (
        Step(index, 2, t, t_prev, *map(Level.variance_preserving, levels))
        for index, t, t_prev, levels in ((0, 500, 250, (0.3, 0.5)), (1, 250, -1, (0.5, 0.99)))
    )
    for start, step, outside in (
        (source, half, at_250),
        (drawn, half, add_noise(clean, noise, half.level_prev)),
        (source, last, clean),
    ):
        keep = KeepOutside(weight, clean, start, targets=1)
        for latents in (edited[None], torch.stack([noise, edited])):  # without a source branch, and with one
            held = keep(latents, step)
            assert torch.equal(held[-1][..., :4], edited[..., :4])
            assert torch.equal(held[-1][..., 4:], outside[..., 4:])
            assert torch.equal(held[:-1], latents[:-1])


# greys and feathers


@pytest.mark.parametrize("steps", [2, 5])
@pytest.mark.parametrize("method", ["sdedit", "prompt-to-prompt"])
def test_half_grey_keeps_half_whatever_the_number_of_steps(
    toy_model: Any, image: Image.Image, method: str, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clean = encoding(toy_model, image)

    def change(grey: float) -> Tensor:
        arguments = {"method": method, "num_inference_steps": steps, "mask": torch.full(SIZE[::-1], grey)}
        return final_latents(toy_model, image, monkeypatch, **arguments)[1] - clean

    whole = change(1.0)
    assert whole.abs().mean() > 1e-3
    for grey in (0.25, 0.5, 0.75):
        torch.testing.assert_close(change(grey), grey * whole, rtol=1e-4, atol=1e-5)


def test_half_grey_keeps_half_of_the_pixels(toy_model: Any, image: Image.Image) -> None:
    source = np.asarray(image, dtype=float)
    whole, part = (
        np.asarray(edit(toy_model, image, "sdedit", mask=Image.new("L", SIZE, grey), mask_pixels=True).image) - source
        for grey in (255, 128)
    )
    assert np.abs(part - whole * 128 / 255).max() <= 1.0


def test_a_feather_leaves_the_inside_and_the_outside_alone(
    toy_model: Any, image: Image.Image, left: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    hard, soft = (
        final_latents(toy_model, image, monkeypatch, method="sdedit", mask=left, mask_feather=width)[1]
        for width in (0.0, 32.0)  # 4 latents
    )
    clean = encoding(toy_model, image)
    assert torch.equal(soft[..., :4], hard[..., :4])
    assert torch.equal(soft[..., 8:], clean[..., 8:])
    between = ((soft - clean) / (hard - clean))[..., 4:8].mean(dim=(0, 1))
    torch.testing.assert_close(between, torch.tensor([1.0, 0.75, 0.5, 0.25]), rtol=0, atol=0.03)


def test_a_feather_rises_evenly_inside_the_mask() -> None:
    mask = torch.zeros(1, 1, 40, 40)
    mask[..., 10:30, :20] = 0.5
    soft = feathered(mask, 8.0)[0, 0]
    assert torch.equal(soft[mask[0, 0] == 0], torch.zeros(int((mask == 0).sum())))
    torch.testing.assert_close(soft[20, 12:20].flip(0), 0.5 * torch.arange(1, 9) / 8)
    assert torch.equal(soft[18:22, :12], torch.full((4, 12), 0.5))  # the border of the image is no edge
    thin = torch.zeros(1, 1, 40, 40)
    thin[..., 18:21] = 1.0
    assert feathered(thin, 16.0).max() > 0.1  # a thin line is weaker, and does not vanish
    assert torch.equal(feathered(mask, 0.0), mask)
    assert feathered(mask, 40.0)[..., 20, 0] < 0.5


def test_a_latent_may_change_as_much_as_any_pixel_under_it() -> None:
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., 5, 5], mask[..., 6, 6] = 0.25, 0.75
    assert to_latent_size(mask, (2, 2)).flatten().tolist() == [0.75, 0.0, 0.0, 0.0]


# reading


def on_transparent(mode: str, left: Image.Image) -> Image.Image:
    layer = Image.new("RGBA", left.size, (255, 255, 255, 0))
    layer.putalpha(left)
    return layer.convert(mode)


def with_transparent_colour(left: Image.Image) -> Image.Image:
    """A palette of white and white, the second of which is transparent."""
    image = left.point(lambda value: 0 if value else 1).convert("P")
    image.putpalette([255, 255, 255] * 2)
    image.info["transparency"] = 1
    return image


def as_file(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


READ_ALIKE: dict[str, Any] = {
    "grey": lambda left: left,
    "1 bit": lambda left: left.convert("1"),
    "white on transparent": lambda left: on_transparent("RGBA", left),
    "white on transparent, grey and alpha": lambda left: on_transparent("LA", left),
    "white on transparent, as PNG": lambda left: as_file(on_transparent("RGBA", left), "PNG"),
    "white on transparent, as WebP": lambda left: as_file(on_transparent("RGBA", left), "WEBP", lossless=True),
    "a transparent colour of a palette": with_transparent_colour,
    "the same as GIF": lambda left: as_file(with_transparent_colour(left), "GIF", transparency=1),
    "grey, as JPEG": lambda left: as_file(left, "JPEG", quality=80),
    "16-bit grey": lambda left: np.asarray(left).astype(np.uint16) * 257,
    "booleans": lambda left: np.asarray(left) > 0,
    "floats": lambda left: np.asarray(left) / 255.0,
    "tensor": lambda left: torch.from_numpy(np.array(left) / 255.0),
    "tensor of booleans": lambda left: torch.from_numpy(np.array(left) > 0)[None],
}


@pytest.mark.parametrize("kind", READ_ALIKE)
def test_transparent_may_not_change_and_white_may_in_every_kind_of_image(
    toy_model: Any, image: Image.Image, left: Image.Image, kind: str
) -> None:
    mask, notes = read_mask(READ_ALIKE[kind](left), read_source(toy_model, image, None, None, (255, 255, 255)))
    assert torch.equal(mask[0, 0], torch.from_numpy(np.array(left)) / 255)
    assert notes == ()


def test_half_transparent_white_is_half_grey(toy_model: Any, image: Image.Image) -> None:
    picture = read_source(toy_model, image, None, None, (255, 255, 255))
    mask, _ = read_mask(Image.new("RGBA", SIZE, (255, 255, 255, 128)), picture)
    assert mask.unique().tolist() == pytest.approx([128 / 255], abs=1e-3)


def test_a_coloured_mask_is_told_of(toy_model: Any, image: Image.Image) -> None:
    result = edit(toy_model, image, "ddib", mask=Image.new("RGB", SIZE, (255, 0, 0)))
    assert any("the mask has colours" in note for note in result.notes)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (Image.new("L", SIZE, 0), "black or transparent everywhere"),
        (Image.new("RGBA", SIZE, (255, 255, 255, 0)), "black or transparent everywhere"),
        (np.ones(SIZE[::-1], dtype=np.uint8), "brightest value is 1 of 255"),
        (np.full(SIZE[::-1], np.nan), "must lie in"),
        (torch.full(SIZE[::-1], torch.nan), "must be in"),
        (torch.full(SIZE[::-1], 2.0), "must be in"),
        (torch.ones(3, *SIZE[::-1]), "must be .height, width."),
        (torch.tensor(1.0), "must be .height, width."),
        (torch.empty(SIZE[::-1], device="meta"), "must be .height, width."),
        (torch.eye(96).to_sparse(), "must be .height, width."),
        (torch.zeros(0, 0), "no pixels"),
        (Image.new("L", (64, 96), 255), "64x96 pixels, the (image|image) 128x96"),
        (5, "cannot make an image of int"),
        ("no-such-mask.png", "no file"),
    ],
)
def test_a_mask_that_cannot_be_meant_is_refused_before_the_network_runs(
    toy_model: Any, image: Image.Image, mask: Any, message: str
) -> None:
    before = toy_model.evaluations
    with pytest.raises(ImageError, match=message):
        edit(toy_model, image, mask=mask)
    assert toy_model.evaluations == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mask_words": "hat"}, "'hat' is not in"),
        ({"mask_words": []}, "mask_words is empty"),
        ({"mask_words": " "}, "mask_words is empty"),
        ({"mask_words": "cat", "mask": half(SIZE)}, "not both"),
        ({"mask_invert": True}, "need a mask"),
        ({"mask": half(SIZE), "mask_feather": float("nan")}, "mask_feather must be"),
        ({"mask": half(SIZE), "mask_feather": 97.0}, "mask_feather must be in .0, 96. pixels"),
        ({"mask": half(SIZE), "mask_threshold": float("nan")}, "mask_threshold must be"),
    ],
)
def test_mask_arguments_that_do_not_fit_are_refused_before_the_network_runs(
    toy_model: Any, image: Image.Image, arguments: dict[str, Any], message: str
) -> None:
    before = toy_model.evaluations
    with pytest.raises(UsageError, match=message):
        edit(toy_model, image, **arguments)
    assert toy_model.evaluations == before


# fitting


@pytest.mark.parametrize("size", [None, (64, 64)])
@pytest.mark.parametrize("fit", ["crop", "pad", "resize"])
def test_the_mask_is_fitted_as_its_image(toy_model: Any, fit: Any, size: tuple[int, int] | None) -> None:
    """A white block, as image and as its own mask, lies in the same place after both are fitted."""
    block = Image.new("RGB", (100, 70), (0, 0, 0))
    block.paste((255, 255, 255), (20, 10, 60, 50))
    picture = read_source(toy_model, block, size, fit, (255, 255, 255))
    assert picture.fitted.image.size != block.size
    given, ready = (read_mask(mask, picture)[0] for mask in (block, picture.fitted.image))
    shown = torch.from_numpy(np.array(picture.fitted.image.convert("L"))) / 255
    assert torch.equal(given > 0.5, shown[None, None] > 0.5)
    assert torch.equal(ready > 0.5, shown[None, None] > 0.5)  # one that has the fitted size already
    assert given.unique().tolist()[0] == 0.0


def test_a_photographs_own_mask_is_taken_with_fit(toy_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    source, mask = drawn((100, 70)), half((100, 70))
    for fit in ("crop", "pad", "resize"):
        result = edit(toy_model, source, mask=mask, fit=fit, mask_pixels=True)
        shown, kept = (np.asarray(one) for one in (result.image, result.source))
        right = shown.shape[1] // 2 + 1
        assert np.array_equal(shown[:, right:], kept[:, right:])
        assert not np.array_equal(shown[:, : right - 8], kept[:, : right - 8])


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_the_mask_is_turned_as_its_photograph(toy_model: Any, orientation: int) -> None:
    """Painted over the upright image, with the photograph's own EXIF data, or over the pixels as they are stored."""
    stored, exif = drawn((128, 64)), Image.Exif()
    exif[0x0112] = orientation
    photograph = as_file(stored, "PNG", exif=exif)
    picture = read_source(toy_model, photograph, None, None, (255, 255, 255))
    painted = half(stored.size)
    upright = load_image(as_file(painted, "PNG", exif=exif)).image
    masks = [upright, as_file(painted, "PNG", exif=exif)]
    masks += [painted] if picture.fitted.image.size != stored.size else []
    for mask in masks:
        read, _ = read_mask(mask, picture)
        assert torch.equal(read[0, 0], torch.from_numpy(np.array(upright.convert("L"))) / 255)


# all but the mask


def test_an_inverted_mask_lets_all_else_change(
    toy_model: Any, image: Image.Image, left: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = left.point(lambda value: 255 - value)
    inverted = final_latents(toy_model, image, monkeypatch, mask=left, mask_invert=True)
    assert torch.equal(inverted, final_latents(toy_model, image, monkeypatch, mask=right))
    assert torch.equal(inverted[1][..., :8], encoding(toy_model, image)[..., :8])
    with pytest.raises(ImageError, match="leave out mask_invert"):
        edit(toy_model, image, mask=Image.new("L", SIZE, 255), mask_invert=True)


def test_inverted_words_let_all_but_them_change(
    toy_model: Any, image: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    clean, words = encoding(toy_model, image), {"mask_words": "cat", "mask_threshold": 0.6}
    named, others = (
        (final_latents(toy_model, image, monkeypatch, mask_invert=invert, **words)[1] != clean).any(dim=0)
        for invert in (False, True)
    )
    assert named.any()
    assert torch.equal(named, ~others)


def test_words_that_look_nowhere_are_told(toy_model: Any, image: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sfumato.api.masks.mask_from_words", lambda *_, **__: torch.zeros(1, 1, 12, 16))
    with pytest.raises(ImageError, match="marks no place"):
        edit(toy_model, image, mask_words="cat")


# methods that know masks


def test_diffedit_takes_the_mask_in_place_of_its_own(toy_model: Any, image: Image.Image, left: Image.Image) -> None:
    found = edit(toy_model, image, "diffedit", contrast_draws=3)
    given = edit(toy_model, image, "diffedit", mask=left, target_prompt=["a red hat", "a photo of a dog"])
    assert found.cost.evaluations == 4 + 3 * 2 + 3 * 2  # inversion, contrast, int(0.9 * 4) steps
    assert given.cost.evaluations == 4 + 3 * 2 * 2
    mask = torch.cat([torch.ones(1, 1, 12, 8), torch.zeros(1, 1, 12, 8)], dim=-1)
    prompts = PROMPTS["source_prompt"], ["a photo of a dog"]
    task = EditTask(toy_model, given.inversion, *prompts, guidance_scale=3.0, mask=mask)
    latents = METHODS["diffedit"].function(task).latents
    shown = sfumato.images.to_images(toy_model.decode_latents(latents[1]))[0]
    assert np.abs(np.asarray(shown, int) - np.asarray(given.images[1], int)).max() <= 1  # rounding of a larger batch


def test_masactrl_takes_the_mask_as_foreground_when_told_so(
    toy_model: Any, image: Image.Image, left: Image.Image
) -> None:
    told, plain = (edit(toy_model, image, "masactrl", mask=left, foreground_mask=told) for told in (True, False))
    assert told.image.tobytes() != plain.image.tobytes()
    assert told.recipe["options"] == {"foreground_mask": True}


def test_the_automatic_choice_hands_it_on(
    toy_model: Any, image: Image.Image, left: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = (auto.Try("diffedit", {"contrast_draws": 7}), auto.Try("prompt-to-prompt", {}))
    monkeypatch.setattr(auto, "TRIES", tries)
    with_mask, without = (
        edit(toy_model, image, "auto", num_inference_steps=2, inversion="direct", **masked)
        for masked in ({"mask": left, "mask_pixels": True}, {})
    )
    assert without.cost.evaluations - with_mask.cost.evaluations == 2 * 7
    for tried in with_mask.tried:
        assert np.array_equal(np.asarray(tried.image)[:, 64:], np.asarray(image)[:, 64:])


def test_a_recipe_names_the_mask(toy_model: Any, image: Image.Image, left: Image.Image, tmp_path: Path) -> None:
    left.save(tmp_path / "left.png")
    first, second = (
        edit(toy_model, image, mask=tmp_path / "left.png", mask_invert=invert).recipe["mask"]
        for invert in (False, True)
    )
    assert first["path"] == str(tmp_path / "left.png")
    assert (first["invert"], second["invert"]) == (False, True)
    assert len(first["sha256"]) == 64
