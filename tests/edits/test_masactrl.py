"""MasaCtrl: identities, what each variant reads, topologies, costs, leaks, loud failures."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from sfumato.attention.mutual import MutualSelfAttention
from sfumato.attention.patch import AttentionControl
from sfumato.edits.masactrl import layer_names, masactrl
from sfumato.edits.result import LatentEdit
from sfumato.errors import UsageError
from sfumato.inversions.ddim import ddim_inversion
from sfumato.inversions.noise_maps import edit_friendly_inversion
from sfumato.inversions.result import Inversion
from sfumato.inversions.task import InversionTask
from sfumato.models.attention import KernelCall
from sfumato.models.schedules import Level, Step
from sfumato.sampling.layout import Branch, Layout
from sfumato.sampling.loop import sample
from tests.edits.tasks import edit_by

SOURCE, TARGET = "a photo of a cat", "a red cat on the house"
STEP = Step(0, 1, 1, -1, Level(0.95, 0.31), Level(1.0, 0.0))


@pytest.fixture(params=["toy_model", "toy_velocity_model", "toy_xl_model"])
def model(request: Any) -> Any:
    return request.getfixturevalue(request.param)


def noise(images: int = 1) -> Tensor:
    return torch.randn(images, 4, 8, 8, generator=torch.Generator().manual_seed(1))


def drawn(model: Any, images: int = 1, steps: int = 4) -> Inversion:
    return Inversion("drawn", noise(images), tuple(model.schedule.timesteps(steps)))


def inverted(model: Any, images: int = 1) -> Inversion:
    return ddim_inversion(InversionTask(model, 0.5 * noise(images), model.encode_prompt(SOURCE), num_inference_steps=4))


def run(model: Any, source: Inversion, *targets: str, **options: Any) -> LatentEdit:
    options = {"guidance_scale": 3.0, "start_step": 1} | options
    return edit_by(masactrl, model, source, source_prompt=SOURCE, target_prompts=targets or (TARGET,), **options)


def free(model: Any, source: Inversion, *prompts: str, guidance_scale: float = 3.0) -> Tensor:
    condition = model.encode_prompt(list(prompts))
    branches = {str(k): Branch(condition[[k]], guidance_scale=guidance_scale) for k in range(len(prompts))}
    return sample(model, source.noise, branches, timesteps=source.timesteps)


def far(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("union", [False, True])
def test_equal_prompts_change_nothing(model: Any, union: bool) -> None:
    result = run(model, drawn(model), SOURCE, union=union)
    assert far(result.latents[1], result.latents[0]) < 1e-5


def test_control_off_is_plain_sampling(model: Any) -> None:
    start = drawn(model)
    assert far(run(model, start, steps=[]).latents, free(model, start, SOURCE, TARGET)) < 1e-5


def test_a_mask_is_the_foreground_when_told_so(toy_model: Any) -> None:
    start, mask = drawn(toy_model, images=2), torch.zeros(1, 1, 8, 8)
    mask[..., 2:6] = 1.0
    told, plain = (run(toy_model, start, mask=mask, foreground_mask=told).latents for told in (True, False))
    assert torch.equal(told, run(toy_model, start, masks=mask.expand(2, 2, 8, 8)).latents)
    assert torch.equal(plain, run(toy_model, start).latents)
    assert far(told[1], plain[1]) > 1e-6


@pytest.mark.parametrize("guidance_scale", [3.0, 1.0])
def test_the_target_moves_and_the_source_does_not(model: Any, guidance_scale: float) -> None:
    """Also without guidance, where the authors' code silently does nothing."""
    start = drawn(model)
    plain = free(model, start, SOURCE, TARGET, guidance_scale=guidance_scale)
    foreground = torch.zeros(2, 1, 8, 8)
    foreground[..., 2:6] = 1.0
    found = []
    for options in ({}, {"union": True}, {"masks": foreground}, {"foreground_words": "cat"}):
        result = run(model, start, guidance_scale=guidance_scale, **options)
        assert far(result.latents[0], plain[0]) < 1e-5, options
        assert far(result.latents[1], plain[1]) > 1e-6, options
        found.append(result.latents[1])
    assert all(far(a, found[0]) > 1e-7 for a in found[1:])


