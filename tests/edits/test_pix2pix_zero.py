"""pix2pix-zero: identities, what holds the layout, counted evaluations, memory habits, loud failures. The authors'
numbers: conformance."""

import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

import sfumato
from sfumato.attention.cross import CrossAttentionMaps
from sfumato.attention.patch import AttentionControl
from sfumato.attention.record import Recorder, RecordKey
from sfumato.conditions.directions import Direction, make_direction
from sfumato.edits.method import METHODS
from sfumato.edits.pix2pix_zero import pix2pix_zero
from sfumato.edits.result import LatentEdit
from sfumato.errors import DirectionError, ModelError, UsageError
from sfumato.guidance.attention_maps import Pull
from sfumato.inversions.method import INVERSIONS
from sfumato.inversions.regularised_ddim import regularised_ddim_inversion
from sfumato.inversions.result import Inversion
from sfumato.inversions.task import InversionTask
from sfumato.models.base import Condition
from sfumato.sampling.layout import Branch
from sfumato.sampling.loop import sample
from tests.edits.tasks import edit_by
from tests.gaussian import GaussianModel, cosine_schedule
from tests.served import DIFFUSION, on

SOURCE, TARGET = "a photo of a cat on the house", "a photo of a dog on the house"
MODELS = ["toy_model", "toy_velocity_model", "toy_xl_model"]
STEPS = 2


@pytest.fixture(params=MODELS)
def model(request: Any) -> Any:
    return request.getfixturevalue(request.param)


@functools.cache
def way(model: Any, source: str = "cat", target: str = "dog") -> Direction:
    return make_direction(model, source, target, write=lambda word: [f"a photo of a {word} on the house", f"a {word}"])


def start(model: Any, steps: int = STEPS, images: int = 1, size: tuple[int, int] = (16, 16)) -> Inversion:
    noise = torch.randn(images, 4, *size, generator=torch.Generator().manual_seed(1))
    return Inversion("drawn", noise, tuple(model.schedule.timesteps(steps)))


def run(model: Any, begin: Inversion | None = None, **options: Any) -> LatentEdit:
    given: dict[str, Any] = {
        "source_prompt": SOURCE, "target_prompts": [TARGET], "guidance_scale": 3.0, "attention_guidance": 1.0,
    } | options  # fmt: skip
    if "direction" not in given:
        given["direction"] = way(model)
    return edit_by(pix2pix_zero, model, start(model) if begin is None else begin, **given)


