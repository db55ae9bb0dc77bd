"""Hostile images: cut, flipped and forged files of every format that Pillow reads, and files that only look like one.

Deterministic; made of struct, zlib and, where a valid carrier is wanted, Pillow. A few megabytes in all.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from typing import Any

from PIL import Image

Files = Iterator[tuple[str, bytes]]
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of PNG's colour types


def subject(side: int = 64) -> Image.Image:
    """A square on a ground: what all valid files show."""
    image = Image.new("RGB", (side, side), (30, 90, 160))
    image.paste((240, 200, 40), (side // 3, side // 3, side * 2 // 3, side * 2 // 3))
    return image


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    """An image as the bytes of a file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def deflated(count: int) -> bytes:
    """A zlib stream of that many zeros."""
    packer, block = zlib.compressobj(1), bytes(1 << 20)
    parts = [packer.compress(block) for _ in range(count >> 20)]
    return b"".join([*parts, packer.compress(bytes(count & 0xFFFFF)), packer.flush()])


def chunk(kind: bytes, data: bytes, *, crc: int | None = None, length: int | None = None) -> bytes:
    """A chunk of a PNG."""
    check = zlib.crc32(kind + data) if crc is None else crc
    return struct.pack(">I", len(data) if length is None else length) + kind + data + struct.pack(">I", check)


def png(
    width: int, height: int, *, depth: int = 8, colour: int = 2, interlace: int = 0, before: bytes = b"",
    data: bytes | None = None, end: bool = True,
) -> bytes:  # fmt: skip
    """A PNG, black unless `data` is given; `before` stands between header and data."""
    if data is None:
        row = 1 + (width * CHANNELS[colour] * depth + 7) // 8
        data = deflated(row * height)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace))
    return b"\x89PNG\r\n\x1a\n" + header + before + chunk(b"IDAT", data) + (chunk(b"IEND", b"") if end else b"")


def tiff(tags: dict[int, tuple[int, int, int | bytes]], *, data: bytes = b"", following: int = 0) -> bytes:
    """A TIFF of one page, whose tags are {number: (type, count, value)}, its data from byte 400 on."""
    entries = b"".join(
        struct.pack("<HHI", tag, kind, count) + (value if isinstance(value, bytes) else struct.pack("<I", value))
        for tag, (kind, count, value) in sorted(tags.items())
    )
    head = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", following)
    return head + bytes(max(0, 400 - len(head))) + data


def grey_tags(width: int, height: int, **more: Any) -> dict[int, tuple[int, int, int | bytes]]:
    """Tags of a grey page: bits, compression, data's place and length may be given."""
    values = {"bits": 8, "compression": 1, "at": 400, "length": min(width * height, 2**32 - 1)} | more
    return {
        256: (4, 1, width), 257: (4, 1, height), 258: (3, 1, values["bits"]), 259: (3, 1, values["compression"]),
        262: (3, 1, 1), 273: (4, 1, values["at"]), 277: (3, 1, 1), 278: (4, 1, height), 279: (4, 1, values["length"]),
    }  # fmt: skip


