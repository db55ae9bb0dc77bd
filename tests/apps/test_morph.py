"""`sfumato morph` and `sfumato slider`: files, reports, and one line for whatever is wrong."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sfumato.apps.slider import parse_ranges
from sfumato.errors import UsageError
from sfumato.images import read_recipe
from tests.apps.conftest import pixels, size
from tests.apps.test_bad_inputs import assert_one_error

pytestmark = pytest.mark.usefixtures("loaded_once")

PROMPTS = ("--source", "a photo of a cat", "--target", "a photo of a dog")


@pytest.fixture
def dog(folder: Path) -> Path:
    values = np.random.default_rng(1).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(values).resize((64, 64), Image.Resampling.BICUBIC).save(folder / "dog.png")
    return Path("dog.png")


@pytest.fixture
def morph(run: Any, toy: Path, cat: Path, dog: Path) -> Any:
    def morph(*args: Any, code: int = 0) -> Any:
        fixed = ("--method", "crossfade", "--frames", 5, "--distance", "pixel", "--model", toy, "--device", "cpu")
        return run(
            "morph", *([] if "NONE" in args else [cat, dog]), *fixed, *(a for a in args if a != "NONE"), code=code
        )

    return morph


def test_morph_says_what_it_did(morph: Any) -> None:
    result = morph("-o", "out.gif", "--strip", "strip.png", "--plot", "plot.png", "-p", "a cat", "-p", "a dog")
    for words in ("out.gif, strip.png, plot.png", "largest step over mean 1.00", "exactly", "0 network evaluations"):
        assert words in result.stdout
    with Image.open("out.gif") as movie:
        assert (movie.size, getattr(movie, "n_frames", 1)) == ((256, 256), 5)
    assert read_recipe("strip.png") == read_recipe("plot.png") == read_recipe("out.gif")
    assert read_recipe("out.gif")["prompts"] == ["a cat", "a dog"]


def test_json_is_alone_on_stdout(morph: Any) -> None:
    answer = json.loads(morph("-o", "out.webp", "--json").stdout)
    assert (answer["command"], answer["output"], answer["frames"]) == ("morph", "out.webp", 5)
    assert answer["weights"] == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert len(answer["distances"]) == 4
    assert answer["endpoint_psnr"] == [None, None]  # exact
    assert answer["recipe"] == read_recipe("out.webp")


def test_default_name_is_free(morph: Any, cat: Path) -> None:
    before = pixels(cat)
    for name in ("cat-to-dog.webp", "cat-to-dog-v2.webp"):
        morph()
        assert Path(name).is_file()
    assert pixels(cat) == before


def test_a_circle_with_a_time_for_each_image(morph: Any, cat: Path, dog: Path) -> None:
    morph("NONE", cat, dog, cat, "-o", "out.apng", "--hold", 1, "--hold", 2, "--fps", 10, "--easing", "smooth",
          "--inbetweens", 1)  # fmt: skip
    with Image.open("out.apng") as movie:
        seconds = [movie.info["duration"] / 1000 for k in range(movie.n_frames) if movie.seek(k) is None]  # type: ignore[attr-defined]
    assert len(seconds) == 16  # twice 4 steps and as many in between; the last frame, which is the first, is left out
    assert (seconds[0], seconds[8]) == (1.0, 2.0)
    assert max(seconds[1:8]) < 0.15


def test_folder_path_and_options(morph: Any, cat: Path, dog: Path) -> None:
    morph("NONE", cat, dog, cat, "-o", "frames", "--set", "space=latents", "--spacing", "step",
          "--set-spacing", "delta=0.3", "--fit", "crop")  # fmt: skip
    assert size("frames/frame-000.png") == (64, 64)
    recipe = read_recipe("frames/frame-001.png")
    assert recipe["options"] == {"space": "latents"}
    assert recipe["spacing_options"] == {"delta": 0.3}
    assert recipe["weights"][-1] == 2.0
    assert len(list(Path("frames").iterdir())) == len(recipe["weights"])


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (("--method", "impuls"), 2, ("unknown morph method 'impuls'", "did you mean 'impus'")),
        (("--spacing", "evn"), 2, ("unknown spacing 'evn'", "did you mean 'even'")),
        (("--distance", "lpip-alex"), 2, ("unknown distance 'lpip-alex'", "did you mean 'lpips-alex'")),
        (("--frames", "2"), 2, ("--frames must be at least 3", "2")),
        (("--set", "spce=latents"), 2, ("unknown option 'spce' of crossfade", "'space'")),
        (("--set-spacing", "delta=2"), 2, ("unknown option 'delta' of even",)),
        (("--fps", "99"), 2, ("fps for .gif must be in [0.1, 50], got 99",)),
        (("--hold", "-1"), 2, ("hold must be in [0, 60]",)),
        (("--hold", "1", "--hold", "2", "--hold", "3"), 2, ("one time for all or one for each of 2 images, got 3",)),
        (("--inbetweens", "32"), 2, ("--inbetweens must be a whole number in [0, 31], got 32",)),
        (("--easing", "wild"), 2, ("linear", "smooth")),
        (("--scale", "0"), 2, ("--scale must be a whole number in [1, 64], got 0",)),
        (("-o", "out.avi"), 1, ("cannot write out.avi", ".webp, .mp4, .webm, .mov, .gif, .apng")),
        (("-o", "missing/out.gif"), 1, ("missing does not exist", "mkdir -p missing")),
        (("-o", "missing/out"), 1, ("does not exist", "mkdir -p")),
        (("--strip", "cat.png"), 2, ("cat.png is an input", "choose another name")),
        (("-p", "a", "-p", "b", "-p", "c"), 2, ("prompts must be one for all or one for each of 2 images, got 3",)),
        (("NONE", "cat.png"), 2, ("at least two images, got 1",)),
        (("NONE", "cat.png", "cat.png"), 2, ("identical", "nothing to morph")),
        (("NONE", "cat.png", "nothing.png"), 1, ("there is no file nothing.png", "check the path")),
        (("NONE", "cat.png", "small.png"), 1, ("must have one size", "32x32", "crop, pad, resize")),
        (("--store", "x", "--no-store"), 2, ("--no-store",)),
    ],
)
def test_usage(morph: Any, folder: Path, args: tuple[str, ...], code: int, says: tuple[str, ...]) -> None:
    Image.new("RGB", (32, 32)).save(folder / "small.png")
    before = sorted(folder.iterdir())
    assert_one_error(morph(*args, *([] if "-o" in args else ["-o", "out.gif"]), code=code), *says)
    assert sorted(folder.iterdir()) == before


def test_no_perceptual_model(morph: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SFUMATO_WEIGHTS", "TORCH_HOME", "SFUMATO_CACHE"):
        monkeypatch.setenv(name, str(folder / "nothing"))
    result = morph("--distance", "lpips-alex", "-o", "out.gif", code=2)
    assert_one_error(result, "'lpips-alex' needs weights that are missing", "distance='pixel' needs none")


def test_a_full_disk(morph: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sfumato.images import video

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(video, "write_stream", full)
    before = sorted(folder.iterdir())
    assert_one_error(morph("-o", "out.mp4", code=1), "cannot write out.mp4", "No space left on device")
    assert sorted(folder.iterdir()) == before


def test_stopping_says_where_the_work_is(morph: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sfumato.api import morph as morphing

    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(morphing, "drawing", stop)
    before = sorted(folder.iterdir())
    result = morph("-o", "out.gif", "--store", "kept", code=130)
    assert "what was trained so far is in kept: the same command continues from there" in result.stderr
    assert "stopped" in result.stderr
    assert "kept" not in morph("-o", "out.gif", "--no-store", code=130).stderr
    assert sorted(folder.iterdir()) == before


# --- sliders --------------------------------------------------------------------------------------------------------


@pytest.fixture
def slide(run: Any, toy: Path, cat: Path) -> Any:
    def slide(*args: Any, code: int = 0) -> Any:
        fixed = ("--frames", 3, "--spacing", "even", "--steps", 2, "--distance", "pixel", "--model", toy)
        return run("slider", cat, *PROMPTS, *fixed, "--device", "cpu", *args, code=code)

    return slide


def test_slider(slide: Any, run: Any, cat: Path, toy: Path) -> None:
    slide("-o", "frames", "--inversion", "ddim")
    run("edit", cat, *PROMPTS, "--steps", 2, "--model", toy, "--inversion", "ddim", "-o", "full.png")
    assert pixels(Path("frames/frame-002.png")) == pixels(Path("full.png"))
    assert read_recipe("frames/frame-000.png")["command"] == "slider"


def test_slider_varies_options(slide: Any) -> None:
    answer = json.loads(slide("--vary", "weights.dog=0..2", "--vary", "guidance-scale=1..3", "--json").stdout)
    assert answer["output"] == "cat-slider.webp"
    assert answer["recipe"]["vary"] == {"weights": {"dog": [0.0, 2.0]}, "guidance_scale": [1.0, 3.0]}


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("--vary", "weights.dog=2"), ("--vary takes NAME=LOW..HIGH", "weights.red=0..3")),
        (("--vary", "weigths.dog=0..2"), ("unknown option 'weigths'", "'weights'")),
        (("--vary", "weights.horse=0..2"), ("'horse' is not in the prompt",)),
        (("--method", "auto"), ("auto chooses anew for every frame",)),
        (("--target", "a photo of a cat"), ("needs a target prompt that differs",)),
        (("--frames", "1"), ("--frames must be at least 3",)),
    ],
)
def test_slider_usage(slide: Any, folder: Path, args: tuple[str, ...], says: tuple[str, ...]) -> None:
    before = sorted(folder.iterdir())
    assert_one_error(slide(*args, "-o", "out.gif", code=2), *says)
    assert sorted(folder.iterdir()) == before


def test_ranges() -> None:
    assert parse_ranges(["weights.red=0..3", "weights.cat = -1 .. 1e0", "cross-replace-steps=.2..0.8"]) == {
        "weights": {"red": (0.0, 3.0), "cat": (-1.0, 1.0)},
        "cross_replace_steps": (0.2, 0.8),
    }
    for wrong in ("amount", "amount=3", "=0..1", "weights.=0..1", "amount=a..b"):
        with pytest.raises(UsageError, match=r"--vary takes NAME=LOW\.\.HIGH"):
            parse_ranges([wrong])
    for twice in (["a=0..1", "a=0..2"], ["w.x=0..1", "w.x=0..2"], ["w=0..1", "w.x=0..2"]):
        with pytest.raises(UsageError, match="is given twice"):
            parse_ranges(twice)


def test_a_slider_takes_the_masks_of_an_edit(run: Any, toy: Path, cat: Path) -> None:
    prompts = ("-s", "a photo of a cat", "-t", "a photo of a dog")
    mask = Image.new("L", (64, 64), 0)
    mask.paste(255, (0, 0, 32, 64))
    mask.save("mask.png")
    common = ("--model", toy, "--steps", 2, "--frames", 3, "--spacing", "even", "--distance", "pixel", "-o")
    masked = ("--mask", "mask.png", "--mask-pixels", "--mask-feather", 4, "--mask-invert")
    answer = json.loads(run("slider", cat, *prompts, *masked, *common, "frames", "--json").stdout)
    said = {"path": "mask.png", "words": [], "threshold": 0.4, "feather": 4.0, "invert": True, "pixels": True}
    assert {name: answer["recipe"]["mask"][name] for name in said} == said
    with Image.open(cat) as source:
        for frame in sorted(Path("frames").glob("*.png")):
            with Image.open(frame) as image:
                assert image.convert("RGB").crop((0, 0, 32, 64)).tobytes() == source.crop((0, 0, 32, 64)).tobytes()
    words = ("--mask-words", "cat", "--mask-threshold", 0.7)
    answer = json.loads(run("slider", cat, *prompts, *words, *common, "words", "--json").stdout)
    assert answer["recipe"]["mask"]["words"] == ["cat"]
    error = run("slider", cat, *prompts, "--mask-pixels", *common, "bad", code=2).stderr
    assert "need a mask" in error


def test_transparent_images_on_the_command_line(run: Any, toy: Path, cat: Path) -> None:
    with Image.open(cat) as image:
        image.putalpha(Image.linear_gradient("L").resize(image.size))
        image.save("clear.png")
    prompts = ("-s", "a photo of a cat", "-t", "a photo of a dog", "--model", toy, "--steps", 2)
    run("edit", "clear.png", *prompts, "-o", "clear-dog.png")
    run("edit", "--like", "clear-dog.png", "--no-alpha", "--model", toy, "-o", "opaque-dog.png")
    with Image.open("clear-dog.png") as clear, Image.open("opaque-dog.png") as opaque:
        assert (clear.mode, opaque.mode) == ("RGBA", "RGB")
    few = ("--frames", 3, "--spacing", "even", "--distance", "pixel")
    for option, mode in (("--alpha", "RGBA"), ("--no-alpha", "RGB")):
        run("slider", "clear.png", *prompts, *few, option, "-o", f"frames{option}")
        for frame in Path(f"frames{option}").glob("*.png"):
            with Image.open(frame) as image:
                assert image.mode == mode
