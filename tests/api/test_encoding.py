"""Latents refined towards the image."""

from typing import Any

import pytest
import torch
from PIL import Image

import sfumato
from sfumato.api.encoding import encoded
from sfumato.errors import Cancelled, UsageError
from sfumato.images import to_pixels
from sfumato.watch import Progress, Watch

QUIET = Watch(progress=lambda progress: None)
SOURCE, TARGET = "a cat on a mat", "a dog on a mat"


def picture(seed: int = 0) -> Image.Image:
    noise = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(seed))
    pixels = torch.nn.functional.interpolate(noise[None], size=(128, 128), mode="bilinear")[0]
    return Image.fromarray((pixels.permute(1, 2, 0) * 255).byte().numpy())


def miss(model: Any, latents: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return (model.decode_latents(latents) - pixels).square().mean(dim=(1, 2, 3))


def test_each_picture_comes_nearer_by_itself(toy_model: Any) -> None:
    pixels = torch.cat([to_pixels(picture(seed)) for seed in (0, 1)])
    plain, refined = encoded(toy_model, pixels), encoded(toy_model, pixels, encode_steps=4)
    assert torch.allclose(plain, toy_model.encode_image(pixels), atol=1e-5)
    assert torch.equal(plain[[1]], encoded(toy_model, pixels[[1]]))
    assert (miss(toy_model, refined, pixels) < miss(toy_model, plain, pixels)).all()
    alone = encoded(toy_model, pixels[[1]], encode_steps=4)
    assert torch.equal(refined[[1]], alone)
    assert not refined.requires_grad


def test_more_steps_are_no_worse(toy_model: Any) -> None:
    pixels = to_pixels(picture())
    misses = [float(miss(toy_model, encoded(toy_model, pixels, encode_steps=n), pixels)) for n in (0, 1, 3, 9)]
    assert misses == sorted(misses, reverse=True)
    assert misses[-1] < misses[0]


def test_it_is_watched(toy_model: Any) -> None:
    seen: list[Progress] = []
    encoded(toy_model, to_pixels(picture()), encode_steps=2, watch=Watch(progress=seen.append))
    assert seen
    assert seen[-1].done == seen[-1].total
    with pytest.raises(Cancelled):
        encoded(toy_model, to_pixels(picture()), encode_steps=2, watch=Watch(cancelled=lambda: True))


@pytest.mark.filterwarnings("ignore:the reconstruction differs from the image")
def test_edits_and_inversions_start_from_them(toy_model: Any) -> None:
    given: dict[str, Any] = {"source_prompt": SOURCE, "num_inference_steps": 2, "watch": QUIET}
    plain = sfumato.edit(toy_model, picture(), target_prompt=TARGET, **given)
    refined = sfumato.edit(toy_model, picture(), target_prompt=TARGET, encode_steps=5, **given)
    found = sfumato.invert(toy_model, picture(), prompt=SOURCE, num_inference_steps=2, encode_steps=5, watch=QUIET)
    again = sfumato.edit(toy_model, picture(), target_prompt=TARGET, inverted=found.inversion, **given)
    assert refined.ceiling_psnr > plain.ceiling_psnr
    assert refined.reconstruction_psnr > plain.reconstruction_psnr
    assert refined.recipe["encode_steps"] == 5
    assert again.ceiling_psnr == pytest.approx(refined.ceiling_psnr)
    assert again.images[0].tobytes() == refined.images[0].tobytes()
    assert found.inversion.key != plain.inversion.key


def test_bad_numbers_are_told(toy_model: Any) -> None:
    with pytest.raises(UsageError, match="encode_steps must be a whole number of at least 0, got -1"):
        sfumato.edit(toy_model, picture(), source_prompt=SOURCE, target_prompt=TARGET, encode_steps=-1)
    with pytest.raises(UsageError, match="encode_steps is for an image"):
        sfumato.edit(toy_model, None, source_prompt=SOURCE, target_prompt=TARGET, encode_steps=3)
    with pytest.raises(UsageError, match="encode_steps"):
        sfumato.morph(toy_model, picture(0), picture(1), encode_steps=-2)


@pytest.mark.filterwarnings("ignore:the reconstruction differs from the image")
def test_a_slider_refines_once(toy_model: Any) -> None:
    found = sfumato.slider(
        toy_model, picture(), source_prompt=SOURCE, target_prompt=TARGET, num_frames=3, spacing="even",
        num_inference_steps=2, encode_steps=3, distance="pixel", watch=QUIET,
    )  # fmt: skip
    assert len(found.images) == 3
