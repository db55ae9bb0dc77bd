"""Guidance in an interval of the run: rows that are not guided cost nothing, and the whole run is as it was."""

from typing import Any

import pytest
import torch
from PIL import Image

import sfumato
from sfumato.adaptation.lora import Lora, RowAdapters
from sfumato.api.requests import EditRequest
from sfumato.edits.method import METHODS
from sfumato.errors import UsageError
from sfumato.sampling.layout import Branch, limited
from sfumato.sampling.loop import sample
from sfumato.watch import Watch
from tests.edits.test_pairs import QUICK
from tests.served import DIFFUSION, on

QUIET = Watch(progress=lambda _: None)
SOURCE, TARGET, STEPS = "a photo of a cat", "a photo of a dog", 4
PROMPTS: dict[str, Any] = {"source_prompt": SOURCE, "target_prompt": TARGET}
LIMITED = [name for name in on(DIFFUSION, METHODS) if METHODS[name].guidance_interval]


def picture() -> Image.Image:
    return Image.radial_gradient("L").resize((32, 32)).convert("RGB")


def edited(model: Any, method: str, interval: tuple[float, float], **changes: Any) -> Any:
    options = {**QUICK.get(method, {}), **changes}
    given: dict[str, Any] = {"guidance_scale": 4.0, "num_inference_steps": STEPS, "watch": QUIET, **PROMPTS, **options}
    return sfumato.edit(model, picture(), method=method, guidance_interval=interval, **given)


def drawn(model: Any, interval: tuple[float, float], scale: float = 4.0) -> Any:
    return sfumato.generate(
        model, TARGET, num_inference_steps=STEPS, guidance_scale=scale, guidance_interval=interval, watch=QUIET
    )


def test_a_step_outside_costs_one_row_less(toy_model: Any) -> None:
    for interval, rows in [((0.0, 1.0), 8), ((0.0, 0.5), 6), ((0.25, 0.5), 5), ((0.5, 1.0), 6)]:
        assert drawn(toy_model, interval).cost.evaluations == rows


def test_the_whole_run_is_the_run_without_an_interval_bit_for_bit(toy_model: Any) -> None:
    plain = sfumato.generate(toy_model, TARGET, num_inference_steps=STEPS, guidance_scale=4.0, watch=QUIET)
    assert plain.images[0].tobytes() == drawn(toy_model, (0.0, 1.0)).images[0].tobytes()
    assert limited(4.0, (0.0, 1.0)) == 4.0


def test_an_interval_of_no_step_is_no_guidance_and_is_said(toy_model: Any) -> None:
    nothing, off = drawn(toy_model, (0.0, 0.1)), drawn(toy_model, (0.0, 1.0), scale=1.0)
    assert nothing.images[0].tobytes() == off.images[0].tobytes()
    assert any("guidance_interval=0.1 of 4 steps is less than one step" in note for note in nothing.notes)


@pytest.mark.parametrize("method", LIMITED)
def test_every_method_that_takes_an_interval_pays_less_and_gives_something_else(method: str, toy_model: Any) -> None:
    whole, half = edited(toy_model, method, (0.0, 1.0)), edited(toy_model, method, (0.0, 0.5))
    assert half.cost.evaluations < whole.cost.evaluations
    assert half.images[0].tobytes() != whole.images[0].tobytes()


def test_a_control_sees_the_same_branches_whichever_rows_a_step_has(toy_model: Any) -> None:
    """The result is that of a run whose layout keeps all rows, in which they are weighed by 0."""
    condition = toy_model.encode_prompt([SOURCE, TARGET])
    latents = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(1))

    def lora(seed: int) -> Lora:
        generator = torch.Generator().manual_seed(seed)
        shapes = toy_model.attention_projections().items()
        return Lora(
            {
                name: (0.1 * torch.randn(2, i, generator=generator), 0.1 * torch.randn(o, 2, generator=generator))
                for name, (i, o) in shapes
            }
        )

    adapters = RowAdapters({"uncond": [None, lora(1)], "cond": [lora(2), lora(3)]})

    def run(always: float) -> torch.Tensor:
        """With a scale that is nearly 1 in the place of 1, all rows are computed."""
        scale = limited(3.0, (0.0, 0.5))
        branches = {
            "source": Branch(condition[[0]]),
            "target": Branch(condition[[1]], guidance_scale=lambda step: max(always, scale(step))),  # type: ignore[operator]
        }
        return sample(toy_model, latents, branches, num_inference_steps=STEPS, controls=[adapters])

    before = toy_model.evaluations
    dropped = run(1.0)
    assert toy_model.evaluations - before == 2 * 3 + 2 * 2
    torch.testing.assert_close(dropped, run(1.0 + 1e-7), rtol=0.0, atol=1e-4)


def test_methods_with_guidance_of_their_own_refuse_an_interval(toy_model: Any) -> None:
    with pytest.raises(UsageError, match="has guidance of its own"):
        edited(toy_model, "plug-and-play", (0.0, 0.5))


@pytest.mark.parametrize("given", [(0.5, 0.5), (0.7, 0.2), (-0.1, 1), (0, 1.5), 0.7, "0,1", (0.1,), (float("nan"), 1)])
def test_what_is_no_interval_is_refused(given: Any, toy_model: Any) -> None:
    with pytest.raises(UsageError, match=r"guidance_interval must be \(start, end\) with 0 <= start < end <= 1, got"):
        drawn(toy_model, given)


def test_a_recipe_says_the_interval(toy_model: Any) -> None:
    result = edited(toy_model, "sdedit", (0.25, 0.75), guidance_scale=2.0)
    assert result.recipe["guidance_interval"] == [0.25, 0.75]
    said = {"command": "edit", "source_prompt": SOURCE, "target_prompts": [TARGET], "guidance_interval": [0, 0.5]}
    assert EditRequest.from_json(said).guidance_interval == (0, 0.5)