def far(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


def test_equal_prompts_give_the_source_back(model: Any) -> None:
    result = run(model, target_prompts=[SOURCE], direction=None)
    assert result.branches == ("source", "target")
    assert far(result.latents[1], result.latents[0]) < 1e-5


def test_a_direction_of_no_length_gives_the_source_back(model: Any) -> None:
    for guidance in (1.0, 3.0):
        result = run(model, direction_scale=0.0, guidance_scale=guidance)
        assert far(result.latents[1], result.latents[0]) < 1e-5


def test_control_off_is_plain_sampling(model: Any) -> None:
    condition = model.encode_prompt(SOURCE)
    branches = {
        "source": Branch(condition, guidance_scale=3.0),
        "target": Branch(way(model).apply(condition, 0.5), guidance_scale=3.0),
    }
    plain = sample(model, start(model).noise, branches, num_inference_steps=STEPS)
    for update in ("paper", "released"):
        result = run(model, attention_guidance=0.0, direction_scale=0.5, update=update)
        assert far(result.latents, plain) < 1e-5


def test_the_source_branch_is_plain_sampling(model: Any) -> None:
    branch = {"source": Branch(model.encode_prompt(SOURCE), guidance_scale=3.0)}
    plain = sample(model, start(model).noise, branch, num_inference_steps=STEPS)
    assert far(run(model).latents[0], plain[0]) < 1e-5


@pytest.mark.parametrize(("guidance_scale", "weight"), [(1.0, 1.0), (3.0, 0.5)])
def test_guidance_brings_the_maps_closer(toy_model: Any, guidance_scale: float, weight: float) -> None:
    """A step down the gradient takes from the loss, written out, what it promises; each of two rows weighs half."""
    begin, pulls = start(toy_model, 1), []
    run(toy_model, begin, guidance_scale=guidance_scale, observe=pulls.append)
    gradient = pulls[0].gradient[-1, 0]
    led, amount = way(toy_model).apply(toy_model.encode_prompt(SOURCE)), 20.0
    before = _map_distance(toy_model, begin, begin.noise, led)
    after = _map_distance(toy_model, begin, begin.noise - amount * gradient, led)
    assert after - before == pytest.approx(-amount * float(gradient.square().sum()) / weight, rel=0.1)


def _map_distance(model: Any, begin: Inversion, latents: Tensor, condition: Any) -> float:
    """Distance of the conditional maps at `latents` from the source's at the beginning, written out without recipe."""
    from sfumato.attention.record import RecordMaps
    from sfumato.sampling.layout import Layout

    step, recorders = model.schedule.steps(timesteps=begin.timesteps)[0], []
    for x, text in ((begin.noise, model.encode_prompt(SOURCE)), (latents, condition)):
        control = AttentionControl([RecordMaps(recorder := Recorder())])
        with torch.no_grad(), control.installed(model, Layout(("cond",), ("only",), 1, (16, 16))):
            control.at_step(step)
            model.predict(x, step.time, text)
        recorders.append(recorder)
    total = 0.0
    for site in model.sites((16, 16)):
        if site.kind == "cross":
            a, b = (r.get(0, site.name, RecordKey("cond", "only")) for r in recorders)
            total += float((a - b).square().sum(dim=(-2, -1)).mean())
    return total


def test_every_knob_moves_the_edit(toy_model: Any) -> None:
    base: dict[str, Any] = {"attention_guidance": 100.0, "direction": way(toy_model)}  # a toy's maps react weakly
    plain = run(toy_model, start(toy_model, 2), **base).latents[1]
    for options in (
        {"attention_guidance": 0.0},
        {"attention_guidance": 50.0},
        {"direction_scale": 0.5},
        {"update": "released"},
        {"negative_prompt": "a hat"},
        {"caption_as_negative": True},
        {"direction": None},
        {"direction": None, "sentences": "templates"},
    ):
        moved = run(toy_model, start(toy_model, 2), **(base | options)).latents[1]
        assert far(moved, plain) > 1e-5, options


def test_only_the_released_row_forgets_to_edit_at_guidance_1(toy_model: Any) -> None:
    result = run(toy_model, guidance_scale=1.0)
    assert far(result.latents[1], result.latents[0]) > 1e-3
    result = run(toy_model, guidance_scale=1.0, direction_row="second")
    assert far(result.latents[1], result.latents[0]) < 1e-5
    assert torch.equal(run(toy_model, direction_row="second").latents, run(toy_model).latents)


def test_velocity_models_are_held_more_gently(toy_velocity_model: Any, toy_model: Any) -> None:
    for model, amount in ((toy_model, 1.6), (toy_velocity_model, 0.16)):  # 0.1 and 0.01 at 64x64
        found = run(model, attention_guidance=None).latents
        assert torch.equal(found, run(model, attention_guidance=amount).latents)


def test_the_caption_may_be_the_negative_prompt(toy_model: Any) -> None:
    clean = 0.5 * torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(2))
    inverted = regularised_ddim_inversion(
        InversionTask(toy_model, clean, toy_model.encode_prompt(SOURCE), num_inference_steps=4)
    )
    shared = run(toy_model, inverted, caption_as_negative=True).latents
    written_out = run(toy_model, inverted, negative_prompt=SOURCE).latents
    assert far(shared, written_out) < 1e-5  # one row of the source serves both halves
    alone = sample(
        toy_model, inverted.noise, {"source": Branch(toy_model.encode_prompt(SOURCE))}, timesteps=inverted.timesteps
    )
    assert far(shared[0], alone[0]) < 1e-5
    empty = run(toy_model, inverted, source_guidance_scale=1.0).latents
    assert far(empty[0], alone[0]) < 1e-5
    assert far(shared[1], empty[1]) > 1e-3


def test_by_default_guidance_leads_to_the_target_prompt(model: Any) -> None:
    """Without the pull of the maps it is plain sampling of the target, in the image's own noise."""
    result = run(model, direction=None, attention_guidance=0.0, source_guidance_scale=1.0)
    target = {"target": Branch(model.encode_prompt(TARGET), guidance_scale=3.0)}
    assert far(result.latents[1], sample(model, start(model).noise, target, num_inference_steps=STEPS)[0]) < 1e-4


