"""Reads any common kind of image as upright RGB."""

from __future__ import annotations

import io
import os
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from PIL import Image, UnidentifiedImageError

from sfumato.errors import ImageError
from sfumato.files import at_home
from sfumato.images.alpha import WHITE, flattened, with_alpha
from sfumato.images.pixels import to_images

if TYPE_CHECKING:
    import torch

ImageSource: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | np.ndarray[Any, Any] | torch.Tensor"

MAX_PIXELS, MAX_SIDE = 64_000_000, 65_535

# Formats that are plain pixels. Left out on purpose: EPS and the like, which Pillow hands to an external interpreter.
_READABLE = ("PNG", "JPEG", "MPO", "WEBP", "AVIF", "HEIF", "GIF", "BMP", "DIB", "TIFF", "PPM", "TGA", "ICO", "JPEG2000")

_EXIF_ORIENTATION = 0x0112
_MOST_PAGES = 1000
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class LoadedImage:
    """An image as every method takes it.

    Attributes:
        image: PIL image, mode RGB, upright.
        notes: What was done to get there, for the user to read; empty when nothing had to be.
        turn: What turned it upright, as its EXIF orientation says, or None.
        rgba: The same with its alpha, mode RGBA; None where every pixel is opaque.
    """

    image: Image.Image
    notes: tuple[str, ...] = ()
    turn: Image.Transpose | None = None
    rgba: Image.Image | None = None

    @property
    def alpha(self) -> Image.Image | None:
        """Its alpha, mode L, upright; None where every pixel is opaque."""
        return None if self.rgba is None else self.rgba.getchannel("A")


def load_image(
    source: ImageSource, *, background: tuple[int, int, int] = (255, 255, 255), most_pixels: int = MAX_PIXELS
) -> LoadedImage:
    """Turns any common kind of image into an upright RGB one.

    Args:
        source: Path of a file; the bytes of one; PIL image; array (height, width), (height, width, 1, 3 or 4), uint8,
            uint16 or float in [0, 1]; tensor (3, height, width) or (1, 3, height, width), float in [-1, 1].
        background: Colour under transparent pixels.
        most_pixels: Files and bytes of more pixels are refused before any is decoded.

    Raises:
        ImageError: The image is missing, damaged, empty, larger than `most_pixels` or 65,535 pixels a side, an
            address instead of a file, or of a shape, type or range that cannot be meant.
    """
    torch = sys.modules.get("torch")
    if isinstance(source, Image.Image):
        return _convert(source, "the PIL image", background)
    if isinstance(source, np.ndarray):
        return _convert(_from_array(source), "the array", background)
    if torch is not None and isinstance(source, torch.Tensor):
        return LoadedImage(_from_tensor(source))
    if isinstance(source, (bytes, bytearray, memoryview)):
        data = bytes(source)
        what = f"the {len(data)} bytes given as an image"
        if not data:
            raise ImageError("the bytes given as an image are empty")
        return _read(io.BytesIO(data), what, background, most_pixels)
    if isinstance(source, (str, os.PathLike)):
        path = existing_file(source)
        try:
            with path.open("rb") as file:
                return _read(file, str(path), background, most_pixels)
        except OSError as error:
            raise ImageError(f"cannot read {path}: {error.strerror or error}") from error
    raise ImageError(f"cannot make an image of {type(source).__name__}; give a path, bytes, PIL image, array or tensor")


def existing_file(source: str | os.PathLike[str]) -> Path:
    """Gives the path of a regular file that is not empty, or raises an `ImageError` that says what is there instead."""
    name = os.fspath(source)
    if re.match(r"(?i)[a-z][a-z0-9+.-]+://|data:", name):
        raise ImageError(f"{_short(name)} is an address, and addresses are not opened; download it and give the file")
    try:
        path = at_home(name)
        if path.is_dir():
            raise ImageError(f"{path} is a folder; give one image file")
        if not path.exists():
            raise ImageError(f"there is no file {path}; check the path (current folder: {Path.cwd()})")
        if not path.is_file():
            raise ImageError(f"{path} is not a regular file; give an image file")
        if path.stat().st_size == 0:
            raise ImageError(f"{path} is empty (0 bytes); make or download it again")
    except ImageError:
        raise
    except (OSError, ValueError) as error:  # a name that is no path: too long, or with a null character
        raise ImageError(f"cannot read {_short(name)!r}: {getattr(error, 'strerror', None) or error}") from error
    return path


