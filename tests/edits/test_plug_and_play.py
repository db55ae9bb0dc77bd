"""Plug-and-Play: identities, where it injects, costs, leaks, loud failures. The authors' numbers: conformance."""

from dataclasses import replace
from math import exp
from typing import Any

import pytest
import torch
from torch import Tensor

from sfumato.attention.features import InjectFeatures, decoder_layers
from sfumato.edits.plug_and_play import plug_and_play
from sfumato.edits.result import LatentEdit
from sfumato.errors import InversionError, ModelError
from sfumato.guidance.growing_negative import negative_shares
from sfumato.inversions.ddim import ddim_inversion
from sfumato.inversions.result import Inversion
from sfumato.inversions.task import InversionTask
from sfumato.sampling.layout import Branch, Layout
from sfumato.sampling.loop import sample
from tests.edits.tasks import edit_by

SOURCE, TARGET = "a photo of a cat", "a red dog on the house"


@pytest.fixture(params=["toy_model", "toy_velocity_model", "toy_xl_model"])
def model(request: Any) -> Any:
    return request.getfixturevalue(request.param)


def noise(images: int = 1) -> Tensor:
    return torch.randn(images, 4, 16, 16, generator=torch.Generator().manual_seed(1))


def inverted(model: Any, steps: int = 4, images: int = 1, prompt: str = SOURCE) -> Inversion:
    return ddim_inversion(
        InversionTask(model, 0.5 * noise(images), model.encode_prompt(prompt), num_inference_steps=steps)
    )


def run(model: Any, source: Inversion, *targets: str, **options: Any) -> LatentEdit:
    options = {"guidance_scale": 3.0} | options
    return edit_by(plug_and_play, model, source, source_prompt=SOURCE, target_prompts=targets or (TARGET,), **options)