@pytest.mark.parametrize("options", [{"attention_guidance": 0.0}, {"caption_as_negative": True}, {}])
def test_maps_are_handed_over(model: Any, options: Any) -> None:
    found = run(model, direction=None, source_guidance_scale=1.0, **options).maps
    assert found is not None
    assert found.shape[:2] == (2, 1)
    assert torch.allclose(found.sum(dim=-1), torch.ones(()), atol=1e-4)  # each position shares itself out
    source = {"source": Branch(model.encode_prompt(SOURCE))}
    target = {"target": Branch(model.encode_prompt(TARGET), guidance_scale=3.0)}
    assert far(found[0], _mean_maps(model, source)) < 1e-4
    if options == {"attention_guidance": 0.0}:
        assert far(found[1], _mean_maps(model, target)) < 1e-4


def _mean_maps(model: Any, branch: dict[str, Branch]) -> Tensor:
    """Mean conditional maps of plain sampling from the same noise, (image, height, width, token)."""
    maps = CrossAttentionMaps()
    sample(model, start(model).noise, branch, num_inference_steps=STEPS, controls=[AttentionControl([maps])])
    return maps.average[0]


def test_a_result_shows_where_words_look(toy_model: Any) -> None:
    result = sfumato.edit(
        toy_model, source_prompt=SOURCE, target_prompt=TARGET, method="pix2pix-zero", num_inference_steps=2
    )
    cat, dog = result.attention_map("cat", target=None), result.attention_map("dog")
    assert cat.shape == dog.shape
    assert float(cat.max()) == float(dog.max()) == 1.0
    with pytest.raises(UsageError, match="'dog' is not in the prompt"):
        result.attention_map("dog", target=None)


@pytest.mark.filterwarnings("ignore:(fixed-point|null-text) inversion")  # two steps of a toy
@pytest.mark.parametrize("name", sorted(set(METHODS["pix2pix-zero"].inversions) & set(on(DIFFUSION, INVERSIONS))))
def test_every_inversion_that_is_named_serves(toy_model: Any, name: str) -> None:
    clean, condition = 0.5 * start(toy_model).noise, toy_model.encode_prompt(SOURCE)
    scale = INVERSIONS[name].source_guidance_scale or 3.0
    begin = INVERSIONS[name].function(
        InversionTask(toy_model, clean, condition, num_inference_steps=2, guidance_scale=scale)
    )
    latents = run(toy_model, begin, source_guidance_scale=scale).latents
    alone = sample(
        toy_model, begin.noise, {"source": Branch(condition, guidance_scale=scale)}, timesteps=begin.timesteps,
        replay=begin,
    )  # fmt: skip
    assert far(latents[0], alone[0]) < 1e-4
    assert far(latents[1], latents[0]) > 1e-4


@pytest.mark.parametrize(
    ("options", "a_step"),
    [
        ({}, 6),
        ({"caption_as_negative": True}, 5),
        ({"guidance_scale": 1.0}, 3),
        ({"attention_guidance": 0.0}, 4),
        ({"attention_guidance": 0.0, "guidance_scale": 1.0}, 2),
        ({"target_prompts": [TARGET, TARGET, TARGET]}, 14),
    ],
)
def test_evaluations_are_as_the_docstring_says(toy_model: Any, options: Any, a_step: int) -> None:
    direction = [way(toy_model)] * len(options.get("target_prompts", [TARGET]))
    before = toy_model.evaluations
    run(toy_model, direction=direction, **options)
    assert toy_model.evaluations - before == STEPS * a_step


def test_targets_and_pictures_in_one_batch_equal_single_runs(toy_model: Any) -> None:
    whole, ways = start(toy_model, 2, images=2, size=(8, 16)), [way(toy_model), way(toy_model, "cat", "hat")]
    for update in ("paper", "released"):
        both = run(toy_model, whole, target_prompts=[TARGET, "a hat"], direction=ways, update=update)
        assert both.branches == ("source", "target-1", "target-2")
        for image in range(2):
            alone = replace(whole, noise=whole.noise[image : image + 1])
            for k, one_way in enumerate(ways):
                one = run(toy_model, alone, direction=one_way, update=update).latents
                assert far(both.latents[k + 1, image], one[1, 0]) < 1e-4
                assert far(both.latents[0, image], one[0, 0]) < 1e-4


def test_hooks_see_all_branches_and_have_the_last_word(toy_model: Any) -> None:
    def keep_the_source(latents: Tensor, step: Any) -> Tensor:
        return latents[:1].expand_as(latents)

    result = run(toy_model, on_step=[keep_the_source])
    assert torch.equal(result.latents[1], result.latents[0])


