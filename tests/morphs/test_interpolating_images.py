"""Interpolating between images: the noise stack, the tree, levels, equal ends, costs."""

from itertools import pairwise
from math import sqrt
from typing import Any

import pytest
import torch
from torch import Tensor

from sfumato.errors import UsageError
from sfumato.models.schedules import Level
from sfumato.morphs.denoiser import Denoiser
from sfumato.morphs.frame_tree import level_indices, noise_stacks, tree
from sfumato.morphs.ranked_tree import ranked_tree, text_score
from sfumato.watch import Progress, Watch
from tests.gaussian import GaussianModel, cosine_schedule
from tests.morphs.toy_ends import drawn, far, path_of, toy_ends

NAME = "interpolating-images"
SMALL = {"levels": 2, "num_inference_steps": 12, "guidance_scale": 3.0}


@pytest.mark.parametrize("name", ["toy_model", "toy_velocity_model", "toy_xl_model"])
def test_grows_a_tree_between_the_pictures(name: str, request: Any) -> None:
    path = path_of(request.getfixturevalue(name), NAME, **SMALL)
    assert path.weights == (0.0, 0.25, 0.5, 0.75, 1.0)
    frames = drawn(path, path.weights)
    assert torch.equal(frames[[0, -1]], toy_ends().latents)
    assert all(far(frame, other) > 1e-2 for frame, other in pairwise(frames))
    assert torch.equal(drawn(path, [0.75, 0.25]), frames[[3, 1]])


def test_equal_pictures_make_equal_frames(toy_model: Any) -> None:
    frames = drawn(path_of(toy_model, NAME, toy_ends(equal=True), retroactive=False, **SMALL), [0.25, 0.75])
    assert far(frames[0], frames[1]) < 1e-5


def test_a_stack_is_noised_as_if_at_once() -> None:
    """Clean latents of zero: each level has the variance of its own noise, and levels share what came before."""
    levels = [Level.variance_preserving(alpha_bar) for alpha_bar in (0.9, 0.6, 0.2)]
    noise = torch.randn(3, 4, 64, 64, generator=torch.Generator().manual_seed(0))
    stack = noise_stacks(torch.zeros(2, 4, 64, 64), noise, levels)
    for latents, level in zip(stack[1:], levels, strict=True):
        assert abs(float(latents[0].std()) - level.noise) < 0.02
        assert torch.equal(latents[0], latents[1])
    clean = torch.ones(2, 4, 64, 64)
    moved = noise_stacks(clean, noise, levels) - stack
    assert torch.allclose(moved[3], sqrt(0.2) * clean, atol=1e-5)
    apart = noise_stacks(torch.zeros(2, 4, 64, 64), torch.stack([noise, -noise], dim=1), levels)
    assert torch.allclose(apart[:, 0], -apart[:, 1])


@pytest.mark.parametrize("released", [False, True])
def test_every_step_below_the_noisiest_level_is_walked_once(released: bool) -> None:
    """And, data being a point, all of them together lead to it."""
    model = GaussianModel(cosine_schedule(), mean=0.7, std=1e-3)
    steps, levels = 60, [0, 10, 20, 30]
    timesteps = model.schedule.timesteps(steps)
    denoise = Denoiser(model, model.encode_prompt(["", ""]), model.encode_prompt(""), 1.0, timesteps)
    noise = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    frames = tree(denoise, torch.full((2, 1, 8, 8), 0.7, dtype=torch.float64), noise, levels, released=released)
    told = [model.schedule.timesteps(steps)[::-1].index(t) for t in dict.fromkeys(model.calls)]
    assert told == list(range(29 if released else 30, -1, -1))
    assert float((frames - 0.7).abs().max()) < 0.02


def test_each_step_makes_all_frames_of_its_level(toy_model: Any) -> None:
    reports: list[Progress] = []
    before = toy_model.evaluations
    path_of(toy_model, NAME, watch=Watch(progress=reports.append), **SMALL)
    levels = level_indices(12, 2, 0.25, 0.5)
    assert levels == [0, 3, 6]
    assert toy_model.evaluations - before == 2 * ((6 - 3) * 1 + (3 + 1) * 3)
    assert [(report.done, report.total) for report in reports][-1] == (7, 7)


def test_options_move_the_frames(toy_model: Any) -> None:
    base = drawn(path_of(toy_model, NAME, **SMALL), [0.25, 0.5])
    for options in ({"retroactive": False}, {"released": True}, {"max_strength": 0.8}, {"text_iterations": 2}):
        assert far(drawn(path_of(toy_model, NAME, **SMALL, **options), [0.25, 0.5]), base) > 1e-5, options


def test_levels_lie_as_asked() -> None:
    assert level_indices(200, 4, 0.35, 0.6) == [0, 70, 87, 103, 120]
    assert level_indices(200, 4, 0.35, 0.6, "convex") == [0, 70, 76, 92, 120]
    assert level_indices(200, 4, 0.35, 0.6, "concave") == [0, 70, 99, 111, 120]
    assert level_indices(50, 1, 0.25, 0.5) == [0, 25]
    with pytest.raises(UsageError, match="fall on one another"):
        level_indices(10, 5, 0.25, 0.5)


