"""A user's mask with every method: what lies outside stays; a method with a mask of its own takes the user's."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import sfumato
from sfumato.edit import auto
from sfumato.errors import ImageError, UsageError
from sfumato.masking import KeepOutside
from sfumato.registry import METHODS
from sfumato.schedules import Step, add_noise

PROMPTS: dict[str, Any] = {"source_prompt": "a photo of a cat", "target_prompt": "a photo of a dog"}
QUICK: dict[str, dict[str, Any]] = {
    "auto": {"tries": 2, "draws": 1},
    "diffedit": {"contrast_draws": 1},
    "langevin": {"energy": {"stay-near": -0.05}, "num_langevin_steps": 2, "keep": "last"},  # away from the picture
}

pytestmark = pytest.mark.filterwarnings("ignore:the source picture does not come back")  # random weights


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    coarse = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((128, 96), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def left() -> Image.Image:
    """White on the left half: 8 of 16 columns of latents."""
    mask = Image.new("L", (128, 96), 0)
    mask.paste(255, (0, 0, 64, 96))
    return mask


def edit(model: Any, picture: Image.Image, method: str, **options: Any) -> sfumato.EditResult:
    given = {"num_inference_steps": 4, "guidance_scale": 3.0, "method": method, **PROMPTS, **QUICK.get(method, {})}
    return sfumato.edit(model, picture, **(given | options))


@pytest.mark.parametrize("method", METHODS)
def test_outside_the_mask_every_method_keeps_the_source(
    toy_model: Any, picture: Image.Image, left: Image.Image, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[Tensor] = []
    decode = toy_model.decode_latents
    monkeypatch.setattr(toy_model, "decode_latents", lambda latents: decoded.append(latents) or decode(latents))
    result = edit(toy_model, picture, method, mask=left, mask_pixels=True, mask_feather=6.0)
    image, source = np.asarray(result.image), np.asarray(picture)
    assert np.array_equal(image[:, 64:], source[:, 64:])
    assert not np.array_equal(image[:, :40], source[:, :40])
    latents = decoded[0]  # (branch, channels, height, width); a feather of 6 pixels reaches 2 latents far
    torch.testing.assert_close(latents[1][..., 10:], latents[0][..., 10:])
    assert not torch.allclose(latents[1][..., :5], latents[0][..., :5], atol=1e-4)
    assert result.recipe["mask"]["feather"] == 6.0


@pytest.mark.parametrize("method", METHODS)
def test_a_mask_that_does_not_fit_is_refused_before_the_network_runs(
    toy_model: Any, picture: Image.Image, left: Image.Image, method: str
) -> None:
    before = toy_model.evaluations
    with pytest.raises(ImageError, match="64x96 pixels, the picture 128x96"):
        edit(toy_model, picture, method, mask=left.crop((0, 0, 64, 96)))
    with pytest.raises(UsageError, match="'hat' is not in"):
        edit(toy_model, picture, method, mask_words="hat")
    assert toy_model.evaluations == before


def test_a_run_without_a_source_branch_ends_at_the_picture_itself() -> None:
    clean, noise, edited = torch.randn(3, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., :4] = 1.0
    keep = KeepOutside(mask, clean, noise, targets=1)
    half, last = Step(0, 500, 250, 0.3, 0.5, 2), Step(1, 250, -1, 0.5, 0.99, 2)
    for step, outside in ((half, add_noise(clean, noise, 0.5)), (last, clean)):
        kept = keep(edited[None], step)[0]
        assert torch.equal(kept[..., :4], edited[..., :4])
        assert torch.equal(kept[..., 4:], outside[..., 4:])


def test_diffedit_takes_the_mask_in_place_of_its_own(toy_model: Any, picture: Image.Image, left: Image.Image) -> None:
    found = edit(toy_model, picture, "diffedit", contrast_draws=3)
    given = edit(toy_model, picture, "diffedit", mask=left, target_prompt=["a red hat", "a photo of a dog"])
    assert found.cost.evaluations == 4 + 3 * 2 + 3 * 2  # inversion, contrast, int(0.9 * 4) steps
    assert given.cost.evaluations == 4 + 3 * 2 * 2
    latents = METHODS["diffedit"].function(
        toy_model, given.inversion, source_prompt=PROMPTS["source_prompt"], target_prompts=["a photo of a dog"],
        guidance_scale=3.0, mask=torch.cat([torch.ones(1, 1, 12, 8), torch.zeros(1, 1, 12, 8)], dim=-1),
    ).latents  # fmt: skip
    shown = sfumato.images.to_images(toy_model.decode_latents(latents[1]))[0]
    assert np.abs(np.asarray(shown, int) - np.asarray(given.images[1], int)).max() <= 1  # rounding of a larger batch


def test_masactrl_takes_the_mask_as_foreground_when_told_so(
    toy_model: Any, picture: Image.Image, left: Image.Image
) -> None:
    told, plain = (edit(toy_model, picture, "masactrl", mask=left, foreground_mask=told) for told in (True, False))
    assert told.image.tobytes() != plain.image.tobytes()
    assert told.recipe["options"] == {"foreground_mask": True}


def test_the_automatic_choice_hands_it_on(
    toy_model: Any, picture: Image.Image, left: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = (auto.Try("diffedit", {"contrast_draws": 7}), auto.Try("prompt-to-prompt", {}))
    monkeypatch.setattr(auto, "TRIES", tries)
    with_mask, without = (
        edit(toy_model, picture, "auto", mask=mask, num_inference_steps=2, inversion="direct") for mask in (left, None)
    )
    assert without.cost.evaluations - with_mask.cost.evaluations == 2 * 7
