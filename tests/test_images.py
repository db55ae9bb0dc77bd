"""Images of every kind to RGB, sizes, tensors and files: what comes out, and what is said when nothing can."""

import io
import json
import os
import struct
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

from sfumato.errors import ImageError, UsageError
from sfumato.images import (
    check_writable,
    fit_image,
    load_image,
    png_bytes,
    read_recipe,
    recipe_in,
    save_image,
    to_images,
    to_pixels,
)


def picture(width: int = 20, height: int = 12, seed: int = 0) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def same(first: Image.Image, second: Image.Image) -> bool:
    return first.mode == second.mode and bool(np.array_equal(np.asarray(first), np.asarray(second)))


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


# --- images in: the same image by every way ----------------------------------------------------------------------


def test_every_kind_of_source_gives_the_same_picture(tmp_path: Path) -> None:
    image = picture()
    path = tmp_path / "picture.png"
    image.save(path)
    values = np.asarray(image)
    sources = [path, str(path), path.read_bytes(), image, values, values / 255.0, values.astype(np.uint16) * 257]
    sources += [values.astype(np.float32) / 255, to_pixels(image), to_pixels(image)[0], to_pixels(image).double()]
    for source in sources:
        loaded = load_image(source)
        assert same(loaded.image, image), type(source)
        assert loaded.notes == ()


def test_the_callers_picture_is_left_alone() -> None:
    image = picture()
    loaded = load_image(image).image
    loaded.putpixel((0, 0), (1, 2, 3))
    assert same(image, picture())


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".tiff", ".webp"])
def test_exif_orientation_is_honoured(tmp_path: Path, orientation: int, suffix: str) -> None:
    upright = picture()
    undo = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[orientation]  # PIL transposes; 6 and 8 undo each other
    stored = upright if undo is None else upright.transpose(Image.Transpose(undo))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / f"turned{suffix}", exif=exif, **({"lossless": True} if suffix == ".webp" else {}))
    loaded = load_image(tmp_path / f"turned{suffix}").image
    assert same(loaded, upright)
    assert same(load_image(loaded).image, upright)  # and is not turned once more


def test_alpha_is_composited_on_the_background() -> None:
    rgba = Image.new("RGBA", (2, 1), (200, 0, 0, 255))
    rgba.putpixel((1, 0), (200, 0, 0, 51))  # a fifth of red
    loaded = load_image(rgba)
    assert loaded.notes == ("alpha composited on white",)
    assert [loaded.image.getpixel((x, 0)) for x in (0, 1)] == [(200, 0, 0), (244, 204, 204)]
    assert load_image(rgba, background=(0, 0, 0)).image.getpixel((1, 0)) == (40, 0, 0)
    assert load_image(np.asarray(rgba)).image.getpixel((1, 0)) == (244, 204, 204)


def test_opaque_alpha_is_no_news() -> None:
    assert load_image(picture().convert("RGBA")).notes == ()


def test_palette_with_and_without_transparency(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    assert load_image(image).image.getpixel((1, 0)) == (40, 50, 60)
    image.save(tmp_path / "palette.png", transparency=1)
    loaded = load_image(tmp_path / "palette.png")
    assert [loaded.image.getpixel((x, 0)) for x in (0, 1)] == [(10, 20, 30), (255, 255, 255)]


def test_16_bit_grey_is_scaled_and_not_clipped(tmp_path: Path) -> None:
    levels = np.array([[0, 257, 32896, 65535]], dtype=np.uint16)
    for suffix in (".png", ".tiff"):
        Image.fromarray(levels).save(tmp_path / f"deep{suffix}")
        loaded = load_image(tmp_path / f"deep{suffix}")
        assert np.asarray(loaded.image)[0, :, 1].tolist() == [0, 1, 128, 255]
        assert "16-bit" in loaded.notes[0]
    wide = Image.fromarray(levels.astype(np.int32))
    assert np.asarray(load_image(wide).image)[0, :, 0].tolist() == [0, 1, 128, 255]


def test_a_transparent_16_bit_grey_level(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 500]], dtype=np.uint16)).save(tmp_path / "deep.png", transparency=0)
    assert np.asarray(load_image(tmp_path / "deep.png").image)[0, :, 0].tolist() == [255, 2]