def test_mistakes_are_named_before_any_work(toy_model: Any) -> None:
    before = toy_model.evaluations
    with pytest.raises(UsageError, match="use more steps"):
        path_of(toy_model, NAME, levels=5, num_inference_steps=6)
    assert toy_model.evaluations == before


# --- ranked ---------------------------------------------------------------------------------------------------------


def ranked(
    model: Any, candidates: int, score: Any, watch: Watch | None = None, prompts: tuple[str, str] = ("", "")
) -> Tensor:
    denoise = Denoiser(
        model, model.encode_prompt(list(prompts)), model.encode_prompt(""), 1.0, model.schedule.timesteps(10)
    )
    return ranked_tree(
        denoise, torch.stack([torch.full((4, 16, 16), value) for value in (-0.5, 0.5)]), [0, 2, 4, 5],
        candidates=candidates, score=score, generator=torch.Generator().manual_seed(0), watch=watch,
    )  # fmt: skip


def test_the_best_candidate_is_kept_and_grown_from(toy_model: Any) -> None:
    seen: list[Tensor] = []

    def score(pixels: Tensor) -> Tensor:
        seen.append(pixels)
        return pixels.mean(dim=(1, 2, 3))

    frames = ranked(toy_model, 5, score)
    assert len(frames) == 9
    assert [len(pixels) for pixels in seen] == [5, 4, 4, 3, 3, 3, 3]
    middle = toy_model.decode_latents(frames[[4]])
    assert float(middle.mean()) == pytest.approx(float(seen[0].mean(dim=(1, 2, 3)).max()), abs=1e-6)
    worst = ranked(toy_model, 5, lambda pixels: -score(pixels))
    assert float(toy_model.decode_latents(worst[[4]]).mean()) < float(middle.mean())
    assert far(worst[2], frames[2]) > 1e-3  # its parent is another


def test_ranking_costs_what_it_says(toy_model: Any) -> None:
    reports: list[Progress] = []
    before = toy_model.evaluations
    ranked(toy_model, 4, lambda pixels: pixels.mean(dim=(1, 2, 3)), watch=Watch(progress=reports.append))
    assert toy_model.evaluations - before == 4 * 6 + 2 * 3 * 5 + 4 * 3 * 3
    assert (reports[-1].done, reports[-1].total) == (7, 7)


def test_the_released_ranked_tree_denoises_also_from_the_cleanest_level(toy_model: Any) -> None:
    prompts, timesteps = toy_model.encode_prompt(["", ""]), toy_model.schedule.timesteps(4)
    denoise = Denoiser(toy_model, prompts, toy_model.encode_prompt(""), 1.0, timesteps)
    before = toy_model.evaluations
    ranked_tree(
        denoise, toy_ends().latents, [0, 1, 3], candidates=1, score=lambda pixels: pixels.mean(dim=(1, 2, 3)),
        generator=torch.Generator().manual_seed(0), released=True,
    )  # fmt: skip
    assert toy_model.evaluations - before == 2 + 2 * 1


def test_candidates_are_ranked_by_texts(toy_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Encoder:
        def encode_text(self, texts: list[str]) -> Tensor:
            return torch.stack([torch.tensor([1.0, 0.0] if text == "red" else [0.0, 1.0]) for text in texts])

        def encode_image(self, pixels: Tensor) -> Tensor:
            return pixels.mean(dim=(2, 3))[:, :2]

    pixels = torch.zeros(2, 3, 4, 4)
    pixels[0, 0], pixels[1, 1], pixels[1, 0] = 1.0, 1.0, 0.2
    monkeypatch.setitem(text_score.__globals__, "dual_encoder", lambda model, name: Encoder())
    alone, against = (text_score(toy_model, "red", worse, None)(pixels) for worse in ("", "green"))
    assert alone.tolist() == pytest.approx([1.0, 0.2 / 1.04**0.5], abs=1e-6)
    assert against.tolist() == pytest.approx([1.0, -0.8 / 1.04**0.5], abs=1e-6)


def test_ranking_is_refused_without_a_text_or_an_encoder(toy_model: Any) -> None:
    before = toy_model.evaluations
    with pytest.raises(UsageError, match="candidates=4 needs a text to rank them by"):
        path_of(toy_model, NAME, candidates=4, **SMALL)
    with pytest.raises(UsageError, match="encoder=FOLDER"):
        path_of(toy_model, NAME, candidates=4, better="sharp", **SMALL)
    assert toy_model.evaluations == before


def test_a_ranked_path(toy_model: Any) -> None:
    plain = drawn(path_of(toy_model, NAME, **SMALL), [0.25, 0.5])
    best = path_of(toy_model, NAME, candidates=3, better="a cat", worse="a pizza", encoder="emoji-clip", **SMALL)
    assert best.weights == (0.0, 0.25, 0.5, 0.75, 1.0)
    assert torch.equal(drawn(best, [0.0, 1.0]), toy_ends().latents)
    assert far(drawn(best, [0.25, 0.5]), plain) > 1e-3
