"""Deep features used again in later steps: what is computed, what stays equal, and where it is refused."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

import sfumato
from sfumato.edits.method import METHODS
from sfumato.errors import UsageError
from sfumato.sampling.layout import Branch, limited
from sfumato.sampling.loop import sample
from sfumato.watch import Watch
from tests.sampling.test_layout import Reads
from tests.served import DIFFUSION, on
from tests.toy_flow import toy_sd3_pipeline

QUIET = Watch(progress=lambda _: None)
SOURCE, TARGET, STEPS = "a photo of a cat", "a photo of a dog", 4
CACHING = [name for name in on(DIFFUSION, METHODS) if METHODS[name].cache_interval]
MODELS = ["toy_model", "toy_velocity_model", "toy_xl_model"]


@pytest.fixture
def deep_calls(request: Any) -> Callable[[Any], list[int]]:
    """Counts how often the middle of a model's UNet is computed: the list grows by its rows at each call."""

    def counted(model: Any) -> list[int]:
        rows: list[int] = []
        resnet = model.unet.mid_block.resnets[0]
        handle = resnet.register_forward_hook(lambda module, inputs, output: rows.append(len(output)))
        request.addfinalizer(handle.remove)
        return rows

    return counted


def noise() -> Tensor:
    return torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(1))


def run(model: Any, cache_interval: int, **given: Any) -> Tensor:
    branch = Branch(model.encode_prompt(TARGET), guidance_scale=limited(3.0, given.pop("interval", (0.0, 1.0))))
    given = {"num_inference_steps": STEPS, **given}
    return sample(model, noise(), {"sample": branch}, cache_interval=cache_interval, **given)


def edited(model: Any, method: str, cache_interval: int, **options: Any) -> Any:
    image = Image.radial_gradient("L").resize((32, 32)).convert("RGB")
    return sfumato.edit(
        model, image, source_prompt=SOURCE, target_prompt=TARGET, method=method, num_inference_steps=STEPS,
        guidance_scale=3.0, cache_interval=cache_interval, watch=QUIET, **options,
    )  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_every_other_step_leaves_the_deep_stages_out(name: str, request: Any, deep_calls: Any) -> None:
    model = request.getfixturevalue(name)
    calls, before = deep_calls(model), model.evaluations
    reused = run(model, 2)
    assert calls == [2, 2]
    assert model.evaluations - before == 2 * STEPS
    near = (reused - run(model, 1)).norm() / reused.norm()
    assert 0.0 < near < 0.05


def test_interval_1_is_the_run_without_a_cache_bit_for_bit(toy_model: Any) -> None:
    branch = Branch(toy_model.encode_prompt(TARGET), guidance_scale=3.0)
    plain = sample(toy_model, noise(), {"sample": branch}, num_inference_steps=STEPS)
    assert torch.equal(plain, run(toy_model, 1))


@pytest.mark.parametrize("name", MODELS)
def test_features_of_the_same_input_change_nothing(name: str, request: Any) -> None:
    """A step at the same latents and time with its own features gives what a full evaluation gives."""
    model = request.getfixturevalue(name)
    condition = model.encode_prompt(TARGET)
    full = model.predict(noise(), 500.0, condition)
    with torch.no_grad(), model.cached_features() as cache:
        cache.at_step(reuse=False)
        model.predict(noise(), 500.0, condition)
        cache.at_step(reuse=True)
        again = model.predict(noise(), 500.0, condition)
    assert torch.equal(full, again)


def test_the_model_is_as_found_afterwards(toy_model: Any) -> None:
    own, before = run(toy_model, 1), [dict(vars(module)) for module in toy_model.unet.modules()]
    run(toy_model, 3)
    with pytest.raises(RuntimeError), toy_model.cached_features():
        raise RuntimeError
    assert [dict(vars(module)).keys() for module in toy_model.unet.modules()] == [found.keys() for found in before]
    assert torch.equal(own, run(toy_model, 1))


def test_a_step_at_which_a_control_acts_is_computed_in_full(toy_model: Any, deep_calls: Any) -> None:
    class Acts(Reads):
        def acts(self, step: Any) -> bool:
            return step.index in (1, 2)

    calls = deep_calls(toy_model)
    run(toy_model, 4, controls=[Acts()])
    assert len(calls) == 3  # the first, and these two


def test_other_rows_are_computed_in_full(toy_model: Any, deep_calls: Any) -> None:
    calls = deep_calls(toy_model)
    run(toy_model, 4, interval=(0.0, 0.5))
    assert calls == [2, 1]  # both halves, and the conditional one from the middle on


@pytest.mark.parametrize("method", CACHING)
def test_every_method_that_takes_a_cache_uses_it(method: str, toy_model: Any, deep_calls: Any) -> None:
    """Prompt-to-Prompt and Plug-and-Play compute each step at which they act in full."""
    acting = {"prompt-to-prompt": 1, "plug-and-play": 3}.get(method, 0)
    options: dict[str, Any] = {"prompt-to-prompt": {"cross_replace_steps": 0.25, "self_replace_steps": 0.25}}.get(
        method, {}
    )
    calls = deep_calls(toy_model)
    edited(toy_model, method, 1, **options)
    whole = len(calls)
    edited(toy_model, method, 4, **options)
    assert len(calls) - whole <= whole - (STEPS - max(acting, 1) if acting else 1)


def test_methods_that_act_at_every_step_refuse_it(toy_model: Any) -> None:
    with pytest.raises(UsageError, match="cache_interval: MasaCtrl"):
        edited(toy_model, "masactrl", 2)


def test_a_model_without_deep_stages_refuses_it_before_any_work() -> None:
    flow = sfumato.load_model(toy_sd3_pipeline(newer=True))
    with pytest.raises(UsageError, match="cache_interval=2 needs a UNet of several stages"):
        sfumato.generate(flow, TARGET, cache_interval=2, watch=QUIET)
    assert flow.evaluations == 0
