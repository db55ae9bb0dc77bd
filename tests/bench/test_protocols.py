"""Unpaired translation and zero-shot editing: their cases, figures and refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sfumato.bench import morphs, sets
from sfumato.bench.morphs import KINDS, Morphs, emoji_pairs
from sfumato.bench.registry import make_benchmark
from sfumato.bench.runner import run
from sfumato.bench.scenes import rendered, scenes_in_styles
from sfumato.bench.sets import set_distances
from sfumato.bench.translation import Translation
from sfumato.bench.zero_shot import ZeroShot
from sfumato.emoji import EXAMPLES
from sfumato.emoji.perceptual import EmojiFeatures
from sfumato.emoji.render import shipped_atlas
from sfumato.emoji.scenes import held_out
from sfumato.errors import ImageError, UsageError
from tests.bench.emoji import load_emoji


@pytest.fixture(autouse=True)
def one_feature_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """The embedded one alone: the larger ones take minutes on a processor, and have tests of their own."""
    monkeypatch.setattr(sets, "feature_networks", lambda: {"emoji-clip": EmojiFeatures()})
    monkeypatch.setattr(morphs, "feature_networks", lambda: {"emoji-clip": EmojiFeatures()})


def test_translates_between_styles_with_the_true_pair_beside(tmp_path: Path) -> None:
    benchmark = Translation(steps=2)
    assert len(benchmark.cases()) == 60
    configurations = benchmark.configurations(["unedited", "cycle-diffusion", "sdedit"], [])
    rows = run(benchmark, configurations, tmp_path, load_emoji, limit=2)
    assert [row["status"] for row in rows] == ["done"] * 6, [row.get("error") for row in rows]
    unedited = rows[0]["figures"]
    assert unedited["psnr"] == 50
    assert unedited["ssim"] == pytest.approx(1)
    assert unedited["pair_distance"] > 0.01
    assert all(row["figures"]["evaluations"] > 0 for row in rows if row["configuration"] != "unedited")


def drawn_in_styles(count: int) -> tuple[list[Image.Image], ...]:
    """The benchmark's first scenes in each of the world's two styles."""
    atlas = shipped_atlas()
    of_styles = zip(*scenes_in_styles(atlas.world, count), strict=True)
    return tuple(rendered(list(scenes), atlas) for scenes in of_styles)


def test_the_same_scenes_in_every_style() -> None:
    world = shipped_atlas().world
    for of_styles in scenes_in_styles(world, 20):
        assert tuple(scene.style for scene in of_styles) == world.styles
        assert len({(scene.things, scene.background) for scene in of_styles}) == 1
        assert not any(scene in held_out(world) for scene in of_styles)


def test_sets_are_told_apart() -> None:
    noto, flat = drawn_in_styles(200)
    same, other = set_distances(noto[::2], noto[1::2]), set_distances(noto[::2], flat[1::2])
    assert set(same) >= {"Fréchet (emoji-clip)", "kernel x 1000 (emoji-clip)"}
    assert set_distances(noto[:20], flat[:30]).keys() == {
        "Fréchet (emoji-clip)",
        "kernel x 1000 (emoji-clip, subsets of 20)",  # a lowered subset is told
    }
    assert all(other[name] > same[name] for name in ("Fréchet (emoji-clip)", "kernel x 1000 (emoji-clip)"))
    assert set_distances(noto[:3], flat) == {}  # too few to say anything


def test_summaries_name_the_network(tmp_path: Path) -> None:
    benchmark = Translation(steps=2)
    rows = run(benchmark, benchmark.configurations(["unedited"], []), tmp_path, load_emoji, limit=24)
    totals = benchmark.summarise(rows, tmp_path)
    assert totals["Fréchet (emoji-clip), noto → flat"] > 0
    assert "kernel x 1000 (emoji-clip, subsets of 24), noto → flat" in totals  # unbiased: it may fall below 0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    data = tmp_path / "data"
    for side, name in (("source", "cat"), ("target", "dog")):
        (data / side).mkdir(parents=True)
        with Image.open(EXAMPLES / f"{name}.png") as image:
            image.save(data / side / f"{name}.png")
    triplets = [{"image": "source/cat.png", "source": "a cat", "target": "a dog"}]
    (data / "triplets.json").write_text(json.dumps(triplets))
    return data


def test_translates_a_folder(folder: Path, tmp_path: Path) -> None:
    benchmark = Translation(data=folder, source_prompt="a cat", target_prompt="a dog", steps=2)
    (row,) = run(benchmark, benchmark.configurations(["ddib"], []), tmp_path / "run", load_emoji)
    assert row["status"] == "done", row
    assert "pair_psnr" not in row["figures"]  # nobody knows the true pair
    assert benchmark.summarise([row], tmp_path / "run") == {}


def test_refuses_what_two_models_cannot_do(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="sdedit works with one model"):
        Translation(data=folder, source_model="emoji").configurations(["sdedit"], [])
    with pytest.raises(UsageError, match="source cannot be read"):
        Translation(data=tmp_path)
    (folder / "target" / "dog.png").unlink()
    with pytest.raises(UsageError, match="holds no images"):
        Translation(data=folder)


def test_keeps_the_trial_that_the_judge_likes(tmp_path: Path) -> None:
    benchmark = ZeroShot(steps=2, trials=2)
    assert {case.kind for case in benchmark.cases()} == {"swap-near", "swap-far", "style"}
    configurations = benchmark.configurations(["unedited", "sdedit", "ddib"], [])
    rows = run(benchmark, configurations, tmp_path, load_emoji, limit=1)
    unedited, sdedit, ddib = sorted(rows, key=lambda row: ["unedited", "sdedit", "ddib"].index(row["method"]))
    assert unedited["figures"]["directional"] == pytest.approx(0, abs=1e-5)
    assert sdedit["figures"]["clip"] >= sdedit["figures"]["clip_first"]
    assert ddib["figures"]["clip"] == ddib["figures"]["clip_first"]  # nothing is drawn: one trial


def test_reads_triplets(folder: Path) -> None:
    (case,) = ZeroShot(data=folder).cases()
    assert case.title == "a cat → a dog"
    (folder / "triplets.json").write_text('[{"image": "x"}]')
    with pytest.raises(UsageError, match="a list of objects with image, source and target"):
        ZeroShot(data=folder)
    with pytest.raises(UsageError, match="trials must be at least 1"):
        ZeroShot(trials=0)


def test_morphs_by_method_and_spacing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(morphs, "NUM_FRAMES", 9)
    benchmark = Morphs(steps=2, encode_steps=0)
    kinds = [case.kind for case in benchmark.cases()]
    assert {kind: kinds.count(kind) for kind in kinds} == dict.fromkeys(KINDS, 6)
    for kind, (first, second) in emoji_pairs():
        assert (first[1] == second[1]) >= (kind == "same style")
        assert (first[0] == second[0]) == (kind == "two styles")
    even, uniform = (
        run(benchmark, benchmark.configurations(["crossfade"], [name]), tmp_path / name, load_emoji, limit=limit)
        for name, limit in (("even", 5), ("uniform", 2))
    )
    assert {row["status"] for row in (*even, *uniform)} == {"done"}, [row.get("error") for row in (*even, *uniform)]
    assert (len(even), len(uniform)) == (5, 2)
    before = {row["case"]: row["figures"] for row in even}
    for row in uniform:
        assert row["figures"]["max_over_mean"] <= 1.15
        assert row["figures"]["max_over_mean"] < before[row["case"]]["max_over_mean"]
    assert all(row["figures"]["end_psnr"] == 50 for row in even)
    totals = benchmark.summarise(even, tmp_path / "even")
    assert totals["FID of inputs and frames (emoji-clip)"] > 0
    with pytest.raises(UsageError, match="did you mean 'uniform'"):
        benchmark.configurations(["crossfade"], ["unifrom"])


def test_morphs_of_a_folder_with_finite_differences(folder: Path, tmp_path: Path) -> None:
    pairs = [{"first": "source/cat.png", "second": "target/dog.png", "prompts": ["a cat", "a dog"]}]
    (folder / "pairs.json").write_text(json.dumps(pairs))
    benchmark = Morphs(data=folder, distance="pixel", finite_differences=True, encode_steps=0)
    (row,) = run(benchmark, benchmark.configurations(["crossfade"], ["even"]), tmp_path / "run", load_emoji)
    assert row["status"] == "done", row
    # a cross-fade is a straight line: every distance is its length times the difference of the weights
    assert row["figures"]["ppl_differences"] == pytest.approx(row["figures"]["ppl"] * 1e4, rel=0.05)
    with pytest.raises(UsageError, match=r"pairs\.json"):
        Morphs(data=tmp_path)


def test_benchmarks_by_name(folder: Path) -> None:
    assert make_benchmark("zero-shot", trials=2, seed=1).settings["trials"] == 2
    with pytest.raises(UsageError, match="did you mean 'translation'"):
        make_benchmark("translations")
    with pytest.raises(UsageError, match="does not take these options"):
        make_benchmark("emoji-edit", protocol="strict")
    with pytest.raises(UsageError, match="does not take these options: name"):
        make_benchmark("emoji-edit", name="other")
    with pytest.raises(UsageError, match="does not take these options"):
        make_benchmark("pie", texts={"measures": "[]"})


@pytest.mark.parametrize(
    ("name", "texts"),
    [
        ("emoji-edit", {"steps": "x"}), ("emoji-edit", {"steps": "0"}), ("emoji-edit", {"steps": "2.5"}),
        ("emoji-edit", {"seed": "NaN"}), ("emoji-edit", {"seed": "-1"}), ("emoji-edit", {"seed": "[" * 100_000}),
        ("zero-shot", {"trials": "many"}), ("zero-shot", {"trials": "9" * 5000}), ("morphs", {"encode_steps": "-1"}),
        ("morphs", {"finite_differences": "perhaps"}), ("morphs", {"fit": "squash"}), ("pie", {"masks": "2"}),
    ],
)  # fmt: skip
def test_options_of_another_type_are_refused(name: str, texts: dict[str, str]) -> None:
    with pytest.raises(UsageError, match=next(iter(texts))) as caught:
        make_benchmark(name, texts=texts)
    assert len(str(caught.value)) < 400


def test_words_for_yes_and_no_are_read_as_such() -> None:
    made = make_benchmark("morphs", texts={"finite_differences": "no", "distance": "none", "steps": "3"})
    assert (made.settings["finite differences"], made.settings["steps"]) == (False, 3)


@pytest.mark.parametrize(
    "pair",
    [
        {"prompts": "a cat"}, {"prompts": ["a cat", 5]}, {"prompts": []}, {"prompts": ["a", "b", "c"]},
        {"prompts": None}, {"prompts": {"first": "a cat"}}, {"prompt": ["a cat", "a dog"]}, {"first": 5},
        {"second": None}, {"first": ["x"]}, {"prompts": ["\ud800", "a"]}, 5, None, "cat", [],
    ],
)  # fmt: skip
def test_pairs_of_another_type_are_refused(folder: Path, pair: Any) -> None:
    good = {"first": "source/cat.png", "second": "target/dog.png"}
    entries = [good, {**good, **pair} if isinstance(pair, dict) else pair]
    (folder / "pairs.json").write_text(json.dumps(entries))
    with pytest.raises(UsageError, match=r"pairs\.json, entry 2: .*"):
        Morphs(data=folder)


@pytest.mark.parametrize("text", ["{}", "[]", "5", "", "[" * 100_000, '"a cat"'])
def test_lists_that_are_none_are_refused(folder: Path, text: str) -> None:
    for name, kind in (("pairs.json", Morphs), ("triplets.json", ZeroShot)):
        (folder / name).write_text(text)
        with pytest.raises(UsageError, match=name):
            kind(data=folder)


def test_triplets_of_another_type_are_refused(folder: Path) -> None:
    good = {"image": "source/cat.png", "source": "a cat", "target": "a dog"}
    for bad in ({**good, "source": ["a cat"]}, {**good, "image": 5}, "cat", None):
        (folder / "triplets.json").write_text(json.dumps([good, bad]))
        with pytest.raises(UsageError, match=r"triplets\.json, entry 2"):
            ZeroShot(data=folder)


def morph_rows(folder: Path, out: Path, **options: Any) -> list[dict[str, Any]]:
    benchmark = Morphs(data=folder, distance="pixel", encode_steps=0, **options)
    return run(benchmark, benchmark.configurations(["crossfade"], ["even"]), out, load_emoji)


def test_images_are_never_squashed_unasked(folder: Path, tmp_path: Path) -> None:
    with Image.open(folder / "source" / "cat.png") as image:
        image.convert("RGB").resize((192, 128)).save(folder / "source" / "wide.png")
        image.convert("RGB").resize((256, 256)).save(folder / "source" / "large.png")
    sizes = [("wide", "cat"), ("cat", "wide"), ("large", "cat")]
    pairs = [{"first": f"source/{first}.png", "second": f"source/{second}.png"} for first, second in sizes]
    (folder / "pairs.json").write_text(json.dumps(pairs))
    wide, other, large = morph_rows(folder, tmp_path / "unasked")
    for row in (wide, other):
        assert row["error"].startswith("ImageError: the image has 192x128 pixels, and morphs are measured at 128x128")
        assert "--set fit=crop" in row["error"]
    assert large["status"] == "done"  # the same proportions, scaled
    fitted = morph_rows(folder, tmp_path / "fitted", fit="crop")
    assert [row["status"] for row in fitted] == ["done"] * 3
    with Image.open(tmp_path / "fitted" / fitted[0]["pictures"]["first"]) as image:
        assert image.size == (128, 128)


def test_sizes_that_the_model_does_not_allow_are_fitted_as_asked(folder: Path, tmp_path: Path) -> None:
    with Image.open(folder / "source" / "cat.png") as image:
        image.convert("RGB").resize((70, 66)).save(folder / "source" / "cat.png")
    (folder / "triplets.json").write_text(
        json.dumps([{"image": "source/cat.png", "source": "a cat", "target": "a dog"}])
    )
    for number, kind in enumerate((Translation, ZeroShot)):
        for fit in (None, "crop"):
            benchmark = kind(data=folder, fit=fit)  # type: ignore[arg-type]
            if kind is ZeroShot:
                benchmark.__dict__["_judge"] = ZeroShot()._judge  # the embedded one: there is no CLIP here
            configurations = benchmark.configurations(["unedited"], [])
            (row,) = run(benchmark, configurations, tmp_path / f"{number}-{fit}", load_emoji)
            if fit is None:
                assert "fit: crop, pad, resize" in row["error"]
            else:
                assert row["status"] == "done", row
                assert row["figures"]["psnr"] == 50


def test_data_stay_inside_their_folder(folder: Path, tmp_path: Path) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "secret.png")
    good = "source/cat.png"
    pairs = [{"first": path, "second": good} for path in ("../secret.png", str(tmp_path / "secret.png"))]
    (folder / "pairs.json").write_text(json.dumps(pairs))
    assert all("leads outside" in row["error"] for row in morph_rows(folder, tmp_path / "run"))
    (folder / "triplets.json").write_text(json.dumps([{"image": "../secret.png", "source": "a", "target": "b"}]))
    benchmark = ZeroShot(data=folder)
    with pytest.raises(ImageError, match="leads outside"):
        benchmark.attempt(None, benchmark.cases()[0], benchmark.configurations(["unedited"], [])[0])  # type: ignore[arg-type]
    (folder / "source" / "link.png").symlink_to(tmp_path / "secret.png")
    translation = Translation(data=folder)
    linked = next(case for case in translation.cases() if case.name == "link")
    with pytest.raises(ImageError, match="leads outside"):
        translation.attempt(None, linked, translation.configurations(["unedited"], [])[0])  # type: ignore[arg-type]


def test_sets_of_several_sizes_are_measured(tmp_path: Path) -> None:
    pictures, _ = drawn_in_styles(24)
    mixed = [picture.resize((128 + 8 * (k % 3), 128)) for k, picture in enumerate(pictures)]
    assert set_distances(mixed, pictures).keys() == set_distances(pictures, pictures).keys()
    (tmp_path / "damaged.png").write_text("no image")
    with pytest.raises(ImageError, match="not an image"):
        set_distances([*pictures, tmp_path / "damaged.png"], pictures)