def test_maps_are_dropped_after_each_step_and_weights_stay_frozen(toy_model: Any) -> None:
    held: list[Recorder] = []
    sizes: list[int] = []

    def observe(pull: Pull) -> None:
        held.append(pull.maps)
        sizes.append(len(pull.maps))
        assert not pull.loss.requires_grad

    run(toy_model, observe=observe)
    cross = sum(site.kind == "cross" for site in toy_model.sites((16, 16)))
    assert sizes == [2 * 2 * cross] * STEPS  # two halves of source and target, of this step alone
    assert all(len(maps) == 0 for maps in held)
    assert all(p.grad is None and not p.requires_grad for p in toy_model.unet.parameters())
    assert not torch.is_grad_enabled() or run(toy_model).latents.grad_fn is None


def test_self_attention_keeps_its_fused_kernel(toy_model: Any) -> None:
    """In the pass with gradients too: as many fused calls as there are self-attention layers, none of them doubled."""
    with_gradient: list[int] = []

    class Spy(TorchFunctionMode):
        """Sees what is left of the kernel's calls after the control."""

        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is torch.nn.functional.scaled_dot_product_attention and torch.is_grad_enabled():
                with_gradient.append(args[1].shape[2])
            return func(*args, **(kwargs or {}))

    with Spy():
        run(toy_model, start(toy_model, 1))
    sites = [site for site in toy_model.sites((16, 16)) if site.kind == "self"]
    assert sorted(with_gradient) == sorted(site.positions for site in sites)


def test_nothing_leaks_also_when_a_run_breaks(model: Any) -> None:
    condition, latents = model.encode_prompt("a cat"), torch.randn(1, 4, 16, 16)
    processors = dict(model.unet.attn_processors)
    with torch.no_grad():
        before = model.predict(latents, 400, condition)
        run(model)
        assert torch.equal(model.predict(latents, 400, condition), before)

        def explode(pull: Pull) -> None:
            raise RuntimeError("on purpose")

        with pytest.raises(RuntimeError, match="on purpose"):
            run(model, observe=explode)
        assert torch.equal(model.predict(latents, 400, condition), before)
    assert all(model.unet.attn_processors[name] is processor for name, processor in processors.items())


def test_runs_can_be_repeated(toy_model: Any) -> None:
    assert torch.equal(run(toy_model).latents, run(toy_model).latents)


def test_a_direction_may_be_a_file(toy_model: Any, toy_xl_model: Any, tmp_path: Path) -> None:
    path = way(toy_model).save(tmp_path / "way.safetensors")
    begin = start(toy_model, 1)
    expected = run(toy_model, begin).latents
    for given in (path, str(path), [path]):
        assert torch.equal(run(toy_model, begin, direction=given).latents, expected)
    before = toy_xl_model.evaluations
    with pytest.raises(DirectionError, match="belongs to the text encoder of toy"):
        run(toy_xl_model, direction=path)
    with pytest.raises(DirectionError, match="no direction at"):
        run(toy_xl_model, direction="missing.safetensors")
    assert toy_xl_model.evaluations == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"direction": []}, "one for each of 1 target prompts, got 0"),
        ({"target_prompts": [TARGET, TARGET]}, "one for each of 2 target prompts, got 1"),
        ({"negative_prompt": "a hat", "caption_as_negative": True}, "leave out negative_prompt"),
    ],
)
def test_mistakes_are_named_before_any_work(toy_model: Any, options: Any, message: str) -> None:
    before = toy_model.evaluations
    with pytest.raises(UsageError, match=message):
        run(toy_model, **options)
    assert toy_model.evaluations == before


def test_a_model_without_cross_attention_is_refused() -> None:
    model = GaussianModel(cosine_schedule())
    begin = Inversion("drawn", torch.randn(1, 1, 4, 4), tuple(model.schedule.timesteps(2)))
    direction = Direction(Condition(torch.zeros(1, 1, 1)), model.text_fingerprint, "", "", "none")
    with pytest.raises(ModelError, match="finds no attention layer"):
        run(model, begin, direction=direction)
    assert model.evaluations == 0


def test_recorder() -> None:
    recorder, row = Recorder(spill=True), RecordKey("cond", "source")
    recorder.put(0, "layer", row, torch.ones(2, 3, requires_grad=True))
    recorder.put(1, "layer", row, torch.zeros(2, 3))
    assert not recorder.get(0, "layer", row).requires_grad
    assert (len(recorder), recorder.nbytes) == (2, 48)
    recorder.forget(0)
    assert (0, "layer", row) not in recorder
    with pytest.raises(KeyError, match="step 0, layer layer"):
        recorder.get(0, "layer", row)
    recorder.forget()
    assert len(recorder) == 0
