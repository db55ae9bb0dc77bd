"""Whatever is wrong, the answer is an exit code and one line that names the value and the remedy; no file is left."""

import os
import pickle
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

PROMPTS = ("--source", "a photo of a cat", "--target", "a photo of a dog")


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def missing(folder: Path, cat: Path) -> None:
    pass


def a_folder(folder: Path, cat: Path) -> None:
    (folder / "in.png").mkdir()


def a_text(folder: Path, cat: Path) -> None:
    (folder / "in.png").write_text("not an image")


def truncated(folder: Path, cat: Path) -> None:
    (folder / "in.png").write_bytes(cat.read_bytes()[:-400])


def one_pixel(folder: Path, cat: Path) -> None:
    Image.new("RGB", (1, 1)).save(folder / "in.png")


def huge(folder: Path, cat: Path) -> None:
    (folder / "in.png").write_bytes(png_header(20_000, 20_000))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (missing, ("there is no file in.png", "check the path")),
        (a_folder, ("in.png is a folder", "give one image file")),
        (a_text, ("in.png is not an image", "convert it to PNG")),
        (truncated, ("in.png is truncated or damaged", "download it again")),
        (one_pixel, ("1x1 pixels", "resize it to 8x8")),
        (huge, ("in.png", "64 megapixels", "make it smaller")),
    ],
)
@pytest.mark.parametrize("command", ["edit", "invert"])
def test_picture(
    make: Callable[[Path, Path], None],
    says: tuple[str, ...],
    command: str,
    folder: Path,
    cat: Path,
    toy: Path,
    run: Any,
) -> None:
    make(folder, cat)
    before = sorted(folder.iterdir())
    prompts = PROMPTS if command == "edit" else PROMPTS[:2]
    result = run(command, "in.png", *prompts, "--model", toy, "--steps", 2, code=1)
    assert_one_error(result, *says)
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("--method", "promt-to-prompt"), ("unknown method 'promt-to-prompt'", "did you mean 'prompt-to-prompt'")),
        (("--inversion", "dimm"), ("unknown inversion 'dimm'", "ddim")),
        (("--set", "self_replace_step=0.4"), ("unknown option 'self_replace_step'", "'self_replace_steps'")),
        (("--set", "self_replace_steps=1.5"), ("self_replace_steps must be in [0, 1], got 1.5",)),
        (("--set", "self_replace_steps=often"), ("self_replace_steps must be", "'often'")),
        (("--set", "edit=swap"), ("edit must be one of auto, replace, refine, none, got 'swap'",)),
        (("--set", "edit"), ("--set takes name=value, got 'edit'",)),
        (("--set", "edit=none", "--set", "edit=auto"), ("--set edit is given twice",)),
        (("--weight", "dog"), ("--weight takes WORD=FACTOR", "'dog'")),
        (("--weight", "dog=much"), ("--weight takes WORD=FACTOR", "'dog=much'")),
        (("--weight", "horse=2"), ("'horse' is not in the prompt", "a, photo, of, a, dog")),
        (("--guidance", "-3"), ("guidance_scale must be in [1, 100]", "-3")),
        (("--steps", "0"), ("--steps", "1")),
        (("--steps", "100000"), ("1000", "100000")),
        (("--size", "big"), ("--size must be WIDTHxHEIGHT", "'big'")),
        (("--size", "63x64"), ("63x64 is not allowed", "64x64")),
        (("--device", "quantum"), ("device must be one of", "'quantum'")),
        (("--dtype", "int8"), ("dtype must be one of", "'int8'")),
        (("--source", " "), ("source_prompt is empty", "a cat")),
        (("--target", ""), ("target_prompt is empty", "a dog")),
        (("--source", "blue cat", "--set", "edit=replace"), ("equally many words", "'blue cat'")),
        (("-o", "cat.png"), ("cat.png is an input", "choose another name")),
        (("--fit", "squash"), ("squash", "crop")),
    ],
)
def test_usage(args: tuple[str, ...], says: tuple[str, ...], folder: Path, cat: Path, toy: Path, run: Any) -> None:
    prompts = [] if "--target" in args else ["--target", PROMPTS[3]]
    prompts += [] if "--source" in args else ["--source", PROMPTS[1]]
    output = [] if "-o" in args else ["-o", "out.png"]
    steps = [] if "--steps" in args else ["--steps", "2"]
    result = run("edit", cat, *prompts, *output, *steps, "--model", toy, *args, code=2)
    assert_one_error(result, *says)
    assert [path.name for path in folder.iterdir()] == ["cat.png"]