def test_float_grey_must_be_in_range() -> None:
    assert load_image(Image.fromarray(np.array([[0.0, 1.0]], dtype=np.float32))).image.getpixel((1, 0)) == (255,) * 3
    for value in (255.0, -0.5, float("nan")):
        with pytest.raises(ImageError, match=r"scale.* to \[0, 1\]"):
            load_image(Image.fromarray(np.array([[0.0, value]], dtype=np.float32)))


@pytest.mark.parametrize("mode", ["L", "1", "LA", "CMYK", "YCbCr", "HSV", "RGBX", "PA", "La", "RGBa"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    grey = Image.new("L", (3, 2), 255)
    image = grey.convert("LA").convert(mode) if mode == "La" else grey.convert("RGBA").convert(mode)
    loaded = load_image(image)
    assert loaded.image.mode == "RGB"
    assert np.asarray(loaded.image).min() >= 254


@pytest.mark.parametrize("suffix", [".gif", ".png", ".webp"])
def test_animated_pictures_give_the_first_frame_and_say_so(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGB", (4, 4), (60 * index, 0, 0)) for index in range(1, 4)]
    path = tmp_path / f"film{suffix}"
    frames[0].save(path, save_all=True, append_images=frames[1:], **({"lossless": True} if suffix == ".webp" else {}))
    loaded = load_image(path)
    assert loaded.notes[0] == "animated: 3 frames, the first is used"
    assert loaded.image.getpixel((0, 0)) == (60, 0, 0)


def test_the_frame_that_the_caller_chose_is_the_one_used(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), (60 * index, 0, 0)) for index in range(1, 4)]
    frames[0].save(tmp_path / "film.gif", save_all=True, append_images=frames[1:])
    with Image.open(tmp_path / "film.gif") as film:
        film.seek(1)
        loaded = load_image(film)
    assert loaded.notes[0] == "animated: 3 frames, number 2 is used"
    assert loaded.image.getpixel((0, 0)) == (120, 0, 0)


def test_pages_of_a_tiff_are_not_called_animated(tmp_path: Path) -> None:
    picture().save(tmp_path / "fax.tiff", save_all=True, append_images=[picture(seed=1)])
    assert load_image(tmp_path / "fax.tiff").notes == ("2 pages, the first is used",)


# --- images in: what is refused ------------------------------------------------------------------------------------


def _text(folder: Path) -> Path:
    (folder / "notes.png").write_text("these are words")
    return folder / "notes.png"


def _truncated(folder: Path) -> Path:
    picture(64, 64).save(folder / "half.png")
    data = (folder / "half.png").read_bytes()
    (folder / "half.png").write_bytes(data[: len(data) // 2])
    return folder / "half.png"


def _empty(folder: Path) -> Path:
    (folder / "nothing.png").touch()
    return folder / "nothing.png"


def _postscript(folder: Path) -> Path:
    picture().save(folder / "page.eps")
    return folder / "page.eps"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "gone.png", r"there is no file .*gone\.png; check the path"),
        (lambda folder: folder, "is a folder; give one image file"),
        (_text, r"notes\.png is not an image in a known format"),
        (_truncated, r"half\.png is truncated or damaged"),
        (_empty, r"nothing\.png is empty \(0 bytes\)"),
        (_postscript, r"page\.eps is not an image in a known format"),
        (lambda folder: folder / ("x" * 5000), "cannot read"),
        (lambda folder: str(folder / "a\0b.png"), r"there is no file|cannot read"),
    ],
    ids=["missing", "folder", "text", "truncated", "empty", "postscript", "long-name", "null"],
)
def test_files_that_are_no_pictures(tmp_path: Path, make: Callable[[Path], Any], message: str) -> None:
    with pytest.raises(ImageError, match=message):
        load_image(make(tmp_path))


def _without_palette(folder: Path) -> Path:
    Image.new("P", (4, 4)).save(folder / "bare.png")
    data = (folder / "bare.png").read_bytes()
    start = data.index(b"PLTE") - 4
    size = struct.unpack(">I", data[start : start + 4])[0]
    (folder / "bare.png").write_bytes(data[:start] + data[start + 12 + size :])
    return folder / "bare.png"


