"""Image files that carry the recipe which made them, written whole or not at all."""

from __future__ import annotations

import errno
import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from PIL import Image, PngImagePlugin

from sfumato.errors import ImageError, UsageError
from sfumato.files import at_home, check_folder, written_whole
from sfumato.images.alpha import WHITE, Colour, flattened, with_alpha
from sfumato.images.ffmpeg import FFMPEG_MOVIES, stream_comment
from sfumato.images.reading import MAX_PIXELS, existing_file, guarded, open_image
from sfumato.json_input import JsonError, read_json

_WRITABLE = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}

RECIPE_KEY = "sfumato"
"""Under which a file keeps its recipe."""

_EXIF_IFD, _EXIF_USER_COMMENT = 0x8769, 0x9286
_PLAIN_START = f"{RECIPE_KEY}:"
_COMMENT_START = b"ASCII\0\0\0" + _PLAIN_START.encode()


def check_writable(path: str | os.PathLike[str], *, extensions: Sequence[str] = tuple(_WRITABLE)) -> Path:
    """Finds out now, before the heavy work, whether `path` can be written later; nothing is left behind.

    Raises:
        ImageError: The extension is unknown, the folder does not exist or cannot be written, or `path` is a folder or
            a device.
        UsageError: `path` is no path.
    """
    path = at_home(path)
    if path.suffix.lower() not in extensions:
        raise ImageError(f"cannot write {path}: the name must end in one of {', '.join(extensions)}")
    try:
        if path.exists() and not path.is_file():
            raise ImageError(
                f"cannot write {path}: it is a {'folder' if path.is_dir() else 'device'}; choose another name"
            )
        folder = path.parent
        if not folder.is_dir():
            problem = "is not a folder" if folder.exists() else f"does not exist; make it first (mkdir -p {folder})"
            raise ImageError(f"cannot write {path}: the folder {folder} {problem}")
        check_folder(path.resolve().parent)
    except ImageError:
        raise
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
        remedy = "free some space, or choose another folder" if full else "choose another folder or free its rights"
        raise ImageError(f"cannot write {path}: {reason}; {remedy}") from error
    return path


def save_image(
    image: Image.Image,
    path: str | os.PathLike[str],
    *,
    recipe: Mapping[str, Any] | None = None,
    background: Colour = WHITE,
) -> Path:
    """Writes an image whole or not at all, with the recipe that made it.

    The recipe is JSON: in PNG a text chunk named `sfumato`; in JPEG and WebP, which have none, the EXIF user comment
    (JPEG has room for 64 kB). `read_recipe` reads all three. JPEG and WebP are lossy; PNG is the one to keep. PNG and
    WebP keep alpha; JPEG shows it on the background.

    Raises:
        ImageError: As `check_writable`; or the disk is full; or the recipe is too long for JPEG.
        UsageError: The recipe holds something that JSON cannot say.
    """
    path = check_writable(path)
    with written_whole(path, ImageError) as part, part.open("wb") as file:
        _write(image, file, _WRITABLE[path.suffix.lower()], recipe, background)
    return path


def png_bytes(image: Image.Image, recipe: Mapping[str, Any] | None = None) -> bytes:
    """The bytes of the PNG that `save_image` writes; raises like `recipe_text`."""
    buffer = io.BytesIO()
    _write(image, buffer, "PNG", recipe, WHITE)
    return buffer.getvalue()


def _write(
    image: Image.Image, file: IO[bytes], kind: str, recipe: Mapping[str, Any] | None, background: Colour
) -> None:
    options: dict[str, Any] = {} if kind == "PNG" else {"quality": 95}
    if kind == "JPEG":
        options["subsampling"] = 0
    if recipe is not None and kind == "PNG":
        options["pnginfo"] = PngImagePlugin.PngInfo()
        options["pnginfo"].add_text(RECIPE_KEY, recipe_text(recipe))
    elif recipe is not None:
        options["exif"] = exif_of(recipe)
    (flattened(image, background) if kind == "JPEG" else with_alpha(image)).save(file, format=kind, **options)


