"""IMPUS: identities of the path, its options, its checkpoints, and nothing left in the model. Numbers: conformance."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sfumato.adaptation.lora import Lora, widest_rank
from sfumato.adaptation.store import Store
from sfumato.errors import Cancelled, UsageError
from sfumato.metrics.distance import PixelDistance
from sfumato.models.base import Model
from sfumato.morphs.impus import Adapted, impus
from sfumato.morphs.impus_stages import SETTINGS, SOLVED
from sfumato.morphs.method import MORPHS
from sfumato.morphs.path import Ends, MorphPath
from sfumato.morphs.rppd import JUMP, PathDiversity
from sfumato.morphs.task import MorphTask
from sfumato.watch import Progress, Watch
from tests.adaptation.test_lora import random_lora

STEPS = 2


def ends(model: Model, *, equal: bool = False, prompts: tuple[str, str] = ("a cat", "a dog")) -> Ends:
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    latents = latents[:1].repeat(2, 1, 1, 1) if equal else latents
    return Ends(torch.zeros(2, 3, 64, 64), latents, prompts)


def prepare(model: Model, given: Ends | None = None, **options: Any) -> MorphPath:
    quick = {"text_iterations": 2, "text_draws": 1, "lora_iterations": 2, "uncond_iterations": 1, "rank": 2}
    options = quick | {"inversion": "ddim", "seed": 0, "guidance_scale": 3.0} | options
    generator = torch.Generator().manual_seed(options.pop("seed"))
    given_to_task = {"num_inference_steps", "guidance_scale", "negative_prompt", "store", "watch", "distance"}
    of_task = {"num_inference_steps": STEPS, "distance": PixelDistance()}
    of_task |= {name: options.pop(name) for name in given_to_task & options.keys()}
    return impus(MorphTask(model, given or ends(model), generator=generator, **of_task), **options)


def draw(path: MorphPath, *weights: float) -> Tensor:
    with torch.no_grad():
        return path.draw(weights)


def prediction(model: Model) -> Tensor:
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        return model.predict(latents, 500, model.encode_prompt("a cat"))


@pytest.mark.parametrize("name", ["toy_model", "toy_velocity_model", "toy_xl_model"])
def test_runs_on_every_family_and_leaves_it_as_found(name: str, request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(name)
    before = prediction(model)
    path = prepare(model)
    frames = draw(path, 0.0, 0.4, 1.0)
    assert frames.shape == (3, 4, 8, 8)
    assert torch.equal(prediction(model), before)
    assert path.record is not None
    assert path.record["rank"] == 2
    # a frame depends on its own weight alone
    torch.testing.assert_close(draw(path, 0.4), frames[1:2], rtol=1e-3, atol=1e-4)


def test_the_ends_come_back_exactly(toy_model: Model) -> None:
    """Up to what the inversion leaves at each step, at most `SOLVED` of the latents, and twice that, as later steps may
    enlarge it. How much they do lies with the toy's random weights, which versions of torch and transformers draw
    differently."""
    given = ends(toy_model)
    solved = prepare(toy_model, given, inversion="fixed-point", num_inference_steps=25)
    guessed = prepare(toy_model, given, inversion="ddim", num_inference_steps=25)
    error, plain = (float((draw(path, 0.0, 1.0) - given.latents).norm()) for path in (solved, guessed))
    assert error < 2 * 25 * SOLVED * float(given.latents.norm()) < plain / 5


def test_between_equal_pictures_nothing_moves(toy_model: Model) -> None:
    frames = draw(prepare(toy_model, ends(toy_model, equal=True), end_guidance_scale=3.0), 0.0, 0.3, 1.0)
    torch.testing.assert_close(frames, frames[:1].expand(3, -1, -1, -1), rtol=0, atol=1e-3)


def test_rank_0_does_not_adapt(toy_model: Model) -> None:
    before = toy_model.evaluations
    plain = prepare(toy_model, rank=0, text_iterations=0)
    assert toy_model.evaluations - before == 2 * STEPS  # the inversion alone
    assert torch.equal(draw(prepare(toy_model, lora_iterations=0, text_iterations=0), 0.5), draw(plain, 0.5))
    assert not torch.allclose(draw(prepare(toy_model, text_iterations=0, lora_iterations=9), 0.5), draw(plain, 0.5))


def plan(model: Model, cond: Lora | None, uncond: Lora | None) -> Adapted:
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    text, empty = model.encode_prompt(["a cat", "a dog"]), model.encode_prompt("")
    return Adapted(noise, text, empty, cond, uncond, 3.0, 1.5, STEPS)


def test_adapters_that_change_nothing_give_plain_guidance(toy_model: Model) -> None:
    plain = plan(toy_model, None, None).draw(toy_model, [0.3, 1.0])
    zero, other = (Lora.fresh(toy_model, rank) for rank in (4, 2))
    assert torch.equal(plan(toy_model, zero, other).draw(toy_model, [0.3, 1.0]), plain)
    wide, narrow = random_lora(toy_model, 4, 1), random_lora(toy_model, 2, 2)
    corrected = plan(toy_model, wide, narrow).draw(toy_model, [0.3])
    assert not torch.allclose(corrected, plan(toy_model, narrow, wide).draw(toy_model, [0.3]))
    assert not torch.allclose(corrected, plan(toy_model, wide, None).draw(toy_model, [0.3]))


def test_guidance_is_a_tent(toy_model: Model) -> None:
    tent = plan(toy_model, None, None)
    assert [tent.guidance_at(weight) for weight in (0.0, 0.25, 0.5, 1.0)] == [1.5, 2.25, 3.0, 1.5]


@pytest.fixture(scope="module")
def as_by_default(toy_model: Model) -> Tensor:
    return draw(prepare(toy_model), 0.4)


@pytest.mark.parametrize(
    "options",
    [
        {"unconditional": "base"},
        {"unconditional": "shared"},
        {"common_prompt": "an animal"},
        {"start": "own"},
        {"placeholder": "cat"},
        {"text_draws": 2},
        {"text_learning_rate": 0.1},
        {"lora_learning_rate": 0.1},
        {"guidance_scale": 2.0},
        {"end_guidance_scale": 2.0},
        {"inversion_steps": 4},
        {"uncond_iterations": 5, "lora_learning_rate": 0.1},
        {"negative_prompt": "a dog"},
        {"seed": 1},
    ],
)
def test_every_option_matters(options: dict[str, Any], toy_model: Model, as_by_default: Tensor) -> None:
    assert not torch.equal(draw(prepare(toy_model, **options), 0.4), as_by_default)


def test_preparing_again_gives_the_same(toy_model: Model, as_by_default: Tensor) -> None:
    assert torch.equal(draw(prepare(toy_model), 0.4), as_by_default)


def test_the_papers_settings_are_one_option(toy_model: Model) -> None:
    stages: dict[str, int] = {}
    watch = Watch(progress=lambda progress: stages.update({progress.stage: progress.total}))
    paper = SETTINGS["paper"]
    prepare(
        toy_model,
        settings="paper",
        text_iterations=1,
        lora_iterations=1,
        text_draws=None,
        inversion=None,
        inversion_steps=3,
        watch=watch,
    )
    assert (paper.text_iterations, paper.text_draws, paper.text_learning_rate) == (2500, 1, 2e-3)
    assert (paper.inversion, paper.inversion_steps) == ("ddim", 250)
    assert (paper.lora_iterations, paper.lora_learning_rate, paper.end_guidance_scale) == (150, 1e-3, 1.5)
    assert stages == {
        "learning the embeddings": 1,  # what is given goes before the settings
        "adapting the model": 1,
        "adapting its other half": 1,
        "inverting": 3,
    }


def test_the_rank_is_found_and_clamped(toy_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def rank(self: PathDiversity, rule: str = "released") -> int:
        asked.append(rule)
        return 64

    monkeypatch.setattr(PathDiversity, "rank", rank)
    path = prepare(toy_model, rank=None, rank_rule="corrected", lora_iterations=1)
    assert asked == ["corrected"]
    assert path.record is not None
    assert path.record["rank_asked"] == 64
    assert path.record["rank"] == 32  # the widest layer
    assert any("rank 64 is more than" in note for note in path.notes)
    narrow = prepare(toy_model, rank=widest_rank(toy_model) + 1, lora_iterations=1)
    assert any("each of those gets its own width" in note for note in narrow.notes)


def test_rank_rules() -> None:
    # a straight path: nine steps of a ninth, after a jump over nine tenths of it
    straight = PathDiversity(
        torch.zeros(2, 4, 8, 8), torch.zeros(10, 4, 8, 8), torch.tensor([0.9] + [0.1] * 9), 1.0, (1.0, 1.0)
    )
    assert straight.rppd("corrected") == pytest.approx(0.1)
    assert straight.rppd("released") == pytest.approx(0.2)
    assert pytest.approx(1 / 9) == JUMP
    long = PathDiversity(straight.reconstructions, straight.path, torch.tensor([1.0] + [0.5] * 9), 1.0, (1.0, 1.0))
    assert long.rank("released") == long.rank("corrected") == 2**5
    far = PathDiversity(straight.reconstructions, straight.path, torch.full((10,), 50.0), 1.0, (1.0, 1.0))
    assert far.rank() == 2**12
    same = PathDiversity(straight.reconstructions, straight.path, torch.zeros(10), 0.0, (1.0, 1.0))
    assert same.rank() == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 1000}, "rank=1000 is more than any layer"),
        ({"uncond_rank": 1000}, "rank=1000 is more than any layer"),
        ({"placeholder": "lion"}, "lacks the placeholder 'lion'"),
        ({"common_prompt": "an animal", "placeholder": "cat"}, "'an animal' lacks the placeholder 'cat'"),
    ],
)
def test_bad_options_are_told_before_anything_runs(options: dict[str, Any], message: str, toy_model: Model) -> None:
    before = toy_model.evaluations
    with pytest.raises(UsageError, match=message):
        prepare(toy_model, **options)
    assert toy_model.evaluations == before


def test_noise_far_from_normal_is_told(toy_model: Model) -> None:
    given = ends(toy_model)
    far = Ends(given.pixels, given.latents * torch.tensor([1.0, 9.0]).view(2, 1, 1, 1), given.prompts)
    assert any("overdone: take fewer encode_steps" in note for note in prepare(toy_model, far).notes)
    near = Ends(given.pixels, given.latents * 0.0, given.prompts)
    assert any("soft: take inversion=fixed-point" in note for note in prepare(toy_model, near).notes)


def test_what_was_trained_is_used_again(toy_model: Model, tmp_path: Path) -> None:
    store = Store(tmp_path)
    options = {"store": store, "rank": None, "lora_iterations": 1}
    before = toy_model.evaluations
    first = prepare(toy_model, **options)
    spent, before = toy_model.evaluations - before, toy_model.evaluations
    again = prepare(toy_model, **options)
    assert toy_model.evaluations - before == 2 * STEPS < spent  # the inversion alone
    assert torch.equal(draw(again, 0.5), draw(first, 0.5))
    assert again.record == first.record
    files = {path.name.rpartition("-")[0] for path in tmp_path.iterdir()}
    assert files == {"embeddings", "path-diversity", "adapter"}
    count = len(list(tmp_path.iterdir()))
    for change in ({"seed": 1}, {"text_iterations": 3}, {"given": ends(toy_model, prompts=("a cat", "a lion"))}):
        prepare(toy_model, **(options | change))
        assert len(list(tmp_path.iterdir())) >= count + 3
        count = len(list(tmp_path.iterdir()))


def test_a_stopped_preparation_goes_on(toy_model: Model, tmp_path: Path) -> None:
    whole = prepare(toy_model, lora_iterations=3)
    now: list[Progress] = []
    watch = Watch(progress=now.append, cancelled=lambda: now[-1].stage == "adapting the model" and now[-1].done == 2)
    before = prediction(toy_model)
    with pytest.raises(Cancelled, match="stopped while adapting the model, after 2 of 3"):
        prepare(toy_model, lora_iterations=3, store=Store(tmp_path), watch=watch)
    assert torch.equal(prediction(toy_model), before)

    now.clear()
    resumed = prepare(toy_model, lora_iterations=3, store=Store(tmp_path), watch=Watch(progress=now.append))
    assert [progress.total for progress in now if progress.stage == "adapting the model"] == [1, 1]
    assert torch.equal(draw(resumed, 0.5), draw(whole, 0.5))


def test_is_registered() -> None:
    entry = MORPHS["impus"]
    assert entry.spacing == "uniform"
    assert entry.parameters["settings"].choices == ("quick", "paper")
    with pytest.raises(UsageError, match="rank must be in"):
        entry.check_options({"rank": -1})
