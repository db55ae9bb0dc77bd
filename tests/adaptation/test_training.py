"""The training loop: draws, the loss in every prediction space, checkpoints, and nothing left in the model."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sfumato.adaptation import training
from sfumato.adaptation.fine_tune import FineTuned, fine_tune
from sfumato.adaptation.lora import Lora, adapted
from sfumato.adaptation.store import Slot, Store
from sfumato.adaptation.textual_inversion import common_prompt_of, positions, textual_inversion
from sfumato.adaptation.training import Denoising, Draws, leaves
from sfumato.errors import Cancelled, SamplingError, UsageError
from sfumato.models.base import Condition, Model
from sfumato.models.discrete_vp import DiscreteVP
from sfumato.models.schedules import add_noise
from sfumato.watch import Watch

PROMPTS = ["a cat", "a dog"]
SCHEDULE = DiscreteVP(torch.linspace(0.999, 0.001, 1000, dtype=torch.float64))


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """Ctrl-C and SIGTERM raise, also where a shell runs the tests in the background, deaf to Ctrl-C."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, signal.default_int_handler) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


def clean(images: int = 2, seed: int = 0) -> Tensor:
    return torch.randn(images, 4, 8, 8, generator=torch.Generator().manual_seed(seed))


def fresh(model: Model, rank: int = 2, seed: int = 0) -> Lora:
    return Lora.fresh(model, rank, generator=torch.Generator().manual_seed(seed))


def tune(model: Model, latents: Tensor, *, images: int | None = None, **options: Any) -> FineTuned:
    options = {"iterations": 3, "draws": Draws(seed=7)} | options
    loras = options.pop("loras", [fresh(model)])
    return fine_tune(model, latents, model.encode_prompt(PROMPTS[: len(latents)]), loras, **options)


def learn(model: Model, latents: Tensor, **options: Any) -> Any:
    options = {"iterations": 3, "draws": Draws(seed=7, shared=True)} | options
    return textual_inversion(model, latents, model.encode_prompt("a cat"), **options)


def prediction(model: Model) -> Tensor:
    with torch.no_grad():
        return model.predict(clean(1, 9), 500, model.encode_prompt("a cat"))


