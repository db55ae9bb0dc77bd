"""Prompt-to-Prompt from every inversion that serves it, through `sfumato.edit`; combinations that are refused."""

from typing import Any

import numpy as np
import pytest
from PIL import Image

import sfumato
from sfumato.edits.method import METHODS
from sfumato.errors import UsageError
from sfumato.inversions.method import INVERSIONS
from tests.served import DIFFUSION, on

SERVING = METHODS["prompt-to-prompt"].inversions
EXACT = {"direct", "bdia", "edit-friendly", "dpm-encoder"}
OPTIONS: dict[str, dict[str, Any]] = {"null-text": {"inner_steps": 1}, "fixed-point": {"iterations": 2}}
PROMPTS: dict[str, Any] = {"source_prompt": "a photo of a cat", "target_prompt": "a photo of a dog"}

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # random weights bring no image back


def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8))


@pytest.mark.parametrize("name", [name for name in SERVING if name in on(DIFFUSION, INVERSIONS)])
def test_every_inversion_that_serves_it_runs(toy_model: Any, name: str) -> None:
    """And an inversion once made is edited again, at other guidance, with the source as it was made for."""
    options: dict[str, Any] = {"num_inference_steps": 2, **PROMPTS}
    first = sfumato.edit(
        toy_model, picture(), inversion=name, inversion_options=OPTIONS.get(name), guidance_scale=3.0, **options
    )
    again = sfumato.edit(toy_model, picture(), inverted=first.inversion, guidance_scale=5.0, **options)
    assert first.recipe["inversion"] == again.recipe["inversion"] == name
    assert again.recipe["source_guidance_scale"] == first.recipe["source_guidance_scale"]
    for result in (first, again):
        assert np.isfinite(result.reconstruction_psnr)
        if name in EXACT:
            assert result.reconstruction_psnr == pytest.approx(result.ceiling_psnr, abs=0.05)
        assert np.abs(np.asarray(result.image, int) - np.asarray(result.reconstruction, int)).max() > 0


def test_all_inversions_serve_it_but_those_for_one_method_alone() -> None:
    assert set(SERVING) == {name for name, entry in INVERSIONS.items() if not entry.serves_only}


def test_a_combination_without_sense_is_refused_with_the_reason(toy_model: Any) -> None:
    before = toy_model.evaluations
    for method in on(DIFFUSION, METHODS):
        for name in sorted(set(on(DIFFUSION, INVERSIONS)) - set(METHODS[method].inversions)):
            with pytest.raises(UsageError, match=f"{method} cannot start from inversion '{name}': .{{20}}.*it takes: "):
                sfumato.edit(toy_model, picture(), method=method, inversion=name, **PROMPTS)
    assert toy_model.evaluations == before