def test_replace_without_a_common_word(folder: Path, cat: Path, toy: Path, run: Any) -> None:
    prompts = ("--source", "red cat", "--target", "blue house")
    result = run("edit", cat, *prompts, "--model", toy, "--steps", 2, "--set", "edit=replace", code=2)
    assert_one_error(result, "no word in common", "'red cat'", "describe the whole image in both")
    assert [path.name for path in folder.iterdir()] == ["cat.png"]


def test_prompts_are_asked_for(cat: Path, run: Any) -> None:
    assert_one_error(run("edit", cat, "--source", "a cat", code=2), "--target is missing")
    assert_one_error(run("edit", cat, "--target", "a cat", code=2), "--source is missing")
    assert "PROMPT" in run("generate", code=2).stderr.upper()


@pytest.mark.parametrize(
    ("output", "says"),
    [
        ("nowhere/out.png", ("folder nowhere does not exist", "mkdir -p nowhere")),
        ("taken.png", ("taken.png: it is a folder", "choose another name")),
        ("cat.png/out.png", ("cat.png is not a folder",)),
        ("out.xyz", ("out.xyz", ".png")),
    ],
)
def test_output(output: str, says: tuple[str, ...], folder: Path, cat: Path, run: Any) -> None:
    (folder / "taken.png").mkdir()
    # the model is not there either: the output is looked at first
    result = run("edit", cat, *PROMPTS, "-o", output, "--model", "no-such-model.safetensors", code=1)
    assert_one_error(result, "cannot write", *says)
    assert sorted(path.name for path in folder.iterdir()) == ["cat.png", "taken.png"]


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write everywhere")
def test_output_without_rights(folder: Path, cat: Path, run: Any) -> None:
    locked = folder / "locked"
    locked.mkdir(mode=0o555)
    assert_one_error(run("edit", cat, *PROMPTS, "-o", locked / "out.png", code=1), "cannot write", "denied")


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder that not even root can write into")
def test_output_in_a_folder_that_takes_no_files(cat: Path, run: Any) -> None:
    assert_one_error(run("edit", cat, *PROMPTS, "-o", "/proc/out.png", code=1), "cannot write /proc/out.png", "choose")


def test_inversion_goes_to_safetensors(cat: Path, run: Any) -> None:
    assert_one_error(run("invert", cat, "-o", "cat.png", code=1), "cat.png", ".safetensors")


def without_weights(toy: Path, folder: Path) -> str:
    shutil.copytree(toy, folder / "model")
    for file in (folder / "model" / "unet").glob("*.safetensors"):
        file.unlink()
    return "model"


def pickled(toy: Path, folder: Path) -> str:
    (folder / "model.ckpt").write_bytes(pickle.dumps({"state_dict": {}}))
    return "model.ckpt"


def pickled_folder(toy: Path, folder: Path) -> str:
    without_weights(toy, folder)
    (folder / "model" / "unet" / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps({}))
    return "model"


def no_model(toy: Path, folder: Path) -> str:
    (folder / "empty").mkdir()
    return "empty"


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (without_weights, ("model has no weights for unet", "unet/*.safetensors")),
        (pickled, ("model.ckpt is a pickle", "convert it to safetensors")),
        (pickled_folder, ("only as a pickle", "convert it to safetensors")),
        (no_model, ("empty has no model_index.json",)),
        (lambda toy, folder: "sd-15", ("there is no model 'sd-15'", "did you mean sd15")),
        (lambda toy, folder: "./gone", ("there is no model file or folder ./gone",)),
    ],
    ids=["without-weights", "pickle", "pickles-in-folder", "no-model", "misspelt", "gone"],
)
def test_model(
    make: Callable[[Path, Path], str], says: tuple[str, ...], toy: Path, folder: Path, cat: Path, run: Any
) -> None:
    model = make(toy, folder)
    before = sorted(folder.iterdir())
    assert_one_error(run("edit", cat, *PROMPTS, "--model", model, code=1), *says)
    assert_one_error(run("generate", "a cat", "--model", model, code=1), *says)
    assert sorted(folder.iterdir()) == before


def test_text_of_the_user_is_not_read_as_markup(cat: Path, run: Any) -> None:
    result = run("edit", cat, *PROMPTS, "--method", "[bold]x[/bold]\x1b[2J", code=2)
    assert_one_error(result, "[bold]x[/bold]")
    assert "\x1b" not in result.stderr


def assert_one_error(result: Any, *says: str) -> None:
    """Nothing on stdout; on stderr one line that says all of this (typer draws its own errors in a box)."""
    assert result.stdout == ""
    ours = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    boxed = " ".join(line.strip("│╭╰─╮╯ ") for line in result.stderr.splitlines())
    text = ours[0] if ours else boxed
    assert len(ours) == 1 or "Usage:" in result.stderr
    for words in says:
        assert words in text, f"{words!r} is not in {text!r}"