def as_png(images: Sequence[Image.Image]) -> bytes:
    """The bytes of a PNG of one image, or of several in a row: what notebooks show of a result."""
    shown = with_alpha(images[0])
    if len(images) > 1:
        width, height = sum(image.width for image in images), max(image.height for image in images)
        shown = Image.new("RGBA", (width, height))
        left = 0
        for image in images:
            shown.paste(image, (left, 0))
            left += image.width
    buffer = io.BytesIO()
    shown.save(buffer, format="PNG")
    return buffer.getvalue()


def recipe_text(recipe: Mapping[str, Any]) -> str:
    """The recipe as ASCII JSON; half characters, as in file names that are not UTF-8, are written with a backslash.

    Raises:
        UsageError: It holds something that JSON cannot say.
    """
    try:
        return json.dumps(_whole_characters(dict(recipe)), ensure_ascii=True)
    except (TypeError, ValueError) as error:
        raise UsageError(f"the recipe cannot be written as JSON: {error}") from error


def _whole_characters(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, Mapping):
        return {_whole_characters(key): _whole_characters(part) for key, part in value.items()}
    return [_whole_characters(part) for part in value] if isinstance(value, list | tuple) else value


def exif_of(recipe: Mapping[str, Any]) -> Image.Exif:
    """EXIF whose user comment is the recipe; raises like `recipe_text`."""
    exif = Image.Exif()
    exif.get_ifd(_EXIF_IFD)[_EXIF_USER_COMMENT] = _COMMENT_START + recipe_text(recipe).encode("ascii")
    return exif


def read_recipe(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads the recipe that `save_image` or `save_movie` wrote into a file.

    Raises:
        ImageError: The file cannot be read, carries no recipe, or carries a damaged one.
    """
    path = existing_file(path)
    try:
        if path.suffix.lower() in FFMPEG_MOVIES:
            text = _stream_recipe(path)
        else:
            with path.open("rb") as file:
                text = _image_recipe(file, str(path))
    except OSError as error:
        raise ImageError(f"cannot read {path}: {error.strerror or error}") from error
    return _checked(text, str(path))


def recipe_in(data: bytes, what: str, most_pixels: int = MAX_PIXELS) -> dict[str, Any]:
    """Reads the recipe in the bytes of an image, which messages call `what`; raises like `read_recipe`."""
    return _checked(_image_recipe(io.BytesIO(data), what, most_pixels), what)


def _checked(text: str | None, what: str) -> dict[str, Any]:
    if text is None:
        raise ImageError(f"{what} carries no recipe; only images saved by sfumato do, and some programs remove it")
    try:
        recipe = read_json(text)
    except JsonError as error:
        raise ImageError(f"the recipe in {what} is damaged ({error}); give the options by hand") from error
    if not isinstance(recipe, dict):
        raise ImageError(f"the recipe in {what} is damaged (not a JSON object); give the options by hand")
    return recipe


def _image_recipe(file: IO[bytes], what: str, most_pixels: int = MAX_PIXELS) -> str | None:
    with open_image(file, what, most_pixels) as image, guarded(what, "damaged"):
        text: str | None = image.info.get(RECIPE_KEY)
        if text is not None:
            return text
        comments = (image.info.get("comment", b""), image.getexif().get_ifd(_EXIF_IFD).get(_EXIF_USER_COMMENT, b""))
        for comment, start in zip(comments, (_PLAIN_START.encode(), _COMMENT_START), strict=True):  # GIF; JPEG, WebP
            if isinstance(comment, bytes) and comment.startswith(start):
                return comment.removeprefix(start).decode("ascii", "replace")
        return None


def _stream_recipe(path: Path) -> str | None:
    comment = stream_comment(path) or ""
    return comment.removeprefix(_PLAIN_START) if comment.startswith(_PLAIN_START) else None
