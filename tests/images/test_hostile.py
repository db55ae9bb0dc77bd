"""Damaged images of every format: an image or an `ImageError`, soon and without a warning, whatever is wrong."""

import io
import random
import struct
import time
import zlib
from collections.abc import Iterator

import pytest
from PIL import Image, PngImagePlugin

from sfumato.errors import ImageError
from sfumato.images import load_image, read_recipe

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "TGA", "ICO", "JPEG2000", "AVIF")
MODES = {
    "PNG": ("RGB", "RGBA", "L", "LA", "P", "1", "I;16"),
    "GIF": ("P",),
    "JPEG": ("RGB", "CMYK"),
    "TIFF": ("RGB", "L"),
}


def carriers(kind: str) -> Iterator[bytes]:
    """Good files of a format, one a colour mode, with EXIF or a comment where the format has them."""
    exif = Image.Exif()
    exif[0x0112] = 6
    exif.get_ifd(0x8769)[0x9286] = b"ASCII\0\0\0a comment"
    for mode in MODES.get(kind, ("RGB",)):
        image = Image.linear_gradient("L").resize((24, 16))
        image = image.convert("I;16") if mode == "I;16" else image.convert("RGB").convert(mode)
        more = {"exif": exif} if kind in ("PNG", "JPEG", "WEBP", "TIFF") else {}
        if kind == "TIFF":
            more["compression"] = "tiff_lzw"
        buffer = io.BytesIO()
        image.save(buffer, kind, **more)
        yield buffer.getvalue()


def damaged(data: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Cut off, with bytes flipped (most of them in the head, where the sizes are), with a piece out or doubled."""
    chosen = random.Random(seed)
    for _ in range(count):
        found = bytearray(data)
        start = chosen.randrange(min(len(data), 200))
        match chosen.randrange(4):
            case 0:
                del found[chosen.randrange(len(data)) :]
            case 1:
                del found[start : start + chosen.randrange(1, 40)]
            case 2:
                found[start:start] = found[start : start + chosen.randrange(1, 40)]
            case _:
                for _ in range(chosen.randrange(1, 6)):
                    found[chosen.randrange(min(len(data), 200 if chosen.random() < 0.8 else len(data)))] = (
                        chosen.randrange(256)
                    )
        yield bytes(found)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", FORMATS)
def test_damaged_files(tmp_path_factory: pytest.TempPathFactory, kind: str) -> None:
    Image.init()
    if kind not in Image.SAVE:
        pytest.skip(f"Pillow writes no {kind} here")
    path = tmp_path_factory.mktemp("hostile") / "image"
    for number, good in enumerate(carriers(kind)):
        assert load_image(good).image.mode == "RGB"
        for data in damaged(good, 60, number):
            start = time.monotonic()
            path.write_bytes(data)
            for read in (load_image, read_recipe):
                try:
                    read(path)
                except ImageError as error:
                    assert len(str(error)) < 600  # noqa: PT017 - not every damage is one
            assert time.monotonic() - start < 10


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("colour", [0, 2, 3, 4, 6, 7])
def test_png_headers_of_every_kind_without_a_palette(depth: int, colour: int) -> None:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, depth, colour, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(8 * 100))) + chunk(b"IEND", b"")
    try:
        assert load_image(data).image.size == (8, 8)
    except ImageError:
        assert colour in (3, 7) or (depth, colour) in {(d, c) for d in (1, 2, 4) for c in (2, 4, 6)}


def test_a_comment_of_many_megabytes_is_refused() -> None:
    image, buffer, text = Image.new("RGB", (8, 8)), io.BytesIO(), PngImagePlugin.PngInfo()
    text.add_text("sfumato", "x" * 80_000_000, zip=True)
    image.save(buffer, "PNG", pnginfo=text)
    assert len(buffer.getvalue()) < 200_000
    with pytest.raises(ImageError):
        load_image(buffer.getvalue())
