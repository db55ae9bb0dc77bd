"""What the inversions promise that draw nothing: batches, disk, evaluations, leaks. Round trips: their own tests."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sfumato.errors import UsageError
from sfumato.inversions.method import INVERSIONS
from sfumato.inversions.result import Inversion
from sfumato.inversions.task import InversionTask
from sfumato.sampling.layout import Branch
from sfumato.sampling.loop import sample
from tests.inverting import inverted

SOURCE = "a photo of a cat on the house"
STEPS = 4
OPTIONS: dict[str, dict[str, Any]] = {
    "ddim": {},
    "direct": {},
    "negative-prompt": {},
    "null-text": {"inner_steps": 2, "early_stop": 0.0},
    "fixed-point": {"iterations": 3, "tolerance": 0.0},
    "bdia": {},
}
# evaluations of one image at guidance 3, as the docstrings say
EVALUATIONS = {
    "ddim": STEPS,
    "direct": STEPS,
    "negative-prompt": STEPS,
    "null-text": STEPS * (1 + 2 + 2),
    "fixed-point": 2 * (1 + STEPS * 3),
    "bdia": 2 * (STEPS + 1),
}
MODELS = ["toy_model", "toy_velocity_model", "toy_xl_model"]

pytestmark = pytest.mark.filterwarnings(
    "ignore:null-text inversion does not", "ignore:fixed-point inversion did not", "ignore:the negative prompt is not"
)


@pytest.fixture(params=MODELS)
def model(request: Any) -> Any:
    return request.getfixturevalue(request.param)


def clean(images: int = 1) -> Tensor:
    return torch.randn(images, 4, 16, 16, generator=torch.Generator().manual_seed(2)) * 0.5


def small(images: int = 1) -> Tensor:
    """For promises that hold at any size."""
    return torch.randn(images, 4, 8, 8, generator=torch.Generator().manual_seed(2)) * 0.5


def invert(model: Any, name: str, latents: Tensor, **options: Any) -> Inversion:
    options = {"guidance_scale": 3.0, "num_inference_steps": STEPS} | OPTIONS[name] | options
    found: Inversion = inverted(INVERSIONS[name].function, model, latents, model.encode_prompt(SOURCE), **options)
    return found


def replay(model: Any, inversion: Inversion, guidance_scale: float = 3.0) -> Tensor:
    branch = Branch(model.encode_prompt(SOURCE), guidance_scale=guidance_scale)
    return sample(model, inversion.noise, {"source": branch}, timesteps=inversion.timesteps, replay=inversion)[0]


@pytest.mark.parametrize("name", OPTIONS)
def test_evaluations_are_those_of_the_docstring(model: Any, name: str) -> None:
    before = model.evaluations
    found = invert(model, name, small())
    assert model.evaluations - before == EVALUATIONS[name]
    assert found.method == name
    assert found.trajectory is not None
    assert torch.equal(found.clean, small())
    assert torch.equal(found.latents_at(0), found.noise)


@pytest.mark.parametrize("name", OPTIONS)
def test_a_batch_equals_single_runs(toy_model: Any, name: str) -> None:
    whole = small(2)
    batch = invert(toy_model, name, whole)
    back = replay(toy_model, batch)
    for image in range(2):
        one = invert(toy_model, name, whole[[image]])
        torch.testing.assert_close(batch.noise[[image]], one.noise, rtol=1e-3, atol=1e-4)
        # on a processor without AVX-512 a value of fixed-point inversion is 2e-4 off
        torch.testing.assert_close(back[[image]], replay(toy_model, one), rtol=1e-3, atol=5e-4)
        for field in ("null_embeds", "residuals"):
            together, alone = getattr(batch, field), getattr(one, field)
            assert (together is None) == (alone is None)
            if alone is not None:
                torch.testing.assert_close(together[:, [image]], alone, rtol=1e-3, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize("name", OPTIONS)
def test_the_file_replays_as_the_inversion(toy_model: Any, name: str, tmp_path: Path) -> None:
    found = invert(toy_model, name, small())
    loaded = Inversion.load(found.save(tmp_path / "cat.safetensors"))
    assert torch.equal(replay(toy_model, loaded), replay(toy_model, found))


@pytest.mark.parametrize("name", OPTIONS)
def test_nothing_leaks_also_when_an_inversion_breaks(model: Any, name: str) -> None:
    condition, latents, calls = model.encode_prompt("a cat"), small(), 0
    predict = type(model).predict

    def breaking(*args: Any) -> Tensor:
        nonlocal calls
        calls += 1
        if calls > 6:
            raise RuntimeError("on purpose")
        output: Tensor = predict(model, *args)
        return output

    with torch.no_grad():
        before = model.predict(latents, 400, condition)
    invert(model, name, latents)
    model.predict = breaking
    try:
        with pytest.raises(RuntimeError, match="on purpose"):
            invert(model, name, latents, num_inference_steps=8)
    finally:
        del model.predict
    with torch.no_grad():
        assert torch.equal(model.predict(latents, 400, condition), before)
    assert torch.is_grad_enabled()
    for parameter in model.unet.parameters():
        assert parameter.grad is None
        assert not parameter.requires_grad


@pytest.mark.parametrize("name", OPTIONS)
def test_prompts_that_do_not_fit_the_batch_are_refused(toy_model: Any, name: str) -> None:
    before = toy_model.evaluations
    with pytest.raises(UsageError, match="2 rows does not fit a batch of 3"):
        INVERSIONS[name].function(
            InversionTask(toy_model, small(3), toy_model.encode_prompt(["a", "b"]), num_inference_steps=4)
        )
    assert toy_model.evaluations == before


@pytest.mark.parametrize("name", OPTIONS)
def test_the_negative_prompt_of_another_length_fits(toy_model: Any, name: str) -> None:
    """A prompt of two chunks beside an empty one, both ways."""
    long = toy_model.encode_prompt(" ".join(["cat"] * 80))
    for condition, negative in ((long, None), (toy_model.encode_prompt("a cat"), long)):
        task = InversionTask(toy_model, small(), condition, negative, 3.0, num_inference_steps=2)
        found = INVERSIONS[name].function(task, **OPTIONS[name])
        branch = Branch(condition, negative, 3.0)
        back = sample(toy_model, found.noise, {"source": branch}, timesteps=found.timesteps, replay=found)
        assert bool(torch.isfinite(back).all())