def open_image(file: Any, what: str, most_pixels: int = MAX_PIXELS) -> Image.Image:
    """Opens and decodes; the size in the header is checked before any pixel is decoded."""
    Image.init()
    try:
        with guarded(what, "damaged"):
            image = Image.open(file, formats=[name for name in _READABLE if name in Image.OPEN])
    except ImageError as error:
        if isinstance(error.__cause__, Image.DecompressionBombError):
            raise ImageError(f"{what} is larger than {MAX_PIXELS // 10**6} megapixels; make it smaller") from error
        if isinstance(error.__cause__, UnidentifiedImageError):
            raise ImageError(
                f"{what} is not an image in a known format, whatever its name; convert it to PNG or JPEG"
            ) from error
        raise
    check_size(image.size, what, most_pixels)
    _decode(image, what)
    return image


def _decode(image: Image.Image, what: str) -> None:
    with guarded(what, "truncated or damaged"):
        image.load()


@contextmanager
def guarded(what: str, state: str) -> Iterator[None]:
    """Makes an `ImageError` of whatever Pillow raises: on damaged data anything from SyntaxError to AssertionError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns above its own limit; ours is lower and an error
            yield
    except ImageError:
        raise
    except Exception as error:
        said = str(error) or type(error).__name__
        raise ImageError(f"{what} is {state} ({_short(said)}); make or download it again") from error


def check_size(size: tuple[int, int], what: str, most_pixels: int = MAX_PIXELS) -> None:
    """Raises an `ImageError` for (width, height) without pixels, or with more than `most_pixels` or `MAX_SIDE`."""
    if min(size) < 1:
        raise ImageError(f"{what} has no pixels ({by(size)}); give an image of at least 1x1")
    if max(size) > MAX_SIDE:
        raise ImageError(f"{what} has {by(size)} pixels, more than {MAX_SIDE} on one side; make it smaller")
    if size[0] * size[1] > most_pixels:
        raise ImageError(f"{what} has {by(size)} pixels, more than {most_pixels / 1e6:.3g} megapixels; make it smaller")


def _read(file: Any, what: str, background: tuple[int, int, int], most_pixels: int) -> LoadedImage:
    with open_image(file, what, most_pixels) as image:
        return _convert(image, what, background)


def _convert(image: Image.Image, what: str, background: tuple[int, int, int]) -> LoadedImage:
    check_size(image.size, what)
    _decode(image, what)
    with guarded(what, f"damaged, or has a colour mode that cannot be converted, {image.mode}"):
        return _upright_rgb(image, what, background)


def _upright_rgb(image: Image.Image, what: str, background: tuple[int, int, int]) -> LoadedImage:
    original, notes = image, []

    try:
        turn = _TURNS.get(image.getexif().get(_EXIF_ORIENTATION, 1))
    except Exception:  # noqa: BLE001 - anything, from SyntaxError to struct.error, on damaged data
        turn = None
        notes.append("EXIF data is damaged; the orientation is taken as it is stored")
    if image.mode.startswith("I") or image.mode == "F":
        notes.append("converted from 16-bit or float grey, its full range kept")
        image = _from_deep_grey(image, what)
    rgba = None
    if image.has_transparency_data:
        image = with_alpha(image)
        if image.mode == "RGBA":
            rgba = image
            colour = "white" if tuple(background) == WHITE else f"rgb{tuple(background)}"
            notes.append(f"alpha composited on {colour}")
        image = flattened(image, background)
    elif image.mode == "CMYK":
        notes.append("converted from CMYK")
    image = image.convert("RGB")
    if turn is not None:
        image, rgba = image.transpose(turn), None if rgba is None else rgba.transpose(turn)
        for name in ("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp"):
            image.info.pop(name, None)  # it is upright now: who reads it again must not turn it once more
        notes.append("turned upright as its EXIF orientation says")
    return LoadedImage(image, (*_frames_note(original), *notes), turn, rgba)


def _frames_note(image: Image.Image) -> tuple[str, ...]:
    if image.format == "MPO":  # the further images of an MPO photograph are previews
        return ()
    try:
        used = image.tell() + 1
        frames = _pages(image) if image.format == "TIFF" else int(getattr(image, "n_frames", 1))
    except Exception:  # noqa: BLE001 - a file that is damaged behind its first frame
        return ()
    if frames < 2:
        return ()
    many = f"more than {_MOST_PAGES}" if frames > _MOST_PAGES else str(frames)
    kind = f"{many} pages" if image.format == "TIFF" else f"animated: {frames} frames"
    return (f"{kind}, {'the first' if used == 1 else f'number {used}'} is used",)


def _pages(image: Image.Image) -> int:
    """How many pages a TIFF has, counted as far as `_MOST_PAGES`: a small file can hold a great many."""
    used, page = image.tell(), 0
    try:
        for page in range(1, _MOST_PAGES + 1):
            image.seek(page)
        return _MOST_PAGES + 1
    except EOFError:
        return page
    finally:
        image.seek(used)


def _from_deep_grey(image: Image.Image, what: str) -> Image.Image:
    """Scales 16-bit (also when held in 32) and float grey to 8 bits; Pillow's own conversion clips them."""
    values = np.asarray(image)
    low, high = float(values.min()), float(values.max())
    limit = 1.0 if image.mode == "F" else 65535.0
    if not (low >= 0 and high <= limit):  # not: `low < 0 or ...`, which NaN would pass
        raise ImageError(
            f"{what} has values in [{low:g}, {high:g}]; scale them to [0, {limit:g}], or save it as 8 bits"
        )
    grey = Image.fromarray(np.rint(values * (255.0 / limit)).astype(np.uint8))
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):  # a PNG may name one grey level that is transparent
        grey.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    return grey


