"""What inversions share: the steps, the latents, the source branch, single images, the result."""

from typing import Any

import pytest
import torch
from torch import Tensor

from sfumato.inversions.task import InversionTask

SOURCE = "a photo of a cat"


def task(model: Any, images: int = 1, **fields: Any) -> InversionTask:
    latents = 0.5 * torch.randn(images, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    return InversionTask(model, latents, model.encode_prompt(SOURCE), **({"num_inference_steps": 4} | fields))


def evaluations(given: InversionTask) -> int:
    """Of one prediction of the source branch."""
    source, step, before = given.source(), given.steps[0], given.model.evaluations
    with torch.no_grad():
        source.predict(given.clean, step.time, step.level)
    return given.model.evaluations - before


def test_the_grid_is_that_of_sampling(toy_model: Any) -> None:
    assert task(toy_model).steps == toy_model.schedule.steps(4)
    timesteps = [900, 400, 7]
    given = task(toy_model, timesteps=timesteps)
    assert [step.time for step in given.steps] == timesteps
    assert given.inversion("ddim", given.clean).timesteps == tuple(timesteps)


@pytest.mark.parametrize(
    ("given", "kept"), [(torch.float16, torch.float32), (torch.bfloat16, torch.float32), (torch.float64, torch.float64)]
)
def test_latents_keep_float64_and_nothing_below_float32(toy_model: Any, given: torch.dtype, kept: torch.dtype) -> None:
    latents = torch.zeros(1, 4, 8, 8, dtype=given)
    assert InversionTask(toy_model, latents, toy_model.encode_prompt("")).clean.dtype == kept


def test_guidance_costs_a_row_where_it_does_something(toy_model: Any) -> None:
    assert evaluations(task(toy_model, 2)) == 2
    assert evaluations(task(toy_model, 2, guidance_scale=3.0)) == 4
    same = toy_model.encode_prompt(SOURCE)
    assert evaluations(task(toy_model, 2, guidance_scale=3.0, negative=same)) == 2


def test_equal_prompts_predict_what_no_guidance_does(toy_model: Any) -> None:
    def predicted(given: InversionTask) -> Tensor:
        with torch.no_grad():
            return given.source().predict(given.clean, given.steps[0].time, given.steps[0].level).eps

    same = task(toy_model, guidance_scale=3.0, negative=toy_model.encode_prompt(SOURCE))
    assert torch.equal(predicted(same), predicted(task(toy_model)))


def test_a_single_image_takes_its_own_rows_and_generator(toy_model: Any) -> None:
    prompts, generators = toy_model.encode_prompt(["a cat", "a dog"]), [torch.Generator(), torch.Generator()]
    whole = InversionTask(toy_model, torch.randn(2, 4, 8, 8), prompts, prompts[[0]], generator=generators)
    one = whole.image(1)
    assert torch.equal(one.latents, whole.latents[[1]])
    assert torch.equal(one.condition.text, prompts.text[[1]])
    assert one.negative is not None
    assert torch.equal(one.negative.text, prompts.text[[0]])
    assert one.generator is generators[1]
    assert task(toy_model, 2, generator=generators[0]).image(1).generator is generators[0]


def test_the_result_says_what_it_was_made_with(toy_model: Any) -> None:
    given = task(toy_model, guidance_scale=2.0)
    made = given.inversion("mine", given.clean, eta=0.5)
    assert (made.method, made.guidance_scale, made.eta, made.model_revision) == ("mine", 2.0, 0.5, toy_model.revision)