def far(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


def test_without_injection_it_is_plain_sampling(model: Any) -> None:
    source, condition = inverted(model), model.encode_prompt([TARGET, "blue"])
    result = run(model, source, negative_prompt="blue", feature_threshold=0.0, attention_threshold=0.0)
    branch = Branch(condition[[0]], condition[[1]], 3.0)
    free = sample(model, source.noise, {"target": branch}, timesteps=source.timesteps)
    assert far(result.latents[1], free[0]) < 1e-5
    for options in ({"attention_threshold": 0.0}, {"feature_threshold": 0.0}):
        assert far(run(model, source, negative_prompt="blue", **options).latents[1], free[0]) > 1e-5, options


def test_equal_prompts_of_a_drawn_picture_change_nothing(model: Any) -> None:
    start = Inversion("drawn", noise(), tuple(model.schedule.timesteps(3)))
    result = run(model, start, SOURCE, feature_threshold=1.0, attention_threshold=1.0)
    assert far(result.latents[1], result.latents[0]) < 1e-5


def test_equal_prompts_of_a_real_picture_are_its_replay(toy_model: Any) -> None:
    """The source's row sees the very latents that an unguided replay starts from, so one step is the same."""
    source = inverted(toy_model, steps=1)
    result = run(toy_model, source, SOURCE, guidance_scale=1.0, source_row="prompt", feature_threshold=1.0)
    assert far(result.latents[1], result.latents[0]) < 1e-5


def test_the_source_is_read_from_the_inversion(toy_model: Any) -> None:
    """So it ends one step after the last latents of the inversion, whatever the steps before gave."""
    source = inverted(toy_model)
    result = run(toy_model, source)
    last, branch = len(source.timesteps) - 1, {"source": Branch(toy_model.encode_prompt(""))}
    one = sample(toy_model, source.latents_at(last), branch, timesteps=source.timesteps, start_index=last)
    assert far(result.latents[0], one[0]) < 1e-5


def test_fewer_steps_than_the_inversion(toy_model: Any) -> None:
    fine = inverted(toy_model, steps=20)
    result = run(toy_model, fine, sampling_steps=5)
    coarse = Inversion("ddim", fine.noise, tuple(toy_model.schedule.timesteps(5)))
    held = torch.stack([fine.clean, *(fine.latents_at(fine.timesteps.index(t)) for t in reversed(coarse.timesteps))])
    assert torch.equal(result.latents, run(toy_model, replace(coarse, noise=held[-1], trajectory=held)).latents)
    before = toy_model.evaluations
    with pytest.raises(InversionError, match="no latents at timestep"):
        run(toy_model, fine, sampling_steps=7)
    with pytest.raises(InversionError, match="holds no trajectory"):
        run(toy_model, coarse, sampling_steps=5)
    assert toy_model.evaluations == before


@pytest.mark.parametrize(("options", "rows"), [({}, 5), ({"guidance_scale": 1.0}, 3)])
def test_costs_what_the_docstring_says(toy_model: Any, options: Any, rows: int) -> None:
    source, before = inverted(toy_model), toy_model.evaluations
    run(toy_model, source, TARGET, "a hat", **options)
    assert toy_model.evaluations - before == 4 * rows
    before = toy_model.evaluations
    run(toy_model, replace(source, trajectory=None), TARGET, **options)
    assert toy_model.evaluations - before == 4 * (2 if options else 4)
    before = toy_model.evaluations
    run(toy_model, source, TARGET, "a hat", negative_growth="linear", **options)
    assert toy_model.evaluations - before == 4 * (3 if options else 7)
    before = toy_model.evaluations
    run(toy_model, replace(source, trajectory=None), TARGET, negative_growth="linear", **options)
    assert toy_model.evaluations - before == 4 * (2 if options else 6)


def test_shares_of_a_growing_negative_prompt() -> None:
    assert negative_shares("none", 0.3, 3) == [1.0, 1.0, 1.0]
    assert negative_shares("linear", 0.0, 5) == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert negative_shares("linear", 0.5, 3) == [0.5, 0.75, 1.0]
    assert negative_shares("constant", 0.25, 2) == [0.25, 0.25]
    assert negative_shares("exponential", 0.0, 3) == pytest.approx([0.0, 1 - exp(-3), 1 - exp(-6)])
    assert negative_shares("linear", 0.0, 1) == [0.0]


@pytest.mark.parametrize("real", [True, False])
def test_a_growing_negative_prompt(toy_model: Any, real: bool) -> None:
    """In two steps guidance leads away from no text first, and then from the whole negative prompt."""
    source = inverted(toy_model, steps=2)
    if not real:
        source = replace(source, trajectory=None)
    middle: list[Tensor] = []

    def remember(latents: Tensor, step: Any) -> Tensor:
        middle.append(latents)
        return latents

    def put_back(latents: Tensor, step: Any) -> Tensor:
        return torch.cat([latents[:1], middle[0][1:3]]) if step.index == 0 else latents

    targets = (TARGET, "a hat")
    grown = run(toy_model, source, *targets, negative_prompt="blue", negative_growth="linear", on_step=[remember])
    assert grown.branches == ("source", "target-1", "target-2")
    plain = run(toy_model, source, *targets, on_step=[lambda x, step: middle.append(x) or x])
    assert far(middle[0][1:3], middle[2][1:3]) < 1e-5
    assert far(grown.latents[1:], plain.latents[1:]) > 1e-4
    whole = run(toy_model, source, *targets, negative_prompt="blue", on_step=[put_back])
    assert far(grown.latents[1:], whole.latents[1:]) < 1e-5


@pytest.mark.parametrize("real", [True, False])
def test_a_negative_prompt_that_does_not_grow(toy_model: Any, real: bool) -> None:
    source = inverted(toy_model, steps=2)
    if not real:
        source = replace(source, trajectory=None)
    stays = {"negative_growth": "constant", "source_guidance_scale": 1.0}
    for share, plain in ((0.0, ""), (1.0, SOURCE)):  # the source prompt, where none is given
        constant = run(toy_model, source, TARGET, **stays, negative_start=share)
        off = run(toy_model, source, TARGET, negative_prompt=plain, source_guidance_scale=1.0)
        assert far(constant.latents, off.latents) < 1e-5, share


def test_batches_equal_single_runs(toy_model: Any) -> None:
    source = inverted(toy_model, images=2)
    whole = run(toy_model, source, TARGET, "a hat", negative_prompt="blue")
    assert whole.branches == ("source", "target-1", "target-2")
    assert source.trajectory is not None
    for k in range(2):
        one = replace(source, noise=source.noise[k : k + 1], trajectory=source.trajectory[:, k : k + 1])
        for row, target in enumerate((TARGET, "a hat"), start=1):
            alone = run(toy_model, one, target, negative_prompt="blue")
            assert far(whole.latents[[0, row], k], alone.latents[:, 0]) < 1e-5


def test_layers_by_topology(toy_model: Any, toy_xl_model: Any, tiny_model: Any) -> None:
    layer, sites = decoder_layers(tiny_model, (64, 64))
    assert layer == "up_blocks.1.resnets.1.conv2"
    blocks = [(1, 1), (1, 2), *((stage, block) for stage in (2, 3) for block in range(3))]
    assert [site.name.split(".transformer")[0] for site in sites] == [
        f"up_blocks.{stage}.attentions.{block}" for stage, block in blocks
    ]
    layer, sites = decoder_layers(toy_xl_model, (16, 16))
    assert layer == "up_blocks.0.resnets.1.conv2"
    assert [site.name.split(".attn1")[0] for site in sites] == [
        "up_blocks.0.attentions.1.transformer_blocks.0",
        "up_blocks.0.attentions.1.transformer_blocks.1",
        "up_blocks.1.attentions.0.transformer_blocks.0",
        "up_blocks.1.attentions.1.transformer_blocks.0",
    ]


def test_a_model_without_such_a_decoder_is_refused(toy_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(vars(toy_model), "decoder_blocks", lambda: ())
    before = toy_model.evaluations
    with pytest.raises(ModelError, match="no decoder stage"):
        run(toy_model, Inversion("drawn", noise(), tuple(toy_model.schedule.timesteps(3))))
    assert toy_model.evaluations == before
    with pytest.raises(ModelError, match=r"no layer nowhere\.conv2"):
        InjectFeatures(["nowhere.conv2"], 0, 1).installed(
            toy_model, Layout(("cond",), ("source",), 1, (16, 16))
        ).__enter__()


def test_nothing_leaks_also_when_a_run_breaks(model: Any) -> None:
    condition, latents, source = model.encode_prompt("a cat"), noise(), inverted(model, steps=2)
    with torch.no_grad():
        before = model.predict(latents, 400, condition)
        run(model, source)
        assert torch.equal(model.predict(latents, 400, condition), before)

        def explode(latents: Tensor, step: Any) -> Tensor:
            raise RuntimeError("on purpose")

        with pytest.raises(RuntimeError, match="on purpose"):
            run(model, source, on_step=[explode])
        assert torch.equal(model.predict(latents, 400, condition), before)