def all_equal(first: Lora, second: Lora) -> bool:
    pairs = zip(first.tensors().values(), second.tensors().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_draws_are_the_same_for_a_seed_and_cover_the_schedule() -> None:
    draws, latents = Draws(seed=3, count=4), clean(2)
    (timesteps, noise), (again, _) = draws.at(5, latents, SCHEDULE), draws.at(5, latents, SCHEDULE)
    assert timesteps.shape == (2, 4)
    assert noise.shape == (2, 4, 4, 8, 8)
    assert torch.equal(timesteps, again)
    assert not torch.equal(timesteps, draws.at(6, latents, SCHEDULE)[0])
    assert torch.equal(timesteps // 250, torch.arange(4).expand(2, 4))  # one draw in each quarter
    every = torch.cat([Draws(seed=k).at(0, latents, SCHEDULE)[0].flatten() for k in range(500)]).double()
    assert every.mean().item() == pytest.approx(500, abs=30)
    assert 0 <= every.min() < 20
    assert 980 < every.max() < 1000


def test_shared_draws_serve_all_pictures() -> None:
    timesteps, noise = Draws(seed=3, count=2, shared=True).at(0, clean(2), SCHEDULE)
    assert torch.equal(timesteps[0], timesteps[1])
    assert torch.equal(noise[0], noise[1])


def test_given_draws_must_fit() -> None:
    given = Draws(timesteps=torch.zeros(2, 1, 1, dtype=torch.long), noise=torch.zeros(2, 1, 1, 4, 8, 8))
    assert torch.equal(given.at(1, clean(1), SCHEDULE)[1], torch.zeros(1, 1, 4, 8, 8))
    with pytest.raises(UsageError, match="2 iterations only"):
        given.at(2, clean(1), SCHEDULE)
    with pytest.raises(UsageError, match=r"do not fit latents \(2, 4, 8, 8\)"):
        given.at(0, clean(2), SCHEDULE)


@pytest.mark.parametrize("name", ["toy_model", "toy_velocity_model", "toy_xl_model"])
def test_the_loss_is_what_it_says(name: str, request: pytest.FixtureRequest) -> None:
    model, latents, draws = request.getfixturevalue(name), clean(2), Draws(seed=1, count=2)
    condition = model.encode_prompt(PROMPTS)
    loss = Denoising(model, latents, draws)
    embeds = leaves({"embeds": condition.text}, model)["embeds"]
    found = loss.backward(4, lambda images: condition[images].with_text(embeds[images]))

    timesteps, noise = draws.at(4, latents, SCHEDULE)
    expected = torch.zeros(2)
    for image in range(2):
        for draw in range(2):
            t = int(timesteps[image, draw])
            level = model.schedule.level(t)
            noisy = add_noise(latents[[image]], noise[image, [draw]], level)
            with torch.no_grad():
                output = model.predict(noisy, t, condition[[image]])
            error = (model.schedule.split(output, noisy, level).eps - noise[image, [draw]]).square().mean()
            # an error of the velocity is one of the noise, divided by sqrt(alpha_bar)
            expected[image] += error / 2 / (level.signal**2 if model.schedule.target == "velocity" else 1.0)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    assert embeds.grad is not None
    assert embeds.grad.abs().amax(dim=(1, 2)).min() > 0


def test_calls_of_few_rows_give_the_same_gradient(toy_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    def gradient() -> Tensor:
        embeds = leaves({"embeds": toy_model.encode_prompt(PROMPTS).text}, toy_model)["embeds"]
        Denoising(toy_model, clean(2), Draws(seed=1, count=3)).backward(0, lambda images: Condition(embeds[images]))
        assert embeds.grad is not None
        return embeds.grad

    together = gradient()
    monkeypatch.setattr(Denoising, "rows_at_once", 2)
    torch.testing.assert_close(gradient(), together, rtol=1e-4, atol=1e-8)


def test_a_broken_loss_is_told(toy_model: Model) -> None:
    latents = clean(1)
    latents[0, 0, 0, 0] = torch.nan
    with pytest.raises(SamplingError, match="iteration 1: lower the learning rate"):
        tune(toy_model, latents)


def test_pictures_with_adapters_of_their_own_are_trained_as_if_alone(toy_model: Model) -> None:
    latents, starts = clean(2), [fresh(toy_model, seed=1), fresh(toy_model, seed=2)]
    draws = Draws(seed=7, shared=True)
    together = tune(toy_model, latents, loras=starts, draws=draws)
    for image, start in enumerate(starts):
        alone = fine_tune(
            toy_model, latents[[image]], toy_model.encode_prompt(PROMPTS[image]), [start], iterations=3, draws=draws
        )
        torch.testing.assert_close(together.losses[:, [image]], alone.losses, rtol=1e-4, atol=1e-6)
        for name, tensor in alone.lora.tensors().items():
            torch.testing.assert_close(together.loras[image].tensors()[name], tensor, rtol=0, atol=2e-5)
    assert not all_equal(*together.loras)
    with pytest.raises(UsageError, match="3 adapters do not fit 2 images"):
        tune(toy_model, latents, loras=[*starts, starts[0]])


def test_training_lowers_the_loss_and_leaves_start_and_model_alone(toy_model: Model) -> None:
    latents, start, before = clean(1), fresh(toy_model), prediction(toy_model)
    steps = torch.full((20, 1, 1), 300)
    noise = clean(1, 5).expand(20, 1, 1, 4, 8, 8)
    tuned = tune(toy_model, latents, loras=[start], iterations=20, draws=Draws(timesteps=steps, noise=noise))
    assert tuned.losses[-1] < 0.98 * tuned.losses[0]
    assert all_equal(start, fresh(toy_model))
    assert not any(tensor.requires_grad for tensor in tuned.lora.tensors().values())
    assert torch.equal(prediction(toy_model), before)
    with adapted(toy_model, tuned.lora):
        assert not torch.allclose(prediction(toy_model), before)

    learned = learn(toy_model, latents, iterations=20, draws=Draws(timesteps=steps, noise=noise), learning_rate=1e-2)
    assert learned.losses[-1] < learned.losses[0]
    assert not learned.condition.text.requires_grad


def test_no_iterations_change_nothing(toy_model: Model) -> None:
    before = toy_model.evaluations
    assert all_equal(tune(toy_model, clean(), iterations=0).lora, fresh(toy_model))
    assert torch.equal(
        learn(toy_model, clean(), iterations=0).condition.text,
        toy_model.encode_prompt("a cat").expand(2).text,
    )
    assert toy_model.evaluations == before


def test_equal_pictures_get_equal_embeddings(toy_model: Model) -> None:
    embeds = learn(toy_model, clean(1).repeat(2, 1, 1, 1)).condition.text
    torch.testing.assert_close(embeds[0], embeds[1], rtol=0, atol=1e-6)
    other = learn(toy_model, clean(2)).condition.text
    assert (other[0] - other[1]).abs().max() > 1e-3


def test_a_placeholder_is_all_that_is_learned(toy_model: Model) -> None:
    learned = positions(toy_model, "a cat", "cat")
    before = toy_model.encode_prompt("a cat").text[0]
    moved = (learn(toy_model, clean(1), learned=learned).condition.text[0] - before).abs().amax(dim=-1)
    at = learned.nonzero().flatten().tolist()
    assert at
    assert moved[at].min() > 0
    assert moved[[k for k in range(len(moved)) if k not in at]].max() == 0
    long = positions(toy_model, " ".join(["a"] * (toy_model.text.length - 2)) + " cat", "cat")
    assert long.nonzero().flatten().tolist() == [toy_model.text.length + toy_model.text.start]  # in its second chunk


@pytest.mark.parametrize("placeholder", ["dog", "", "ca"])
def test_a_prompt_without_the_placeholder_is_refused(toy_model: Model, placeholder: str) -> None:
    with pytest.raises(UsageError, match="lacks the placeholder"):
        positions(toy_model, "a cat", placeholder)


def test_sdxl_keeps_its_pooled_embedding(toy_xl_model: Model) -> None:
    condition, start = learn(toy_xl_model, clean(), iterations=2).condition, toy_xl_model.encode_prompt("a cat")
    assert torch.equal(condition.extras["pooled"], start.extras["pooled"].expand(2, -1))
    assert not torch.equal(condition.text[:1], start.text)
    assert tune(toy_xl_model, clean(), iterations=2).losses.shape == (2, 2)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("an image of a cat", "an image of a dog", "an image of a cat dog"),
        ("a cat face on blue", "a dog face on red", "a cat dog face on blue red"),
        ("a cat", "a cat", "a cat"),
        ("cat", "dog", "cat dog"),
        ("", "a dog", "a dog"),
        ("", "", ""),
    ],
)
def test_common_prompt(first: str, second: str, expected: str) -> None:
    assert common_prompt_of(first, second) == expected


def interrupt() -> None:
    signal.raise_signal(signal.SIGINT)


def stop() -> None:
    raise RuntimeError("power failed")


def failing_after(iterations: int, fail: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Training fails inside the loss of a later iteration, as a user's Ctrl-C or a full memory makes it."""
    original = Denoising.backward

    def backward(self: Denoising, iteration: int, told: Any) -> Tensor:
        if iteration == iterations:
            fail()
        return original(self, iteration, told)

    monkeypatch.setattr(Denoising, "backward", backward)


@pytest.mark.parametrize(("fail", "error"), [(interrupt, KeyboardInterrupt), (stop, RuntimeError)])
@pytest.mark.parametrize("train", [tune, learn])
def test_an_interrupted_run_comes_to_the_same_numbers(
    train: Any,
    fail: Callable[[], None],
    error: type[BaseException],
    toy_model: Model,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slot, latents, before = Slot(Store(tmp_path), "run"), clean(), prediction(toy_model)
    whole = train(toy_model, latents, iterations=4)
    with monkeypatch.context() as patch:
        failing_after(2, fail, patch)
        with pytest.raises(error):
            train(toy_model, latents, iterations=4, slot=slot)
    assert torch.equal(prediction(toy_model), before)
    assert [path.name for path in tmp_path.iterdir()] == ["run.safetensors"]  # and no part of a file

    evaluations = toy_model.evaluations
    resumed = train(toy_model, latents, iterations=4, slot=slot)
    assert toy_model.evaluations == evaluations + 2 * 2
    assert torch.equal(resumed.losses, whole.losses)
    again = train(toy_model, latents, iterations=4, slot=slot)
    assert toy_model.evaluations == evaluations + 2 * 2  # the finished run is taken from the store
    for found in (resumed, again):
        if isinstance(found, FineTuned):
            assert all_equal(found.lora, whole.lora)
        else:
            assert torch.equal(found.condition.text, whole.condition.text)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_waits_for_the_end_of_an_update(
    toy_model: Model, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slot, whole = Slot(Store(tmp_path), "run"), tune(toy_model, clean())
    original, calls = torch.optim.AdamW.step, []

    def step(self: Any, *arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            signal.raise_signal(number)
        return original(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", step)
        with pytest.raises(KeyboardInterrupt):
            tune(toy_model, clean(), slot=slot)
    kept = slot.load()
    assert kept is not None
    assert kept[1] == {"done": 2, "iterations": 3}
    assert signal.getsignal(number) is signal.default_int_handler
    assert all_equal(tune(toy_model, clean(), slot=slot).lora, whole.lora)


def test_cancelling_keeps_what_was_done(toy_model: Model, tmp_path: Path) -> None:
    asked: list[int] = []
    watch = Watch(cancelled=lambda: len(asked) == 2, progress=lambda progress: asked.append(progress.done))
    slot = Slot(Store(tmp_path), "run")
    with pytest.raises(Cancelled, match="after 1 of 3"):
        tune(toy_model, clean(), slot=slot, watch=watch)
    kept = slot.load()
    assert kept is not None
    assert kept[1] == {"done": 1, "iterations": 3}


def test_a_long_run_is_saved_on_the_way(toy_model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "SECONDS_BETWEEN_SAVES", 0.0)
    saved: list[int] = []
    monkeypatch.setattr(Slot, "save", lambda self, tensors, fields: saved.append(fields["done"]))
    tune(toy_model, clean(), slot=Slot(Store(tmp_path), "run"))
    assert saved == [1, 2, 3]


def test_a_foreign_checkpoint_is_refused(toy_model: Model, tmp_path: Path) -> None:
    slot = Slot(Store(tmp_path), "run")
    tune(toy_model, clean(), slot=slot)
    with pytest.raises(UsageError, match="holds other tensors"):
        tune(toy_model, clean(), slot=slot, loras=[fresh(toy_model, rank=1)])
