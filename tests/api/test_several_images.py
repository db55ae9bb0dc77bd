"""Several images in one call: what single calls give, image by image, in batches where sizes agree."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import sfumato
from sfumato.edits.method import METHODS
from sfumato.errors import ImageError, UsageError
from sfumato.images import to_pixels
from tests.served import DIFFUSION, on

pytestmark = pytest.mark.filterwarnings("ignore:the reconstruction differs from the image", "ignore::UserWarning")
QUICK = {
    "delta-denoising": {"iterations": 2},
    "langevin": {"energy": {"stay-near": 1.0}, "num_langevin_steps": 2},
    "auto": {"tries": 2, "draws": 1},
}
PROMPTS: dict[str, Any] = {"source_prompt": "a photo of a cat", "target_prompt": "a photo of a dog"}


def picture(seed: int, size: tuple[int, int] = (64, 64)) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 255, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(values).resize(size, Image.Resampling.BICUBIC)


def edit(model: Any, image: Any, **given: Any) -> Any:
    return sfumato.edit(model, image, **{**PROMPTS, "num_inference_steps": 2, "guidance_scale": 3.0, **given})


def assert_as_alone(model: Any, images: list[Any], results: Any, seed: int = 0, **given: Any) -> None:
    assert len(results) == len(images)
    for k, (image, result) in enumerate(zip(images, results, strict=True)):
        alone = edit(model, image, seed=seed + k, **given)
        assert result.recipe == alone.recipe
        for one, other in zip((*result.images, result.source), (*alone.images, alone.source), strict=True):
            assert float((to_pixels(one) - to_pixels(other)).abs().max()) <= 1.01 / 127.5  # 1 of 255, by rounding
        assert result.reconstruction_psnr == pytest.approx(alone.reconstruction_psnr, abs=0.05)
        assert result.inversion.noise.shape == alone.inversion.noise.shape
        assert result.notes == alone.notes
        assert result.cost.evaluations == alone.cost.evaluations


@pytest.mark.parametrize("method", on(DIFFUSION, METHODS))
def test_every_method_gives_what_single_calls_give(method: str, toy_model: Any) -> None:
    images, given = [picture(0), picture(1)], QUICK.get(method, {})
    results = edit(toy_model, images, method=method, seed=3, **given)
    assert_as_alone(toy_model, images, results, seed=3, method=method, **given)


@pytest.mark.parametrize("inversion", ["bdia", "null-text", "negative-prompt", "dpm-encoder"])
def test_all_that_inversions_hold_is_joined(inversion: str, toy_model: Any) -> None:
    images, given = [picture(0), picture(1)], {"method": "prompt-to-prompt", "inversion": inversion, "seed": 3}
    if inversion == "null-text":
        given["inversion_options"] = {"inner_steps": 2}
    assert_as_alone(toy_model, images, edit(toy_model, images, **given), **given)


def test_results_come_in_the_order_of_the_images(toy_model: Any) -> None:
    images = [picture(0), picture(1, (48, 64)), picture(2), picture(3, (48, 64)), *map(picture, range(4, 8))]
    results = edit(toy_model, images, method="ddib")
    assert [result.image.size for result in results] == [image.size for image in images]
    assert_as_alone(toy_model, images, results, method="ddib")


def test_targets_maps_and_masks(toy_model: Any) -> None:
    images, targets = (picture(0), picture(1)), ["a photo of a dog", "a photo of a red cat"]
    results = edit(toy_model, images, target_prompt=targets)
    assert isinstance(results, tuple)
    assert_as_alone(toy_model, list(images), results, target_prompt=targets)
    for k, result in enumerate(results):
        alone = edit(toy_model, images[k], target_prompt=targets, seed=k)
        assert torch.allclose(result.attention_map("dog"), alone.attention_map("dog"), atol=1e-4)
    mask = Image.new("L", (64, 64), 0)
    mask.paste(255, (0, 0, 32, 64))
    masked = edit(toy_model, images, mask=mask, mask_pixels=True)
    assert_as_alone(toy_model, list(images), masked, mask=mask, mask_pixels=True)


def test_a_batch_that_is_too_large_for_the_device_runs_one_by_one(
    toy_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict, rows = toy_model.predict, []

    def small(latents: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        rows.append(len(latents))
        if len(latents) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        result: torch.Tensor = predict(latents, *args, **kwargs)
        return result

    images = [picture(0), picture(1), picture(2)]
    monkeypatch.setitem(vars(toy_model), "predict", small)
    results = edit(toy_model, images)
    assert max(rows) > 4
    assert_as_alone(toy_model, images, results)


def test_one_image_in_a_list_is_one_result(toy_model: Any) -> None:
    (result,) = edit(toy_model, [picture(0)], seed=5)
    assert result.image.tobytes() == edit(toy_model, picture(0), seed=5).image.tobytes()


def test_seeds_follow_one_another(toy_model: Any) -> None:
    images = [picture(0)] * 3
    assert [result.recipe["seed"] for result in edit(toy_model, images, seed=2**64 - 2)] == [2**64 - 2, 2**64 - 1, 0]
    seeds = [result.recipe["seed"] for result in edit(toy_model, images, seed=-1)]
    assert seeds == [seeds[0], seeds[0] + 1, seeds[0] + 2]
    assert -1 not in [result.recipe["seed"] for result in edit(toy_model, images, seed=-3)]


def test_what_is_wrong_is_said_before_any_work(toy_model: Any, tmp_path: Path) -> None:
    picture(1, (33, 64)).save(tmp_path / "odd.png")
    before = toy_model.evaluations
    with pytest.raises(ImageError, match=r"image 2 of 2 \(.*odd.png\): the image has 33x64 pixels"):
        edit(toy_model, [picture(0), tmp_path / "odd.png"])
    with pytest.raises(ImageError, match=r"image 1 of 2: cannot make an image of int"):
        edit(toy_model, [3, picture(0)])
    with pytest.raises(UsageError, match="give at least one image"):
        edit(toy_model, [])
    with pytest.raises(UsageError, match="image 2 of 2 is None"):
        edit(toy_model, [picture(0), None])
    assert toy_model.evaluations == before
    inversion = sfumato.invert(toy_model, picture(0), num_inference_steps=2).inversion
    with pytest.raises(UsageError, match="an inversion holds one image, got 2"):
        edit(toy_model, [picture(0), picture(1)], inverted=inversion)


def test_any_requests_at_once_give_what_each_gives_alone(toy_model: Any) -> None:
    prompts = {**PROMPTS, "num_inference_steps": 2, "guidance_scale": 3.0, "method": "sdedit"}
    requests = [
        sfumato.EditRequest(**prompts, image=picture(0), seed=3),
        sfumato.EditRequest(**{**prompts, "target_prompt": "a photo of a red dog"}, image=picture(1), seed=4),
        sfumato.EditRequest(**prompts, image="gone.png"),
        sfumato.EditRequest(**prompts, image=picture(2), seed=5),
        sfumato.EditRequest(**{**prompts, "method": "ddib"}, image=picture(2, (72, 64))),
    ]
    results = sfumato.edit_many(toy_model, requests)
    assert isinstance(results[2], ImageError)
    assert "gone.png" in str(results[2])
    for k in (0, 1, 3, 4):
        result, alone = results[k], requests[k].run(toy_model)
        assert isinstance(result, sfumato.EditResult)
        assert result.recipe == alone.recipe
        assert float((to_pixels(result.image) - to_pixels(alone.image)).abs().max()) <= 1.01 / 127.5
    with pytest.raises(UsageError, match=r"requests\[0\] must be an EditRequest"):
        sfumato.edit_many(toy_model, ["cat.png"])  # type: ignore[list-item]


def test_a_batch_that_fails_costs_those_alone_that_fail(toy_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from sfumato.api import several_edits

    requests = [
        sfumato.EditRequest(**PROMPTS, num_inference_steps=2, method="sdedit", image=picture(k)) for k in range(3)
    ]
    run_together, sizes = several_edits.run_together, []

    def failing(model: Any, plans: Any, *args: Any) -> Any:
        sizes.append(len(plans))
        if any(plan.picture.digest == broken for plan in plans):
            raise UsageError("this one")
        return run_together(model, plans, *args)

    broken = several_edits.plan_edit(toy_model, requests[1]).picture.digest
    monkeypatch.setattr(several_edits, "run_together", failing)
    monkeypatch.setattr(several_edits, "run_plan", lambda model, plan, watch: failing(model, [plan], watch)[0])
    results = sfumato.edit_many(toy_model, requests)
    assert [type(result).__name__ for result in results] == ["EditResult", "UsageError", "EditResult"]
    assert sizes == [3, 1, 1, 1]