def _from_array(array: np.ndarray[Any, Any]) -> Image.Image:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim != 2 and not (array.ndim == 3 and array.shape[2] in (3, 4)):
        hint = "; put the channels last" if array.ndim == 3 and array.shape[0] in (1, 3, 4) else ""
        raise ImageError(f"an array must be (height, width) or (height, width, 3 or 4), got {array.shape}{hint}")
    if array.dtype not in (np.uint8, np.uint16) and array.dtype.kind != "f":
        raise ImageError(f"an array must be uint8, uint16 or float in [0, 1], got {array.dtype}")
    check_size((array.shape[1], array.shape[0]), "the array")
    if array.dtype != np.uint8:
        limit = 65535.0 if array.dtype == np.uint16 else 1.0
        low, high = float(array.min()), float(array.max())
        if not (low >= 0 and high <= limit):
            raise ImageError(f"a float array must lie in [0, 1], got [{low:g}, {high:g}]; divide by its range")
        array = np.rint(array.astype(np.float64) * (255.0 / limit)).astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(array))


def _from_tensor(pixels: torch.Tensor) -> Image.Image:
    if pixels.is_meta or pixels.layout is not sys.modules["torch"].strided:
        raise ImageError("a tensor must hold its values (neither meta nor sparse): give pixels.to_dense()")
    if pixels.ndim == 4 and pixels.shape[0] == 1:
        pixels = pixels[0]
    if pixels.ndim != 3 or pixels.shape[0] != 3:
        raise ImageError(f"a tensor must be (3, height, width) or (1, 3, height, width), got {tuple(pixels.shape)}")
    if not pixels.is_floating_point():
        raise ImageError(f"a tensor must be float in [-1, 1], got {pixels.dtype}; divide by 127.5 and subtract 1")
    check_size((pixels.shape[2], pixels.shape[1]), "the tensor")
    low, high = float(pixels.min()), float(pixels.max())
    if not (low >= -1.001 and high <= 1.001):
        raise ImageError(f"a tensor must lie in [-1, 1], got [{low:g}, {high:g}]")
    return to_images(pixels[None])[0]


def by(size: Sequence[int]) -> str:
    """Writes (width, height) as people do: 640x480."""
    return f"{size[0]}x{size[1]}"


def _short(name: str, length: int = 120) -> str:
    return name if len(name) <= length else name[:length] + "..."
