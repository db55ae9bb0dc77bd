"""Prompt-to-Prompt: identities, leaks, what each option does, and loud failures. The authors' numbers: conformance."""

from typing import Any

import pytest
import torch
from torch import Tensor

from sfumato.attention import patch
from sfumato.attention.cross import CrossAttentionMaps
from sfumato.attention.inject import InjectSelfAttention
from sfumato.attention.patch import AttentionControl
from sfumato.edits.prompt_to_prompt import prompt_to_prompt
from sfumato.edits.result import LatentEdit
from sfumato.errors import ModelError, UsageError
from sfumato.inversions.ddim import ddim_inversion
from sfumato.inversions.result import Inversion
from sfumato.inversions.task import InversionTask
from sfumato.models.attention import AttentionSite
from sfumato.sampling.layout import Branch, Layout
from sfumato.sampling.loop import sample
from tests.edits.tasks import edit_by

SOURCE, TARGET = "a photo of a cat on the house", "a photo of a dog on the house"
MODELS = ["toy_model", "toy_velocity_model", "toy_xl_model"]


@pytest.fixture(params=MODELS)
def model(request: Any) -> Any:
    return request.getfixturevalue(request.param)


def start(model: Any, steps: int = 4, images: int = 1) -> Inversion:
    noise = torch.randn(images, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    return Inversion("drawn", noise, tuple(model.schedule.timesteps(steps)))


def run(model: Any, *targets: str, source: str = SOURCE, steps: int = 4, **options: Any) -> LatentEdit:
    options = {"guidance_scale": 3.0} | options
    return edit_by(
        prompt_to_prompt, model, start(model, steps), source_prompt=source, target_prompts=targets, **options
    )


def free(model: Any, *prompts: str, steps: int = 4, guidance_scale: float = 3.0) -> Tensor:
    """The same branches without any control."""
    condition = model.encode_prompt(list(prompts))
    branches = {str(k): Branch(condition[[k]], guidance_scale=guidance_scale) for k in range(len(prompts))}
    return sample(model, start(model, steps).noise, branches, num_inference_steps=steps)


def far(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


def test_equal_prompts_change_nothing(model: Any) -> None:
    for edit in ("replace", "refine"):
        result = run(model, SOURCE, edit=edit, cross_replace_steps=1.0, self_replace_steps=1.0)
        assert far(result.latents[1], result.latents[0]) < 1e-5


def test_maps_are_made_only_where_they_are_used(toy_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the grid whose maps are added up, of conditional rows alone: edits of maps are carried over to the values."""
    made: list[tuple[str, tuple[int, int], int]] = []
    own, predict, calls = patch.layout_map, toy_model.predict, []

    def recorded(query: Tensor, key: Tensor, mask: Any, scale: float, site: AttentionSite) -> Tensor:
        made.append((site.kind, site.grid, len(query)))
        return own(query, key, mask, scale, site)

    def counted(*call: Any) -> Tensor:
        made.clear()
        output: Tensor = predict(*call)
        calls.append(list(made))
        return output

    monkeypatch.setattr(patch, "layout_map", recorded)
    monkeypatch.setitem(vars(toy_model), "predict", counted)
    run(toy_model, TARGET, steps=5, cross_replace_steps=0.4, self_replace_steps=0.8)
    text = [site for site in toy_model.sites((16, 16)) if site.kind == "cross"]
    at_maps_grid = [site for site in text if site.grid == (16, 16)]
    assert 0 < len(at_maps_grid) < len(text)
    assert [len(call) for call in calls] == [len(at_maps_grid)] * 5
    assert {one for call in calls for one in call} == {("cross", (16, 16), 1)}


def test_control_off_is_plain_sampling(model: Any) -> None:
    result = run(model, TARGET, cross_replace_steps=0.0, self_replace_steps=0.0)
    assert far(result.latents, free(model, SOURCE, TARGET)) < 1e-5


def test_the_source_branch_is_untouched(model: Any) -> None:
    result = run(model, TARGET, weights={"dog": 2.0}, blend_words=["cat", "dog"], blend_start=0.0)
    assert far(result.latents[0], free(model, SOURCE, TARGET)[0]) < 1e-5


def test_each_control_moves_the_edit(model: Any) -> None:
    plain = free(model, SOURCE, TARGET)[1]
    for options in (
        {"cross_replace_steps": 1.0, "self_replace_steps": 0.0},
        {"cross_replace_steps": 0.0, "self_replace_steps": 1.0},
        {"cross_replace_steps": 1.0, "self_replace_steps": 0.0, "weights": {"dog": 0.0}},
    ):
        assert far(run(model, TARGET, **options).latents[1], plain) > 1e-4, options


def test_injected_maps_are_the_sources(model: Any) -> None:
    """One token against one token: with full injection the target's maps are the source's, without they are its own."""
    options: dict[str, Any] = {"edit": "replace", "self_replace_steps": 0.0}
    held, own = (
        run(model, TARGET, cross_replace_steps=1.0, **options),
        run(model, TARGET, cross_replace_steps=0.0, **options),
    )
    assert held.maps is not None
    assert own.maps is not None
    assert torch.equal(held.maps[1], held.maps[0])
    assert not torch.allclose(own.maps[1], own.maps[0])


def test_targets_in_one_batch_equal_single_runs(model: Any) -> None:
    targets = (TARGET, "a photo of a hat on the house")
    options: dict[str, Any] = {"blend_words": None, "weights": None}
    both = run(model, *targets, **options)
    assert both.branches == ("source", "target-1", "target-2")
    for k, target in enumerate(targets):
        assert far(both.latents[k + 1], run(model, target, **options).latents[1]) < 1e-5


def test_blending_several_targets_equals_single_runs(toy_model: Any) -> None:
    targets = (TARGET, "a photo of a hat on the house")
    both = run(toy_model, *targets, blend_words=["cat", "dog", "hat"], blend_threshold=0.9, blend_start=0.0)
    for k, (target, word) in enumerate(zip(targets, ("dog", "hat"), strict=True)):
        one = run(toy_model, target, blend_words=["cat", word], blend_threshold=0.9, blend_start=0.0)
        assert far(both.latents[k + 1], one.latents[1]) < 1e-5
        assert both.mask is not None
        assert one.mask is not None
        assert torch.equal(both.mask[k], one.mask[0])


def test_a_batch_of_images_equals_single_runs(toy_model: Any) -> None:
    whole = start(toy_model, images=3)
    options: dict[str, Any] = {
        "source_prompt": SOURCE, "target_prompts": [TARGET], "guidance_scale": 3.0,
        "blend_words": ["cat", "dog"], "blend_threshold": 0.9, "blend_start": 0.0,
    }  # fmt: skip
    batch = edit_by(prompt_to_prompt, toy_model, whole, **options)
    for image in range(3):
        alone = Inversion("drawn", whole.noise[image : image + 1], whole.timesteps)
        one = edit_by(prompt_to_prompt, toy_model, alone, **options)
        assert far(batch.latents[:, image], one.latents[:, 0]) < 1e-5


def test_local_blend_keeps_the_source_outside_its_mask(toy_model: Any) -> None:
    # a toy's maps are flat: in those of some versions' random weights all lies above 0.9 of the greatest
    result = run(toy_model, TARGET, blend_words=["cat", "dog"], blend_threshold=0.95, blend_start=0.0)
    assert result.mask is not None
    outside = ~result.mask[0, 0]
    assert 0.0 < float(outside.float().mean()) < 1.0
    source, target = result.latents[0, 0], result.latents[1, 0]
    assert torch.equal(target[:, outside], source[:, outside])
    assert not torch.allclose(target[:, ~outside], source[:, ~outside])


def test_subtracted_words_shrink_the_mask(toy_model: Any) -> None:
    options: dict[str, Any] = {"blend_words": ["cat", "dog"], "blend_threshold": 0.9, "blend_start": 0.0}
    whole, less = run(toy_model, TARGET, **options), run(toy_model, TARGET, blend_subtract_words="house", **options)
    assert whole.mask is not None
    assert less.mask is not None
    assert float(less.mask.float().mean()) < float(whole.mask.float().mean())


def test_reweighting_scales_the_words_attention(toy_model: Any) -> None:
    maps = {}
    for factor in (1.0, 2.0, -1.0):
        result = run(toy_model, TARGET, weights={"dog": factor}, cross_replace_steps=1.0)
        assert result.maps is not None
        maps[factor] = result.maps[1, 0, ..., 5].mean()  # dog
        source = result.maps[0, 0, ..., 5].mean()
    # columns are scaled, rows not normalised again; later steps see other latents, so only roughly
    assert float(maps[2.0] / source) == pytest.approx(2.0, rel=0.1)
    assert float(maps[-1.0] / source) == pytest.approx(-1.0, rel=0.1)


def test_a_words_own_schedule_differs_from_the_rest(toy_model: Any) -> None:
    whole = run(toy_model, TARGET, cross_replace_steps=1.0)
    dog_free = run(toy_model, TARGET, cross_replace_steps={"default_": 1.0, "dog": 0.0})
    assert far(dog_free.latents[1], whole.latents[1]) > 1e-4


def test_real_pictures_go_through_an_inversion(toy_model: Any) -> None:
    clean = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(2)) * 0.5
    inversion = ddim_inversion(InversionTask(toy_model, clean, toy_model.encode_prompt(SOURCE), num_inference_steps=20))
    before = toy_model.evaluations
    result = edit_by(
        prompt_to_prompt,
        toy_model,
        inversion,
        source_prompt=SOURCE,
        target_prompts=[TARGET],
        guidance_scale=3.0,
        source_guidance_scale=1.0,
    )
    assert toy_model.evaluations - before == 20 * 3  # as the docstring says
    # how well images come back is asked of the embedded model, whose weights are trained
    branch = {"source": Branch(toy_model.encode_prompt(SOURCE))}
    alone = sample(toy_model, inversion.noise, branch, timesteps=inversion.timesteps)
    assert far(result.latents[0], alone[0]) < 1e-4  # rounding over 20 steps


def test_nothing_leaks_also_when_a_run_breaks(model: Any) -> None:
    condition, latents = model.encode_prompt("a cat"), torch.randn(1, 4, 16, 16)
    processors = dict(model.unet.attn_processors)
    with torch.no_grad():
        before = model.predict(latents, 400, condition)
        run(model, TARGET, weights={"dog": 2.0}, blend_words=["cat", "dog"])
        assert torch.equal(model.predict(latents, 400, condition), before)

        def explode(latents: Tensor, step: Any) -> Tensor:
            raise RuntimeError("on purpose")

        with pytest.raises(RuntimeError, match="on purpose"):
            run(model, TARGET, on_step=[explode])
        assert torch.equal(model.predict(latents, 400, condition), before)
    assert all(model.unet.attn_processors[name] is processor for name, processor in processors.items())


def test_runs_can_be_repeated(toy_model: Any) -> None:
    """The authors' controllers count calls and are spent after one run."""
    assert torch.equal(run(toy_model, TARGET).latents, run(toy_model, TARGET).latents)


def test_untouched_sites_keep_the_fused_kernel(tiny_model: Any) -> None:
    """Only cross-attention is materialised; large self-attention layers are not even routed through the control."""
    control = AttentionControl([CrossAttentionMaps()])
    layout = Layout(("cond",), ("source",), 1, (64, 64))
    with control.installed(tiny_model, layout):
        names = [name for name, module in tiny_model.unet.named_modules() if "forward" in vars(module)]
    assert len(names) == 5  # the 16x16 cross-attention layers
    assert all("attn2" in name for name in names)


def test_an_edit_that_finds_no_site_fails_loudly(toy_model: Any) -> None:
    nowhere = InjectSelfAttention(lambda site: site.positions <= 0, 0, 4)
    layout = Layout(("cond",), ("source",), 1, (16, 16))
    with pytest.raises(ModelError, match="InjectSelfAttention finds no attention layer"):
        AttentionControl([nowhere]).installed(toy_model, layout).__enter__()
    with pytest.raises(ModelError, match="finds no attention layer"):
        run(toy_model, TARGET, self_replace_size=1)


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        ("a red photo of a dog on the house", {"edit": "replace"}, "equally many words"),
        ("one dog", {"edit": "replace", "source": "a cat"}, "no word in common"),
        (TARGET, {"weights": {"lion": 2.0}}, "'lion' is not in"),
        (TARGET, {"blend_words": "lion"}, "'lion' is not in"),
        (TARGET, {"blend_words": ["cat", "dog", "hat"]}, "one for each of 2 prompts"),
        (TARGET, {"blend_subtract_words": "house"}, "needs blend_words"),
        (TARGET, {"self_replace_steps": (0.6, 0.2)}, "start <= end"),
        (TARGET, {"cross_replace_steps": {"lion": 0.5}}, "'lion' is not in"),
    ],
)
def test_mistakes_are_named_before_any_work(toy_model: Any, target: str, options: Any, message: str) -> None:
    before = toy_model.evaluations
    with pytest.raises(UsageError, match=message):
        run(toy_model, target, **options)
    assert toy_model.evaluations == before


def test_warnings(toy_model: Any) -> None:
    with pytest.warns(UserWarning, match=r"outside \[-2, 2\]"):
        run(toy_model, TARGET, weights={"dog": 5.0}, steps=1)
    long = " ".join(["cat"] * 80)
    with pytest.warns(UserWarning, match="edited for its first 75 only"):
        result = run(toy_model, long.replace("cat", "dog", 1), source=long, steps=2)
    assert bool(torch.isfinite(result.latents).all())