def test_a_palette_image_without_a_palette_is_refused(tmp_path: Path) -> None:
    for read in (load_image, read_recipe):
        with pytest.raises(ImageError):
            read(_without_palette(tmp_path))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with names")
def test_a_pipe_is_no_image(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    for use in (load_image, read_recipe, lambda path: save_image(picture(), path)):
        with pytest.raises(ImageError, match=r"pipe\.png.*(not a regular file|is a device)"):
            use(tmp_path / "pipe.png")


@pytest.mark.parametrize("where", ["load", "convert", "getexif", "transpose"])
@pytest.mark.parametrize("error", [AssertionError(), SyntaxError("broken"), struct.error("short"), RecursionError()])
def test_whatever_pillow_raises_is_an_image_error(
    monkeypatch: pytest.MonkeyPatch, where: str, error: Exception
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise error

    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    picture().convert("P").save(buffer, "PNG", exif=exif)
    monkeypatch.setattr(PngImagePlugin.PngImageFile if where in ("load", "getexif") else Image.Image, where, broken)
    if where == "getexif":  # that much can be done without
        assert "EXIF data is damaged" in load_image(buffer.getvalue()).notes[0]
        return
    with pytest.raises(ImageError, match="make or download it again"):
        load_image(buffer.getvalue())


def test_many_pages_are_not_all_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sfumato.images import reading

    monkeypatch.setattr(reading, "_MOST_PAGES", 3)
    picture().save(tmp_path / "fax.tiff", save_all=True, append_images=[picture(seed=k) for k in range(5)])
    assert load_image(tmp_path / "fax.tiff").notes == ("more than 3 pages, the first is used",)


def test_a_side_of_millions_is_refused_by_its_header(tmp_path: Path) -> None:
    (tmp_path / "line.png").write_bytes(png_header(1, 64_000_000))
    with pytest.raises(ImageError, match=r"1x64000000 pixels, more than 65535 on one side"):
        load_image(tmp_path / "line.png")


def test_truncated_jpeg_is_refused() -> None:
    buffer = io.BytesIO()
    picture(64, 64).save(buffer, "JPEG")
    with pytest.raises(ImageError, match="truncated"):
        load_image(buffer.getvalue()[:-400])


@pytest.mark.parametrize(
    "address", ["https://example.org/cat.png", "HTTP://x/y", "file:///tmp/a.png", "data:image/png;,"]
)
def test_addresses_are_not_opened(address: str) -> None:
    with pytest.raises(ImageError, match="download it"):
        load_image(address)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("size", [(20_000, 20_000), (10_000, 10_000), (8001, 8000)])
def test_bombs_are_refused_by_their_header(tmp_path: Path, size: tuple[int, int]) -> None:
    (tmp_path / "bomb.png").write_bytes(png_header(*size))
    start = time.perf_counter()
    with pytest.raises(ImageError, match=r"bomb\.png .*more than 64 megapixels|bomb\.png is larger than 64 megapixels"):
        load_image(tmp_path / "bomb.png")
    assert time.perf_counter() - start < 1


def test_headers_without_pixels_are_refused() -> None:
    with pytest.raises(ImageError):
        load_image(png_header(0, 5))
    with pytest.raises(ImageError, match="no pixels"):
        load_image(Image.new("RGB", (0, 5)))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (np.zeros((3, 8, 8), np.uint8), "channels last"),
        (np.zeros((8, 8, 2), np.uint8), r"got \(8, 8, 2\)"),
        (np.zeros((8, 8, 3), np.int64), "got int64"),
        (np.full((8, 8), 1.5), r"must lie in \[0, 1\], got \[1.5, 1.5\]"),
        (np.full((8, 8), np.nan), r"must lie in \[0, 1\]"),
        (np.zeros((0, 8)), "no pixels"),
        (torch.zeros(2, 3, 8, 8), r"got \(2, 3, 8, 8\)"),
        (torch.zeros(8, 8, 3), r"got \(8, 8, 3\)"),
        (torch.zeros(3, 8, 8, dtype=torch.uint8), "divide by 127.5"),
        (torch.full((3, 8, 8), 255.0), r"must lie in \[-1, 1\], got \[255, 255\]"),
        (torch.full((3, 8, 8), torch.nan), r"must lie in \[-1, 1\]"),
        (torch.empty(3, 8, 8, device="meta"), "neither meta nor sparse"),
        (torch.zeros(3, 8, 8).to_sparse(), "neither meta nor sparse"),
        (b"", "are empty"),
        (3, "cannot make an image of int"),
    ],
)
def test_values_that_are_no_pictures(source: Any, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        load_image(source)


# --- sizes -----------------------------------------------------------------------------------------------------------


def test_a_picture_that_fits_is_unchanged() -> None:
    image = picture(64, 32)
    for fit in (None, "crop", "pad", "resize"):
        fitted = fit_image(image, multiple=8, fit=fit)
        assert fitted.image is image
        assert fitted.fit is None


@pytest.mark.parametrize(
    ("size", "options", "nearest"),
    [((67, 36), {}, "64x40"), ((1, 1), {"minimum": 64}, "64x64"), ((64, 64), {"size": (32, 96)}, "32x96")],
)
def test_without_fit_the_nearest_size_is_named(size: tuple[int, int], options: Any, nearest: str) -> None:
    with pytest.raises(ImageError, match=rf"has {size[0]}x{size[1]} pixels.*{nearest}.*crop, pad, resize"):
        fit_image(picture(*size), multiple=8, **options)


def test_crop_keeps_the_pixels_of_the_centre() -> None:
    image = picture(21, 19)
    fitted = fit_image(image, multiple=8, fit="crop")
    assert same(fitted.image, image.crop((2, 1, 18, 17)))
    assert fitted.box == (0, 0, 16, 16)
    assert fitted.restore(fitted.image) is fitted.image


def test_pad_repeats_the_edge_and_can_be_undone() -> None:
    image = picture(21, 19)
    fitted = fit_image(image, multiple=8, fit="pad")
    assert fitted.image.size == (24, 24)
    assert fitted.box == (1, 2, 22, 21)
    assert same(fitted.restore(fitted.image), image)
    assert fitted.image.getpixel((0, 0)) == image.getpixel((0, 0))
    assert fitted.image.getpixel((23, 23)) == image.getpixel((20, 18))
    coloured = fit_image(image, multiple=8, fit="pad", background=(9, 8, 7))
    assert coloured.image.getpixel((0, 0)) == (9, 8, 7)
    assert same(coloured.restore(coloured.image), image)
    with pytest.raises(ImageError, match="24x24"):
        fitted.restore(image)


@pytest.mark.parametrize(("fit", "expected"), [("crop", (64, 32)), ("pad", (72, 40)), ("resize", (64, 40))])
def test_sizes_that_each_fit_chooses(fit: Any, expected: tuple[int, int]) -> None:
    fitted = fit_image(picture(67, 36), multiple=8, fit=fit)
    assert fitted.image.size == expected
    assert fitted.fit == fit
    assert fitted.original_size == (67, 36)


@pytest.mark.parametrize("fit", ["crop", "pad", "resize"])
@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (300, 7)])
def test_extreme_pictures_reach_the_asked_size(fit: Any, size: tuple[int, int]) -> None:
    assert fit_image(picture(*size), multiple=8, size=(64, 32), fit=fit).image.size == (64, 32)
    small = fit_image(picture(*size), multiple=8, minimum=60, fit=fit).image
    assert min(small.size) >= 64
    assert all(side % 8 == 0 for side in small.size)


