"""The driver of morphs: identities of the ends, paths through several images, what is refused, what is resumed."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import sfumato
from sfumato.api import morph as morphing
from sfumato.errors import Cancelled, ImageError, UsageError
from sfumato.images import flattened, read_recipe
from sfumato.metrics.distance import PixelDistance
from sfumato.morphs.method import MORPHS
from sfumato.morphs.path import MorphPath
from sfumato.morphs.task import MorphTask
from sfumato.watch import Progress, Watch


def picture(seed: int, size: tuple[int, int] = (64, 64)) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(values).resize(size, Image.Resampling.BICUBIC)


def fade(model: Any, *pictures: Image.Image, **given: Any) -> sfumato.MorphResult:
    return sfumato.morph(model, *pictures, **{"method": "crossfade", "distance": "pixel", "num_frames": 5, **given})


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SFUMATO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def same(first: Image.Image, second: Image.Image) -> bool:
    return bool(np.array_equal(np.asarray(first), np.asarray(second)))


# --- what comes out -------------------------------------------------------------------------------------------------


def test_a_crossfade_is_the_mean_of_the_pictures(toy_model: Any) -> None:
    a, b = picture(0), picture(1)
    result = fade(toy_model, a, b)
    assert result.weights == (0.0, 0.25, 0.5, 0.75, 1.0)
    assert same(result.images[0], a)
    assert same(result.images[-1], b)
    mean = np.asarray(a, dtype=float) * 0.75 + np.asarray(b, dtype=float) * 0.25
    assert np.abs(np.asarray(result.images[1]) - mean).max() <= 0.51
    assert result.endpoint_psnr == (math.inf, math.inf)
    assert result.spread == pytest.approx(1.0, abs=1e-3)
    assert result.distances == pytest.approx([result.distances[0]] * 4, rel=1e-3)
    assert result.cost.evaluations == 0
    assert result.sources[1] == b


def test_the_ends_are_what_the_method_gives_back(toy_model: Any) -> None:
    a, b = picture(0), picture(1)
    result = fade(toy_model, a, b, space="latents")
    assert result.endpoint_psnr == pytest.approx(result.ceiling_psnr)  # the autoencoder alone
    assert any("differs from the image" in note for note in result.notes)  # a toy's autoencoder
    swapped = fade(toy_model, b, a, space="latents")
    assert same(swapped.images[1], result.images[3])


def test_a_path_through_three_pictures_shows_the_middle_one_once(toy_model: Any) -> None:
    a, b, c = (picture(seed) for seed in range(3))
    result = fade(toy_model, a, b, c, num_frames=4)
    assert len(result.images) == 7
    assert result.weights == pytest.approx((0, 1 / 3, 2 / 3, 1, 4 / 3, 5 / 3, 2))
    assert same(result.images[3], b)
    assert len(result.distances) == 6
    assert result.even_distances is not None
    assert len(result.endpoint_psnr) == len(result.sources) == 3
    first, second = fade(toy_model, a, b, num_frames=4), fade(toy_model, b, c, num_frames=4)
    assert all(same(x, y) for x, y in zip(result.images, [*first.images, *second.images[1:]], strict=True))


def test_one_pace_gives_a_longer_leg_more_frames(toy_model: Any) -> None:
    near, far = picture(0), picture(1)
    between = Image.blend(near, far, 0.2)
    legs = fade(toy_model, near, between, far, num_frames=6, spacing="uniform", distance="pixel")
    pace = fade(toy_model, near, between, far, num_frames=6, spacing="uniform", distance="pixel", one_pace=True)
    assert len(pace.images) == len(legs.images) == 11
    assert pace.weights.index(1.0) == 2  # of 10 steps
    assert same(pace.images[2], between)
    assert legs.spread > 1.5
    assert pace.spread < 1.1
    with pytest.raises(UsageError, match="one_pace shares out frames, but spacing step"):
        fade(toy_model, near, far, spacing="step", one_pace=True)


def test_a_circle_is_allowed(toy_model: Any) -> None:
    result = fade(toy_model, picture(0), picture(1), picture(0), num_frames=3)
    assert same(result.images[0], result.images[-1])


def test_what_needs_no_latents_encodes_nothing(toy_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def encoded(*_: Any, **__: Any) -> None:
        raise AssertionError("images were encoded")

    monkeypatch.setattr(morphing, "encoded", encoded)
    result = fade(toy_model, picture(0), picture(1))
    assert result.endpoint_psnr == result.ceiling_psnr == (math.inf, math.inf)
    with pytest.raises(AssertionError, match="were encoded"):
        fade(toy_model, picture(0), picture(1), space="latents")


def cut_out(seed: int, left: int) -> Image.Image:
    """An image that shows in a square with a soft edge."""
    alpha = Image.new("L", (64, 64))
    alpha.paste(128, (left, 8, left + 32, 56))
    alpha.paste(255, (left + 4, 12, left + 28, 52))
    image = picture(seed)
    image.putalpha(alpha)
    return image


def test_alpha_goes_in_and_comes_out(toy_model: Any, tmp_path: Path) -> None:
    a, b = cut_out(0, 4), cut_out(1, 28)
    result = fade(toy_model, a, b)
    assert {image.mode for image in result.images} == {"RGBA"}
    for frame, source in zip((result.images[0], result.images[-1]), (a, b), strict=True):
        assert frame.getchannel("A").tobytes() == source.getchannel("A").tobytes()
        there = np.asarray(source)[..., 3] > 0
        assert np.abs(np.asarray(frame)[there].astype(int) - np.asarray(source)[there]).max() <= 2  # rounded twice
    middle = np.asarray(result.images[2].getchannel("A"), float)
    expected = (np.asarray(a.getchannel("A"), float) + np.asarray(b.getchannel("A"), float)) / 2
    assert np.abs(middle - expected).max() <= 1
    with Image.open(result.save(tmp_path / "a.webp", scale=1)) as movie:
        assert np.array_equal(np.asarray(movie.convert("RGBA"))[..., 3], np.asarray(a)[..., 3])

    flat = fade(toy_model, a, b, alpha=False)  # on white both are the same
    assert {image.mode for image in flat.images} == {"RGB"}
    for frame, plain in zip(result.images, flat.images, strict=True):
        off = np.abs(np.asarray(flattened(frame), int) - np.asarray(plain, int))
        assert np.quantile(off, 0.99) <= 2
    assert {image.mode for image in fade(toy_model, picture(0), picture(1)).images} == {"RGB"}
    assert fade(toy_model, a, picture(1)).images[-1].getchannel("A").getextrema() == (255, 255)
    padded = fade(toy_model, a.crop((0, 0, 60, 64)), b.crop((0, 0, 60, 64)), fit="pad", num_frames=3)
    assert padded.images[0].getchannel("A").tobytes() == a.crop((0, 0, 60, 64)).getchannel("A").tobytes()


def test_every_spacing_goes_with_it(toy_model: Any) -> None:
    from sfumato.morphs.spacings.base import SPACINGS

    for name, entry in SPACINGS.items():
        result = fade(toy_model, picture(0), picture(1), spacing=name)
        assert entry.sets_num_frames or len(result.images) == 5, name
        assert (result.weights[0], result.weights[-1]) == (0.0, 1.0)
        assert list(result.weights) == sorted(result.weights)
        assert result.recipe["spacing"] == name


def test_spacing_options_reach_the_spacing(toy_model: Any) -> None:
    wide, narrow = (
        fade(toy_model, picture(0), picture(1), spacing="step", spacing_options={"delta": delta, "tolerance": 1e-4})
        for delta in (0.2, 0.1)
    )
    assert len(narrow.images) > len(wide.images)
    assert narrow.distances[0] == pytest.approx(0.1, abs=1e-3)


def test_slerp_between_inversions_brings_back_both_ends(toy_model: Any) -> None:
    result = sfumato.morph(
        toy_model, picture(0), picture(1), prompts=("a cat", "a dog"), method="slerp", inversion="edit-friendly",
        num_frames=3, num_inference_steps=3, distance="pixel", guidance_scale=2.0,
    )  # fmt: skip
    assert result.endpoint_psnr == pytest.approx(result.ceiling_psnr, abs=0.1)
    assert result.cost.evaluations > 0
    assert result.recipe["prompts"] == ["a cat", "a dog"]
    assert result.recipe["guidance_scale"] == 2.0


def test_the_same_seed_gives_the_same_frames(toy_model: Any) -> None:
    def run(seed: int) -> sfumato.MorphResult:
        return sfumato.morph(
            toy_model, picture(0), picture(1), method="slerp", inversion="dpm-encoder", num_frames=3,
            num_inference_steps=2, distance="pixel", seed=seed,
        )  # fmt: skip

    first, again, other = run(1), run(1), run(2)
    assert all(same(x, y) for x, y in zip(first.images, again.images, strict=True))
    assert not same(first.images[1], other.images[1])


def test_prompts_for_all_or_for_each(toy_model: Any) -> None:
    three = [picture(seed) for seed in range(3)]
    assert fade(toy_model, *three, prompts="a face").recipe["prompts"] == ["a face"] * 3
    assert fade(toy_model, *three, prompts=["a", "b", "c"]).recipe["prompts"] == ["a", "b", "c"]
    assert fade(toy_model, *three).recipe["prompts"] == ["", "", ""]
    with pytest.raises(UsageError, match=r"one for all or one for each of 3 images, got 2"):
        fade(toy_model, *three, prompts=["a", "b"])


def test_padding_is_cut_off_again(toy_model: Any) -> None:
    wide = (60, 64)
    result = fade(toy_model, picture(0, wide), picture(1, wide), fit="pad", num_frames=3)
    assert {image.size for image in result.images} == {wide}
    assert same(result.images[0], picture(0, wide))


def test_files_carry_the_recipe(toy_model: Any, tmp_path: Path) -> None:
    result = fade(toy_model, picture(0), picture(1), num_frames=3)
    folder = result.save(tmp_path / "frames")
    assert same(Image.open(folder / "frame-001.png"), result.images[1])
    recipe = read_recipe(folder / "frame-001.png")
    assert (recipe["command"], recipe["method"], recipe["weights"]) == ("morph", "crossfade", [0.0, 0.5, 1.0])
    assert read_recipe(result.save(tmp_path / "morph.gif")) == dict(result.recipe)
    with Image.open(result.save(tmp_path / "bounce.gif", bounce=True, scale=1)) as movie:
        assert (movie.size, getattr(movie, "n_frames", 1)) == ((64, 64), 4)


def test_strip_and_plot(toy_model: Any) -> None:
    result = fade(toy_model, picture(0), picture(1), num_frames=5)
    strip = result.film_strip(columns=3, tile=64)
    assert strip.width >= 3 * 64
    colours = {strip.getpixel((24 + 32, 24 + 32)), result.images[0].getpixel((32, 32))}
    assert len(colours) == 1  # the first frame, where it should be
    plotted = result.plot()
    assert plotted.size == (640, 360)
    alone = replace(result, even_distances=None)
    assert not same(plotted, alone.plot())


# --- what is refused, before anything heavy is done -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"method": "cross-fade"}, r"unknown morph method 'cross-fade': did you mean 'crossfade'\?"),
        ({"spacing": "unifrom"}, r"unknown spacing 'unifrom': did you mean 'uniform'\?"),
        ({"spacing": "uniform", "spacing_options": {"tol": 1}}, r"unknown option 'tol' of uniform: did you mean 'tole"),
        ({"distance": "lpips-alx"}, r"unknown distance 'lpips-alx': did you mean 'lpips-alex'\?"),
        ({"distance": 3}, "distance must be a name or a Distance"),
        ({"num_frames": 2}, "num_frames must be at least 3 .*, got 2"),
        ({"num_frames": 4.0}, "num_frames must be at least 3 .*, got 4.0"),
        ({"guidance_scale": 0.5}, "guidance_scale must be in"),
        ({"num_inference_steps": 5000}, "5000"),
        ({"space": "colours"}, "space must be one of pixels, latents, got 'colours'"),
        ({"fad": 1}, "unknown option 'fad' of crossfade"),
    ],
)
def test_bad_arguments(toy_model: Any, given: dict[str, Any], says: str) -> None:
    before = toy_model.evaluations
    with pytest.raises(UsageError, match=says):
        fade(toy_model, picture(0), picture(1), **given)
    assert toy_model.evaluations == before


def test_bad_pictures(toy_model: Any) -> None:
    with pytest.raises(UsageError, match="at least two images, got 1"):
        fade(toy_model, picture(0))
    with pytest.raises(UsageError, match="images 2 and 3 are identical"):
        fade(toy_model, picture(0), picture(1), picture(1))
    with pytest.raises(ImageError, match=r"must have one size; image 1 has 64x64 pixels, but for image 2.*32x32"):
        fade(toy_model, picture(0), picture(1, (32, 32)))
    assert len(fade(toy_model, picture(0), picture(1, (32, 32)), fit="resize").images) == 5
    with pytest.raises(ImageError, match=r"multiples of \d"):
        fade(toy_model, picture(0, (63, 64)), picture(1, (63, 64)))


def test_without_a_perceptual_model_the_pixels_serve_and_it_is_said(
    toy_model: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("SFUMATO_WEIGHTS", "TORCH_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "nothing"))
    result = fade(toy_model, picture(0), picture(1), distance=None)
    assert result.recipe["distance"] == "pixel"
    assert any("pip install --no-deps lpips" in note for note in result.notes)
    with pytest.raises(UsageError, match=r"'lpips-vgg' needs weights that are missing.*distance='pixel' needs none"):
        fade(toy_model, picture(0), picture(1), distance="lpips-vgg")


# --- watching, stopping, going on -----------------------------------------------------------------------------------


def learning(task: MorphTask) -> MorphPath:
    """A method that trains for four rounds and keeps each."""
    kept = task.store.load("learned") if task.store else None
    done = int(kept[1]["done"]) if kept else 0
    learned = kept[0]["learned"] if kept else torch.zeros(1)
    for k in task.watch.during("adapting").over(range(done, 4)):
        learned = learned + 1.0
        if task.store:
            task.store.save("learned", {"learned": learned}, {"done": k + 1})
    record: dict[str, object] = {"learned": float(learned), "resumed_at": done}

    def draw(weights: Sequence[float]) -> torch.Tensor:
        return torch.stack([(1 - weight) * task.ends.pixels[0] + weight * task.ends.pixels[1] for weight in weights])

    return MorphPath(draw, in_pixels=True, notes=("rank 64 was clamped to 8",), record=record)


@pytest.fixture
def learner(monkeypatch: pytest.MonkeyPatch) -> str:
    entry = replace(MORPHS["slerp"], function=learning, parameters={})
    monkeypatch.setitem(MORPHS._entries, "crossfade", entry)
    return "crossfade"


def test_notes_and_records_of_the_method_are_handed_on(toy_model: Any, learner: str) -> None:
    result = fade(toy_model, picture(0), picture(1), picture(2), store=False)
    assert "image 2 to 3: rank 64 was clamped to 8" in result.notes
    assert result.recipe["found"][0]["learned"] == 4.0


@pytest.mark.parametrize("error", [KeyboardInterrupt, Cancelled])
def test_a_stopped_run_goes_on_where_it_was(
    toy_model: Any, learner: str, tmp_path: Path, cache: Path, error: type[BaseException]
) -> None:
    def stop(progress: Progress) -> None:
        if error is KeyboardInterrupt and progress.stage == "adapting" and progress.done == 2:
            raise KeyboardInterrupt

    asked = iter(range(100))
    rounds = 2 * (1 + morphing.ENCODE_STEPS) + 2  # two images encoded and refined, two rounds
    cancelled = None if error is KeyboardInterrupt else lambda: next(asked) >= rounds
    with pytest.raises(error):
        fade(toy_model, picture(0), picture(1), watch=Watch(stop, cancelled))
    assert [path.name for path in (cache / "morph").iterdir()] == ["learned.safetensors"]
    again = fade(toy_model, picture(0), picture(1))
    assert again.recipe["found"][0]["resumed_at"] == 2
    assert again.recipe["found"][0]["learned"] == 4.0


def test_store_may_be_a_folder_or_none(toy_model: Any, learner: str, tmp_path: Path, cache: Path) -> None:
    fade(toy_model, picture(0), picture(1), store=False)
    assert not cache.exists()
    fade(toy_model, picture(0), picture(1), store=tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["learned.safetensors"]
    assert not cache.exists()


def test_a_store_that_cannot_be_written_is_told_before_the_work(
    toy_model: Any, learner: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    before = toy_model.evaluations
    with pytest.raises(UsageError, match=r"cannot keep adaptations in .*file .*: name another folder"):
        fade(toy_model, picture(0), picture(1), store=tmp_path / "file")
    assert toy_model.evaluations == before
    monkeypatch.setenv("SFUMATO_CACHE", str(tmp_path / "file"))  # nobody asked for it: the run does without
    with pytest.warns(UserWarning, match="what this run trains is not kept"):
        assert len(fade(toy_model, picture(0), picture(1)).images) == 5


def test_stages_are_told(toy_model: Any, learner: str) -> None:
    seen: list[Progress] = []
    fade(toy_model, picture(0), picture(1), num_frames=9, store=False, watch=Watch(seen.append))
    stages = list(dict.fromkeys(progress.stage for progress in seen))
    assert stages == ["encoding", "adapting", "drawing frames"]
    last = {progress.stage: (progress.done, progress.total) for progress in seen}
    assert last["drawing frames"] == (9, 9)
    seen.clear()
    fade(toy_model, *(picture(k) for k in range(3)), spacing="uniform", store=False, watch=Watch(seen.append))
    stages = list(dict.fromkeys(progress.stage for progress in seen))
    assert {"encoding", "1/2 adapting", "2/2 adapting", "2/2 drawing frames (at most)"} <= set(stages)
    drawn = [progress for progress in seen if progress.stage == "1/2 drawing frames (at most)"]
    assert all(progress.done <= progress.total == 30 for progress in drawn)


def test_a_distance_of_ones_own(toy_model: Any) -> None:
    class Half(PixelDistance):
        name = "half"

        def __call__(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
            return super().__call__(first, second) / 2

    half, whole = (fade(toy_model, picture(0), picture(1), distance=measure) for measure in (Half(), "pixel"))
    assert half.distances == pytest.approx([value / 2 for value in whole.distances])
    assert half.recipe["distance"] == "half"


def test_joined_weights() -> None:
    assert morphing.joined([[0, 0.5, 1], [0, 0.2, 1]]) == (0, 0.5, 1, 1.2, 2)