def damaged() -> Files:
    """Valid files of each format, cut at many places and with bytes turned round."""
    kinds: dict[str, dict[str, Any]] = {
        "png": {}, "jpeg": {}, "webp": {}, "gif": {}, "bmp": {}, "tiff": {"compression": "tiff_lzw"}, "ppm": {},
        "ico": {},
        "tga": {},
    }  # fmt: skip
    for kind, options in kinds.items():
        whole = saved(subject(), kind, **options)
        yield f"good.{kind}", whole
        for share in (1, 2, 4, 7, 10, 13, 15):
            yield f"cut-{share:02d}.{kind}", whole[: len(whole) * share // 16]
        for at in range(2, len(whole), max(1, len(whole) // 6)):
            yield f"flip-{at:05d}.{kind}", whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :]


def pngs() -> Files:
    """Headers that promise too much, bombs, chunks that lie."""
    for width, height in (
        (60_000, 60_000),
        (2**31 - 1, 2**31 - 1),
        (0, 0),
        (0, 9),
        (9_000, 9_000),
        (64_000_000, 1),
        (1, 64_000_000),
    ):
        yield f"header-{width}x{height}.png", png(width, height, data=zlib.compress(b"\0" * 99))
    yield "interlaced.png", png(7_900, 7_900, interlace=1, data=zlib.compress(b"\0"))
    yield "bomb.png", png(7_990, 8_000, colour=0)
    yield "data-too-long.png", png(64, 64, data=deflated(40 << 20))
    yield "thin.png", png(1, 50_000)
    yield "flat.png", png(50_000, 1)
    yield "dot.png", png(1, 1)
    texts = {
        "zTXt": chunk(b"zTXt", b"sfumato\0\0" + deflated(40 << 20)),
        "iTXt": chunk(b"iTXt", b"sfumato\0\1\0\0\0" + deflated(40 << 20)),
        "many-zTXt": chunk(b"zTXt", b"t\0\0" + deflated(1 << 20)) * 150,
        "tEXt": chunk(b"tEXt", b"sfumato\0" + b"z" * (3 << 20)),
        "iCCP": chunk(b"iCCP", b"p\0\0" + deflated(40 << 20)),
        "iCCP-nonsense": chunk(b"iCCP", b"p\0\0" + zlib.compress(b"no profile")),
        "eXIf-nonsense": chunk(b"eXIf", b"MM\0*\xff\xff\xff\xff" + b"\xfe" * 64),
        "eXIf-circle": chunk(b"eXIf", tiff({0x8769: (4, 1, 8)}, following=8)),
        "acTL-many": chunk(b"acTL", struct.pack(">II", 50_000, 0)),
        "acTL-most": chunk(b"acTL", struct.pack(">II", 2**32 - 1, 0)),
        "unknown-critical": chunk(b"ABCD", b"x"),
    }
    for name, before in texts.items():
        yield f"chunk-{name}.png", png(32, 32, before=before)
    yield "crc.png", png(32, 32).replace(zlib.crc32(b"IEND").to_bytes(4, "big"), b"\0\0\0\1")
    yield "no-end.png", png(32, 32, end=False)
    yield "length-4G.png", png(32, 32)[:33] + chunk(b"IDAT", b"x", length=2**32 - 1)
    yield "no-palette.png", png(32, 32, colour=3)
    yield (
        "short-palette.png",
        png(32, 32, colour=3, before=chunk(b"PLTE", b"\0\0\0"), data=zlib.compress((b"\0" + b"\xff" * 32) * 32)),
    )
    yield "depth-77.png", png(32, 32, depth=77, data=zlib.compress(b"\0"))
    for colour in (0, 2, 4, 6):
        yield f"deep-{colour}.png", png(32, 32, depth=16, colour=colour)
    yield "transparency-short.png", png(32, 32, colour=0, depth=16, before=chunk(b"tRNS", b"\1"))


def others() -> Files:
    """The other formats, and files under an image's name that are none."""
    empty = b"GIF89a" + struct.pack("<HHBBB", 8, 8, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, 8, 8, 0) + b"\x02\x03\x84\x51\x05\x00"
    yield "frames.gif", empty + frame * 60_000 + b";"
    yield "huge.gif", b"GIF89a" + struct.pack("<HHBBB", 65_535, 65_535, 0, 0, 0) + frame
    yield "outside.gif", empty + b"\x2c" + struct.pack("<HHHHB", 50_000, 50_000, 9_000, 9_000, 0) + b"\x02\x01\0\0;"
    yield "comment.gif", empty + b"\x21\xfe" + (b"\xff" + b"z" * 255) * 4_000
    for width, height in ((2**31 - 1, 2**31 - 1), (90_000, 90_000), (7_999, 7_999), (1, 60_000_000)):
        yield f"promise-{width}x{height}.tif", tiff(grey_tags(width, height))
    yield "circle.tif", tiff(grey_tags(64, 64), data=bytes(4_096), following=8)
    yield "far.tif", tiff(grey_tags(64, 64, at=2**32 - 16, length=2**32 - 16))
    yield "count.tif", tiff({256: (4, 2**32 - 1, 8), 257: (4, 1, 8)})
    yield "lzw.tif", tiff(grey_tags(64, 64, compression=5), data=b"\xfe" * 4_096)
    yield "bomb.tif", tiff(grey_tags(7_990, 8_000, compression=8, length=70_000), data=deflated(7_990 * 8_000))
    for name, value in (("nan", float("nan")), ("inf", float("inf")), ("half", 0.5), ("far", -1e30)):
        tags = {**grey_tags(8, 8, bits=32, length=256), 339: (3, 1, 3)}
        yield f"float-{name}.tif", tiff(tags, data=struct.pack("<f", value) * 64)
    yield (
        "negative.tif",
        tiff({**grey_tags(8, 8, bits=32, length=256), 339: (3, 1, 2)}, data=struct.pack("<i", -9) * 64),
    )
    yield "cmyk.tif", saved(subject().convert("CMYK"), "TIFF")
    yield "cmyk.jpg", saved(subject().convert("CMYK"), "JPEG")
    jpeg = saved(subject(), "JPEG")
    frame_at = jpeg.find(b"\xff\xc0") + 5
    for side in (65_535, 7_999, 0):
        yield f"side-{side}.jpg", jpeg[:frame_at] + struct.pack(">HH", side, side) + jpeg[frame_at + 4 :]
    exifs = {
        "nonsense": b"\xfe" * 300, "orientation-77": tiff({0x0112: (3, 1, 77)}),
        "orientation-text": tiff({0x0112: (2, 4, b"six\0")}),
        "orientation-two": tiff({0x0112: (3, 2, struct.pack("<HH", 3, 8))}),
        "circle": tiff({0x8769: (4, 1, 8)}, following=8),
    }  # fmt: skip
    for name, exif in exifs.items():
        yield (
            f"exif-{name}.jpg",
            jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 8) + b"Exif\0\0" + exif + jpeg[2:],
        )
    yield "app1-0.jpg", jpeg[:2] + b"\xff\xe1\0\0" + jpeg[2:]
    yield "comments.jpg", jpeg[:2] + (b"\xff\xfe\xff\xff" + b"z" * 65_533) * 16 + jpeg[2:]
    steps = saved(subject(128), "JPEG", progressive=True)
    scan = steps.rfind(b"\xff\xda")
    yield "scans.jpg", steps[:scan] + steps[scan:-2] * 300 + steps[-2:]
    bmp = saved(subject(), "BMP")
    for name, sides in (("huge", (2**31 - 1, 2**31 - 1)), ("negative", (-64, 64)), ("nothing", (0, 0))):
        yield f"{name}.bmp", bmp[:18] + struct.pack("<ii", *sides) + bmp[26:]
    webp = saved(subject(), "WEBP")
    yield "length.webp", webp[:4] + b"\xff\xff\xff\xff" + webp[8:]
    yield "canvas.webp", b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + b"\xff" * 6
    inside = png(12_500, 12_500, colour=0)
    yield "bomb.ico", struct.pack("<HHHBBBBHHII", 0, 1, 1, 16, 16, 0, 0, 1, 32, len(inside), 22) + inside
    yield "huge.ppm", b"P6 888888888 888888888 255\n"
    yield "comment.ppm", b"P6 #" + b"z" * 1_500_000
    yield "digits.ppm", b"P3 8 8 255\n" + b"7" * 150_000
    yield "huge.tga", struct.pack("<BBBHHBHHHHBB", 0, 0, 2, 0, 0, 0, 0, 0, 65_535, 65_535, 24, 0)
    yield "nonsense.jp2", b"\0\0\0\x0cjP  \r\n\x87\n" + b"\xfe" * 150
    yield "nonsense.avif", b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf" + b"\xfe" * 250
    for name, data in {
        "empty": b"", "byte": b"\x89", "pickle": b"cposix\nsystem\n(S'touch RUN'\ntR.",
        "html": b"<!doctype html><p>404</p>",
        "svg": b'<!DOCTYPE s [<!ENTITY e SYSTEM "file:///etc/passwd">]><svg xmlns="http://www.w3.org/2000/svg">&e;</svg>',
        "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(x) print\n%%EOF\n",
        "pdf": b"%PDF-1.7\n%%EOF",
        "psd": b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 9, 9, 8, 3) + bytes(90),
        "fits": b"SIMPLE  =  T".ljust(2_880),
        "npy": b"\x93NUMPY\x01\0\x76\0{'descr': '|O'}".ljust(128), "text": "naïve\n".encode() * 50,
        "zip": b"PK\3\4" + bytes(90),
    }.items():  # fmt: skip
        yield f"{name}-named.png", data


def hostile_images() -> Files:
    """All of them: (name, content)."""
    yield from damaged()
    yield from pngs()
    yield from others()