def test_an_asked_size_keeps_the_proportions_unless_resized() -> None:
    image = Image.new("RGB", (100, 50), (255, 0, 0))
    image.paste((0, 0, 255), (25, 0, 75, 50))  # the middle square is blue
    assert np.asarray(fit_image(image, multiple=8, size=(48, 48), fit="crop").image)[:, 4:44, 2].min() == 255
    padded = fit_image(image, multiple=8, size=(48, 48), fit="pad", background=(0, 255, 0))
    assert padded.box == (0, 12, 48, 36)
    assert padded.restore(padded.image).size == (48, 24)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fit": "stretch"}, "one of crop, pad, resize, got 'stretch'"),
        ({"size": (60, 64), "fit": "crop"}, "60x64 is not allowed.*nearest is 64x64"),
        ({"size": (0, 64), "fit": "crop"}, "0x64 is not allowed.*nearest is 8x64"),
        ({"size": (80_000, 8_000), "fit": "crop"}, "at most 64 megapixels"),
        ({"size": (64.0, 64), "fit": "crop"}, "whole pixels"),
    ],
)
def test_wrong_options_are_usage_errors(options: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        fit_image(picture(), multiple=8, **options)


# --- tensors ---------------------------------------------------------------------------------------------------------


def test_pixels_span_minus_one_to_one_and_come_back() -> None:
    levels = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).convert("RGB")
    pixels = to_pixels(levels)
    assert pixels.shape == (1, 3, 16, 16)
    assert pixels.dtype == torch.float32
    assert (pixels.min(), pixels.max()) == (-1, 1)
    assert pixels[0, 0, 0, 1] > pixels[0, 0, 0, 0] == pixels[0, 2, 0, 0]
    assert same(to_images(pixels)[0], levels)