def attend(edit: MutualSelfAttention, model: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """One call of the edit's layer, (branch, heads, position, head_dim)."""
    site = next(s for s in model.sites((16, 16)) if s.name in edit.layer_names)
    control = AttentionControl([edit])
    with control.installed(model, Layout(("cond",), ("source", "target"), 1, (16, 16))):
        control.at_step(STEP)
        return control.attend(KernelCall(site, query, key, value, None, query.shape[-1] ** -0.5))


def test_variants_read_what_they_say(toy_model: Any) -> None:
    """Against attention written out, head by head."""
    site = next(s for s in toy_model.sites((16, 16)) if s.kind == "self" and s.grid == (8, 8))
    names, generator = [site.name], torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, 4, 64, 4, generator=generator) for _ in range(3))

    def plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return (q @ k.transpose(-1, -2) / 2).softmax(-1) @ v

    source = plain(query[0], key[0], value[0])
    mutual = attend(MutualSelfAttention(names, [0]), toy_model, query, key, value)
    assert torch.allclose(mutual[0], source, atol=1e-5)
    assert torch.allclose(mutual[1], plain(query[1], key[0], value[0]), atol=1e-5)

    union = attend(MutualSelfAttention(names, [0], union=True), toy_model, query, key, value)
    both = plain(query[1], torch.cat([key[0], key[1]], dim=1), torch.cat([value[0], value[1]], dim=1))
    assert torch.allclose(union[0], source, atol=1e-5)
    assert torch.allclose(union[1], both, atol=1e-5)

    # Attending twice, to the source's inside and outside, then composed by the target's own mask
    inside = torch.rand(2, 1, 8, 8, generator=generator) > 0.5
    masked = attend(MutualSelfAttention(names, [0], regions=lambda: inside), toy_model, query, key, value)
    keys, queries = inside[0].flatten(), inside[1].flatten()
    front = plain(query[1], key[0][:, keys], value[0][:, keys])
    back = plain(query[1], key[0][:, ~keys], value[0][:, ~keys])
    assert torch.allclose(masked[0], source, atol=1e-5)
    assert torch.allclose(masked[1], torch.where(queries[:, None], front, back), atol=1e-5)

    nothing = inside.clone()
    nothing[0] = False  # the source has no foreground: the target's reads everything
    masked = attend(MutualSelfAttention(names, [0], regions=lambda: nothing), toy_model, query, key, value)
    assert torch.allclose(masked[1], plain(query[1], key[0], value[0]), atol=1e-5)


def test_layers_count_as_they_run(tiny_model: Any, toy_xl_model: Any) -> None:
    chosen = layer_names(tiny_model, (64, 64), None, None)
    assert (
        chosen == layer_names(tiny_model, (64, 64), None, 10) == layer_names(tiny_model, (64, 64), range(10, 16), None)
    )
    assert chosen[0].startswith("up_blocks.2.attentions.0")
    assert layer_names(tiny_model, (64, 64), [6], None)[0].startswith("mid_block")
    assert [name[:11] for name in layer_names(toy_xl_model, (16, 16), None, None)] == ["up_blocks.1"] * 2


def test_real_pictures_are_pinned_to_their_inversion(toy_model: Any) -> None:
    source = inverted(toy_model)
    pinned, loose = (run(toy_model, source, pin_source=pin, source_guidance_scale=3.0) for pin in (True, False))
    last, branch = len(source.timesteps) - 1, {"source": Branch(toy_model.encode_prompt(SOURCE), guidance_scale=3.0)}
    one = sample(toy_model, source.latents_at(last), branch, timesteps=source.timesteps, start_index=last)
    assert far(pinned.latents[0], one[0]) < 1e-5
    assert far(loose.latents[0], one[0]) > 1e-4
    assert far(pinned.latents[1], loose.latents[1]) > 1e-6


def test_steps_before_the_first_are_plain_sampling(toy_model: Any) -> None:
    start = drawn(toy_model)

    def latents_controlled_at(steps: Sequence[int]) -> list[Tensor]:
        shown: list[Tensor] = []

        def keep(latents: Tensor, step: Step) -> Tensor:
            shown.append(latents)
            return latents

        run(toy_model, start, start_step=None, steps=steps, on_step=[keep])
        return shown

    latents = zip(latents_controlled_at([2, 3]), latents_controlled_at([]), strict=True)
    assert [far(controlled[1], free[1]) > 1e-6 for controlled, free in latents] == [False, False, True, True]


