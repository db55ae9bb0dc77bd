"""LEDITS++: identities, masks, named concepts, costs, leaks, loud failures."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from sfumato.attention.cross import CrossAttentionMaps
from sfumato.edits.ledits_pp import _Concept, _mask, ledits
from sfumato.edits.result import LatentEdit
from sfumato.errors import InversionError, UsageError
from sfumato.inversions.ddim import ddim_inversion
from sfumato.inversions.noise_maps import edit_friendly_inversion
from sfumato.inversions.result import Inversion
from sfumato.inversions.task import InversionTask
from sfumato.sampling.layout import Branch
from sfumato.sampling.loop import sample
from sfumato.sampling.rows import Row, Rows
from tests.edits.tasks import edit_by

SOURCE, TARGET = "a photo of a cat", "a photo of a dog"


@pytest.fixture(params=["toy_model", "toy_velocity_model", "toy_xl_model"])
def model(request: Any) -> Any:
    return request.getfixturevalue(request.param)


def clean(images: int = 1) -> Tensor:
    return 0.5 * torch.randn(images, 4, 16, 16, generator=torch.Generator().manual_seed(1))


def friendly(model: Any, images: int = 1, guidance_scale: float = 2.0) -> Inversion:
    generator = torch.Generator().manual_seed(2)
    condition = model.encode_prompt(SOURCE)
    return edit_friendly_inversion(
        InversionTask(model, clean(images), condition, None, guidance_scale, 4, generator=generator)
    )


def run(model: Any, source: Inversion, *targets: str, **options: Any) -> LatentEdit:
    options = {"guidance_scale": 4.0, "strength": 1.0} | options
    return edit_by(ledits, model, source, source_prompt=SOURCE, target_prompts=targets or (TARGET,), **options)


def far(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


def test_the_source_comes_back(model: Any) -> None:
    """Under equal prompts, with concepts of no weight, and at strength 0."""
    source = friendly(model)
    for result in (
        run(model, source, SOURCE),
        run(model, source, concepts={"a hat": 0.0}),
        run(model, source, strength=0.0),
    ):
        assert far(result.latents[0], source.clean) < 1e-4
        assert far(result.latents[1], source.clean) < 1e-4


def test_each_mask_limits_the_edit(toy_model: Any) -> None:
    source = friendly(toy_model)
    changed, latents = {}, {}
    for kind in ("none", "attention", "noise", "both"):
        result = run(toy_model, source, masks=kind, quantile=0.6)
        assert result.mask is not None
        changed[kind], latents[kind] = float(result.mask.float().mean()), result.latents[1]
        assert far(result.latents[0], source.clean) < 1e-4
    assert changed["none"] == 1.0
    assert changed["noise"] == pytest.approx(0.4, abs=0.01)
    assert changed["both"] < min(changed["noise"], changed["attention"]) < changed["none"]
    assert len({round(far(edit, source.clean), 6) for edit in latents.values()}) == 4


def test_without_masks_it_is_guidance_to_the_target(model: Any) -> None:
    """eps("") + s (eps(target) - eps("")): the source prompt leaves no trace in the edit."""
    noise = 2 * clean()
    source = ddim_inversion(InversionTask(model, clean(), model.encode_prompt(SOURCE), num_inference_steps=4))
    for own in (1.0, 2.0):
        result = run(model, replace(source, noise=noise), masks="none", source_guidance_scale=own, strength=1.0)
        branch = {"target": Branch(model.encode_prompt(TARGET), guidance_scale=4.0)}
        guided = sample(model, source.latents_at(0), branch, timesteps=source.timesteps)
        assert far(result.latents[1], guided[0]) < 1e-5


def test_words_that_look_elsewhere_do_not_limit_the_edit(toy_model: Any) -> None:
    """The word looks left: that holds where guidance is strong left, and does not count where it is strong right."""
    left = torch.zeros(1, 1, 16, 16, 2)
    left[..., :8, 1] = 1.0
    maps, rows = CrossAttentionMaps(), Rows([Row("target-1", 1, toy_model.encode_prompt(TARGET))])
    maps.total, maps.count = left, torch.tensor(1)
    term = _Concept(1, "target-1", 4.0, True, (("target-1", torch.tensor([0.0, 1.0])),))

    def mask(strength: Tensor, kind: str) -> Tensor:
        return _mask(strength, term, rows, maps, kind, 0.5)

    at_left = 1.0 + left[0, ..., 1] + 0.1 * torch.rand(1, 16, 16, generator=torch.Generator().manual_seed(0))
    at_right = at_left.flip(-1)
    assert mask(at_left, "both").any()
    assert torch.equal(mask(at_left, "auto"), mask(at_left, "both"))
    assert mask(at_right, "both").sum() < mask(at_right, "noise").sum()
    assert torch.equal(mask(at_right, "auto"), mask(at_right, "noise"))
    two = torch.cat([at_left, at_right])  # each image decides for itself
    maps.total = left.repeat(1, 2, 1, 1, 1)
    assert torch.equal(mask(two, "auto"), torch.cat([mask(two, "both")[:1], mask(two, "noise")[1:]]))


@pytest.mark.filterwarnings("ignore:.* lies beyond the first 75 tokens")
def test_a_word_that_attention_does_not_reach_opens_no_mask(toy_model: Any) -> None:
    """The source's "cat" is in its second chunk; the mask is that of the target's "dog" alone."""
    rest = " ".join(["a"] * 80)
    result = edit_by(
        ledits, toy_model, friendly(toy_model), source_prompt=f"{rest} cat", target_prompts=[f"dog {rest}"],
        guidance_scale=4.0, strength=1.0, masks="attention", quantile=0.6,
    )  # fmt: skip
    assert result.mask is not None
    assert float(result.mask.float().mean()) == pytest.approx(0.4, abs=0.01)


def test_concepts_add_up_and_can_be_taken_away(toy_model: Any) -> None:
    source = friendly(toy_model)
    options: dict[str, Any] = {"masks": "none", "strength": 0.25}  # a single step is linear in the concepts
    changes = {}
    for concepts in ({"a hat": 1.0}, {"a hat": -1.0}, {"red": 0.5}, {"a hat": 1.0, "red": 0.5}):
        result = run(toy_model, source, concepts=concepts, **options)
        changes[str(concepts)] = result.latents[1] - result.latents[0]
    hat, away, red, both = changes.values()
    assert far(away, -hat) < 1e-4
    assert far(both, hat + red) < 1e-4


@pytest.mark.parametrize(
    ("options", "rows"),
    [
        ({"source_guidance_scale": 1.0}, 2 * (1 + 3 * 2)),
        ({}, 2 * (2 + 3 * 2)),
        ({"masks": "noise"}, 2 + 2 * (3 * 2)),
        ({"source_guidance_scale": 1.0, "concepts": {"a hat": 1.0, "red": 1.0}}, 2 * (1 + (2 + 2) * 2)),
        ({"concepts": {"a hat": 1.0, "red": 1.0}}, 2 + 2 * (2 + 2) * 2),
        ({"concepts": {"a hat": 1.0}, "negative_prompt": SOURCE}, 2 + 2 * (1 + 1) * 2),
    ],
)
def test_costs_what_the_docstring_says(toy_model: Any, options: Any, rows: int) -> None:
    """Two steps, two targets; the inversion is of guidance 2, at which alone its noise maps replay the source."""
    source, before = friendly(toy_model), toy_model.evaluations
    run(toy_model, source, TARGET, "a hat", strength=0.5, **options)
    assert toy_model.evaluations - before == rows


@pytest.mark.parametrize("options", [{"masks": "noise"}, {"concepts": {"a hat": 1.0}, "masks": "both"}])
def test_a_source_that_no_mask_looks_at_is_not_run(toy_model: Any, options: Any) -> None:
    """The edit and the reconstruction are those of a run with it, hooks see it, and a source that drifts is run."""
    source, seen = friendly(toy_model), []

    def see(latents: Tensor, step: Any) -> Tensor:
        seen.append(latents)
        return latents

    result = run(toy_model, source, on_step=[see], **options)
    with_it = run(toy_model, replace(source, prompt="another"), **options)
    assert far(result.latents, with_it.latents) < 1e-4
    assert all(far(latents[0], source.latents_at(k + 1)) < 1e-6 for k, latents in enumerate(seen))
    drifting = ddim_inversion(InversionTask(toy_model, clean(), toy_model.encode_prompt(SOURCE), num_inference_steps=4))
    before = toy_model.evaluations
    run(toy_model, drifting, source_guidance_scale=1.0, **options)
    assert toy_model.evaluations - before == 4 * (1 + 3)


def test_batches_equal_single_runs(toy_model: Any) -> None:
    source = friendly(toy_model, images=2)
    # at this quantile no value lies so close to the threshold that rounding decides
    whole = run(toy_model, source, TARGET, "a photo of a hat", quantile=0.5)
    assert whole.branches == ("source", "target-1", "target-2")
    assert source.trajectory is not None
    assert source.noise_maps is not None
    for k in range(2):
        one = replace(
            source,
            noise=source.noise[k : k + 1],
            trajectory=source.trajectory[:, k : k + 1],
            noise_maps=source.noise_maps[:, k : k + 1],
        )
        for row, target in enumerate((TARGET, "a photo of a hat"), start=1):
            assert far(whole.latents[[0, row], k], run(toy_model, one, target, quantile=0.5).latents[:, 0]) < 1e-4


def test_drawn_pictures(toy_model: Any) -> None:
    start = Inversion("drawn", 2 * clean(), tuple(toy_model.schedule.timesteps(4)))
    before = toy_model.evaluations
    whole = run(toy_model, start)
    assert toy_model.evaluations - before == 4 * 5
    before = toy_model.evaluations
    late = run(toy_model, start, strength=0.5)
    assert toy_model.evaluations - before == 4 * 2 + 2 * 5  # drawn first
    assert far(late.latents[0], whole.latents[0]) < 1e-5


def test_nothing_leaks_also_when_a_run_breaks(model: Any) -> None:
    condition, latents, source = model.encode_prompt("a cat"), clean(), friendly(model)
    with torch.no_grad():
        before = model.predict(latents, 400, condition)
        run(model, source, strength=0.5)
        assert torch.equal(model.predict(latents, 400, condition), before)

        def explode(latents: Tensor, step: Any) -> Tensor:
            raise RuntimeError("on purpose")

        with pytest.raises(RuntimeError, match="on purpose"):
            run(model, source, on_step=[explode], strength=0.5)
        assert torch.equal(model.predict(latents, 400, condition), before)


def test_mistakes_are_named_before_any_work(toy_model: Any) -> None:
    source = friendly(toy_model)
    before = toy_model.evaluations
    with pytest.raises(UsageError, match="a concept is empty"):
        run(toy_model, source, concepts={" ": 1.0})
    with pytest.raises(UsageError, match=r"strength must be in \[0, 1\]"):
        run(toy_model, source, strength=2.0)
    assert source.trajectory is not None
    late = replace(source, start_index=2, trajectory=source.trajectory[:3], noise=source.trajectory[2])
    with pytest.raises(InversionError, match="no latents before step"):
        run(toy_model, late)
    assert toy_model.evaluations == before