def test_pixels_are_rounded_and_clamped() -> None:
    half_step = 1 / 255  # half of one of the 255 steps of 2/255
    pixels = torch.tensor([-1.5, -1 + 0.9 * half_step, -1 + 1.1 * half_step, 1.5]).expand(2, 3, 1, 4)
    images = to_images(pixels.requires_grad_())
    assert len(images) == 2
    assert np.asarray(images[1])[0, :, 0].tolist() == [0, 0, 1, 255]


def test_pixels_that_are_no_pictures() -> None:
    with pytest.raises(ImageError, match=r"NaN.*half precision"):
        to_images(torch.full((1, 3, 2, 2), torch.nan))
    with pytest.raises(ImageError, match=r"got \(3, 2, 2\)"):
        to_images(torch.zeros(3, 2, 2))


# --- files with a recipe ---------------------------------------------------------------------------------------------

RECIPE = {
    "method": "prompt-to-prompt",
    "prompt": "ein Käse, 猫 🐈",
    "seed": 7,
    "weights": {"dog": 1.5},
    "steps": [1, 2],
}


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".JPEG", ".webp"])
def test_the_recipe_comes_back(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"result{suffix}"
    assert save_image(picture(), path, recipe=RECIPE) == path
    assert read_recipe(path) == RECIPE
    assert load_image(path).image.size == (20, 12)
    assert load_image(path).notes == ()
    assert list(tmp_path.iterdir()) == [path]


def test_png_is_exact_and_holds_plain_json(tmp_path: Path) -> None:
    save_image(picture(), tmp_path / "result.png", recipe=RECIPE)
    assert same(load_image(tmp_path / "result.png").image, picture())
    with Image.open(tmp_path / "result.png") as image:
        assert json.loads(image.info["sfumato"]) == RECIPE


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "result.png"
    save_image(picture(), path)

    def full_disk(self: Image.Image, file: Any, **options: Any) -> None:
        file.write(b"half a pic")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full_disk)
    with pytest.raises(ImageError, match=r"result\.png.*No space left"):
        save_image(picture(seed=1), path)
    monkeypatch.undo()
    assert same(load_image(path).image, picture())
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_is_written_through(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link.png").symlink_to(tmp_path / "there" / "real.png")
    save_image(picture(), tmp_path / "link.png")
    assert (tmp_path / "link.png").is_symlink()
    assert same(load_image(tmp_path / "there" / "real.png").image, picture())


@pytest.mark.parametrize("name", ["result.gif", "result", "result.png.tmp"])
def test_unknown_extensions_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ImageError, match=r"must end in one of \.png, \.jpg, \.jpeg, \.webp"):
        check_writable(tmp_path / name)
    check_writable(tmp_path / "film.gif", extensions=(".gif", ".mp4"))
    assert list(tmp_path.iterdir()) == []


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder.png").mkdir()
    for write in (check_writable, lambda path: save_image(picture(), path)):
        with pytest.raises(ImageError, match=r"gone does not exist; make it first"):
            write(tmp_path / "gone" / "result.png")
        with pytest.raises(ImageError, match="is not a folder"):
            write(tmp_path / "file" / "result.png")
        with pytest.raises(ImageError, match="it is a folder"):
            write(tmp_path / "folder.png")
        with pytest.raises(ImageError, match="cannot write"):
            write(tmp_path / ("x" * 300 + ".png"))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc is a folder that nobody may write into")