def test_it_starts_at_step_4_of_50(toy_model: Any) -> None:
    start = drawn(toy_model, steps=25)
    assert torch.equal(run(toy_model, start, start_step=None).latents, run(toy_model, start, start_step=2).latents)


def test_inversions_that_begin_late(toy_model: Any) -> None:
    """Noise maps of the last two of four steps: the run begins where they do, and the source comes back."""
    source = edit_friendly_inversion(
        InversionTask(
            toy_model,
            0.5 * noise(),
            toy_model.encode_prompt(SOURCE),
            guidance_scale=1.0,
            num_inference_steps=4,
            generator=torch.Generator().manual_seed(2),
        ),
        strength=0.5,
    )
    before = toy_model.evaluations
    result = run(toy_model, source, source_guidance_scale=1.0)
    assert toy_model.evaluations - before == 2 * 4
    assert far(result.latents[0], source.clean) < 1e-4


@pytest.mark.parametrize(("guidance_scale", "rows"), [(3.0, 6), (1.0, 3)])
def test_costs_what_the_docstring_says(toy_model: Any, guidance_scale: float, rows: int) -> None:
    source, before = inverted(toy_model), toy_model.evaluations
    run(toy_model, source, TARGET, "a hat", guidance_scale=guidance_scale)
    assert toy_model.evaluations - before == 4 * rows


@pytest.mark.parametrize("options", [{}, {"foreground_words": "a"}])
def test_batches_equal_single_runs(toy_model: Any, options: Any) -> None:
    source = inverted(toy_model, images=2)
    whole = run(toy_model, source, TARGET, "a hat", **options)
    assert whole.branches == ("source", "target-1", "target-2")
    assert source.trajectory is not None
    for k in range(2):
        one = replace(source, noise=source.noise[k : k + 1], trajectory=source.trajectory[:, k : k + 1])
        for row, target in enumerate((TARGET, "a hat"), start=1):
            alone = run(toy_model, one, target, **options)
            assert far(whole.latents[[0, row], k], alone.latents[:, 0]) < 1e-5


def test_nothing_leaks_also_when_a_run_breaks(model: Any) -> None:
    condition, latents = model.encode_prompt("a cat"), noise()
    with torch.no_grad():
        before = model.predict(latents, 400, condition)
        run(model, drawn(model, steps=2), foreground_words="cat")
        assert torch.equal(model.predict(latents, 400, condition), before)

        def explode(latents: Tensor, step: Any) -> Tensor:
            raise RuntimeError("on purpose")

        with pytest.raises(RuntimeError, match="on purpose"):
            run(model, drawn(model, steps=2), on_step=[explode])
        assert torch.equal(model.predict(latents, 400, condition), before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start_step": 4}, "step 4 does not exist: there are 4"),
        ({"steps": [0, 9]}, "step 9 does not exist"),
        ({"start_layer": 7}, "layer 7 does not exist: there are 7"),
        ({"layers": [-1]}, "layer -1 does not exist"),
        ({"foreground_words": "lion"}, "'lion' is not in"),
        ({"foreground_words": ["cat", "cat", "cat"]}, "one for each of 2 prompts"),
        ({"masks": torch.ones(1, 1, 8, 8)}, r"2 branches and 1 images, got \(1, 1, 8, 8\)"),
        ({"masks": torch.ones(2, 1, 8, 8), "foreground_words": "cat"}, "not both"),
        ({"mask": torch.ones(1, 1, 8, 8), "foreground_mask": True, "foreground_words": "cat"}, "not both"),
        ({"foreground_mask": True}, "foreground_mask needs a mask"),
    ],
)
def test_mistakes_are_named_before_any_work(toy_model: Any, options: Any, message: str) -> None:
    before = toy_model.evaluations
    with pytest.raises(UsageError, match=message):
        run(toy_model, drawn(toy_model), **options)
    assert toy_model.evaluations == before