def test_a_folder_without_rights() -> None:
    with pytest.raises(ImageError, match=r"cannot write /proc/result\.png"):
        check_writable("/proc/result.png")


def test_a_recipe_that_json_cannot_say_or_jpeg_cannot_hold(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="JSON"):
        save_image(picture(), tmp_path / "result.png", recipe={"model": object()})
    with pytest.raises(ImageError, match="long"):
        save_image(picture(), tmp_path / "result.jpg", recipe={"prompt": "x" * 70_000})
    assert list(tmp_path.iterdir()) == []
    save_image(picture(), tmp_path / "result.png", recipe={"prompt": "x" * 70_000})
    assert len(read_recipe(tmp_path / "result.png")["prompt"]) == 70_000


def test_pictures_without_a_recipe(tmp_path: Path) -> None:
    for suffix in (".png", ".jpg"):
        save_image(picture(), tmp_path / f"plain{suffix}")
        with pytest.raises(ImageError, match="carries no recipe"):
            read_recipe(tmp_path / f"plain{suffix}")
    with pytest.raises(ImageError, match="there is no file"):
        read_recipe(tmp_path / "gone.png")


def test_a_path_that_is_not_utf_8_leaves_the_recipe_readable(tmp_path: Path) -> None:
    path = os.fsdecode(b"caf\xe9.png")
    save_image(picture(), tmp_path / "a.png", recipe={"seed": 3, "image": {"path": path}})
    assert read_recipe(tmp_path / "a.png") == {"seed": 3, "image": {"path": r"caf\udce9.png"}}


def test_a_full_disk_is_found_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ImageError, match=r"a\.png: No space left on device; free some space, or choose another folder"):
        check_writable(tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("suffix", "kept"), [(".png", True), (".webp", True), (".jpg", False)])
def test_images_keep_alpha_where_the_format_can(tmp_path: Path, suffix: str, kept: bool) -> None:
    image = picture()
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    save_image(image, tmp_path / f"a{suffix}")
    with Image.open(tmp_path / f"a{suffix}") as found:
        assert found.mode == ("RGBA" if kept else "RGB")
        if kept:
            assert found.getchannel("A").tobytes() == image.getchannel("A").tobytes()
        else:
            white = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
            assert np.abs(np.asarray(found, int) - np.asarray(white, int)).mean() < 4


def test_alpha_is_handed_on_upright(tmp_path: Path) -> None:
    image = picture()
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.png", exif=exif)
    loaded = load_image(tmp_path / "a.png")
    assert loaded.alpha is not None
    assert loaded.alpha.tobytes() == image.getchannel("A").transpose(Image.Transpose.ROTATE_270).tobytes()
    assert load_image(picture()).alpha is load_image(picture().convert("RGBA")).alpha is None


@pytest.mark.parametrize("text", ['{"method": ', "[1, 2]", "[" * 100_000])
def test_damaged_recipes(tmp_path: Path, text: str) -> None:
    chunks = PngImagePlugin.PngInfo()
    chunks.add_text("sfumato", text)
    picture().save(tmp_path / "damaged.png", pnginfo=chunks)
    with pytest.raises(ImageError, match=r"recipe in .*damaged\.png is damaged"):
        read_recipe(tmp_path / "damaged.png")


def test_bytes_of_a_png_are_those_of_the_file_and_carry_the_recipe(tmp_path: Path) -> None:
    image, recipe = Image.new("RGB", (5, 4), "red"), {"command": "edit", "seed": 3}
    data = png_bytes(image, recipe)
    assert data == save_image(image, tmp_path / "red.png", recipe=recipe).read_bytes()
    assert recipe_in(data, "the upload") == recipe
    with pytest.raises(ImageError, match="the upload carries no recipe"):
        recipe_in(png_bytes(image), "the upload")


def test_a_caller_may_allow_fewer_pixels_which_are_counted_before_any_is_decoded() -> None:
    data = png_bytes(Image.effect_noise((30, 20), 99.0))[:200]  # the header, and a few of the pixels
    with pytest.raises(ImageError, match=r"30x20 pixels, more than 0\.0005 megapixels"):
        load_image(data, most_pixels=500)
    with pytest.raises(ImageError, match="truncated or damaged"):
        load_image(data, most_pixels=600)
