"""Manifests in five formats say the same; what is no table is refused by file and line."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import random
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from sfumato.api.batch_inputs import read_inputs
from sfumato.api.batch_items import Settings, items_of
from sfumato.api.manifest import Line, read_manifest
from sfumato.errors import UsageError

ROWS: list[dict[str, Any]] = [
    {"image": "a.png", "source_prompt": "a cat, red", "target_prompt": ["a dog", "a fox"], "seed": 3, "id": "x"},
    {"image": "a.png", "source_prompt": "a cat", "target_prompt": "a dog", "method": "sdedit", "option.strength": 0.5},
    {"image": "a.png", "source_prompt": "a cat", "target_prompt": "a dog", "size": [64, 48], "alpha": False},
    {"image": "a.png", "source_prompt": "a cat", "target_prompt": "a dog", "note:shelf": "B 7", "guidance_scale": 2.5},
    {"image": "a.png", "source_prompt": "a cat", "target_prompt": "a dog", "options": {"self_replace_steps": 0.3}},
]


ODD = [b'"', b"[", b"{", b"\0", b"\n", b",", b"- ", b"9" * 400, b"&a *a"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a.png").write_bytes(b"an image, for all that is read here")
    return tmp_path


def written(folder: Path, ending: str) -> Path:
    path = folder / f"manifest{ending}"
    columns = list(dict.fromkeys(name for row in ROWS for name in row))
    match ending:
        case ".csv":
            text = io.StringIO()
            table = csv.DictWriter(text, columns)
            table.writeheader()
            for row in ROWS:
                table.writerow(
                    {key: json.dumps(part) if type(part) in (list, dict) else part for key, part in row.items()}
                )
            path.write_text(text.getvalue(), "utf-8-sig")
        case ".jsonl":
            path.write_text("\n\n".join(json.dumps(row) for row in ROWS))
        case ".yaml":
            import yaml

            path.write_text(yaml.safe_dump(ROWS))
        case ".parquet":
            arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
            rows = [
                {**row, "target_prompt": [row["target_prompt"]]} if isinstance(row["target_prompt"], str) else row
                for row in ROWS
            ]
            parquet.write_table(arrow.table({name: [row.get(name) for row in rows] for name in columns}), path)
    return path


def keys(lines: Any, folder: Path) -> list[tuple[str, str]]:
    return [(item.key, item.error) for item in items_of(lines, {}, Settings({"name": "emoji"}, folder))]


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".yaml", ".parquet"])
def test_all_formats_say_the_same(folder: Path, ending: str) -> None:
    wanted = keys([Line(k, row) for k, row in enumerate(ROWS, start=1)], folder)
    assert len(wanted) == len(set(wanted)) == 6
    assert all(error == "" for _, error in wanted)
    assert keys(read_manifest(written(folder, ending)), folder) == wanted


def test_json_lines_come_from_standard_input(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = io.TextIOWrapper(io.BytesIO(json.dumps(ROWS[0]).encode() + b"\n"))
    monkeypatch.setattr(sys, "stdin", text)
    inputs = read_inputs(["-"], folder / "out")
    assert [line.values for line in inputs.lines] == ROWS[:1]
    assert inputs.manifest


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("m.csv", "image,targt_prompt\na,b\n", r"line 2: unknown column 'targt_prompt': did you mean 'target_prompt'"),
        ("m.jsonl", '{"image": "a"}\n{"imge": "b"}\n', r"line 2: unknown column 'imge': did you mean 'image'"),
        ("m.csv", "image,seed,image\na,1,b\n", "line 1: column 'image' is there twice"),
        ("m.csv", "image,seed\na,1,2\n", "line 2: 3 cells, but 2 columns"),
        ("m.csv", 'image,seed\n"a\n', "line 2: no CSV"),
        ("m.csv", b"image\n\xff\xfe\n", "is not UTF-8"),
        ("m.csv", "image,seed\n", "has no rows: there is nothing to do"),
        ("m.csv", "image\n\n\n", "has no rows: there is nothing to do"),
        ("m.csv", "", "is empty"),
        ("m.jsonl", '{"image": "a"}\nimage\n', "line 2: it is no JSON"),
        ("m.jsonl", "[1]\n", "line 1: a row must be a table of columns, got list"),
        ("m.jsonl", '{"image": "a", "image": "b"}\n', "line 1: it names 'image' twice"),
        ("m.jsonl", '{"seed": NaN}\n', "line 1: it"),
        ("m.yaml", "image: a\n", "must be a list of tables, one an image, got dict"),
        ("m.yaml", "- &a {image: a}\n- *a\n", "line 2: aliases are not read"),
        ("m.yaml", "- {image: 2026-01-01}\n", "row 1: .*date"),
        ("m.yaml", "- " + "[" * 40, "at most 32 deep"),
        ("m.yaml", "- image: !!python/object:os.system a", "no YAML that we read"),
        ("m.yaml", "- image: 'a", "no YAML that we read"),
        ("m.parquet", "PAR1 and nothing more", "no Parquet file"),
        ("m.parquet", b"\x89PNG\r\n\x1a\n", "no Parquet file"),
    ],
)  # fmt: skip
def test_what_is_no_manifest_is_refused(tmp_path: Path, name: str, data: str | bytes, message: str) -> None:
    (tmp_path / name).write_bytes(data.encode() if isinstance(data, str) else data)
    with pytest.raises(UsageError, match=message) as caught:
        read_manifest(tmp_path / name)
    assert name in str(caught.value)
    assert len(str(caught.value)) < 1_000


def test_inputs_are_found_or_refused(tmp_path: Path) -> None:
    inner = tmp_path / "images" / "inner"
    inner.mkdir(parents=True)
    for path in (inner / "b.JPG", inner.parent / "a.png", inner.parent / "notes.txt"):
        path.write_bytes(b"x")
    out, images = tmp_path / "out", str(inner.parent)

    def names(*inputs: str, **given: bool) -> list[str]:
        return [Path(line.values["image"]).name for line in read_inputs(inputs, out, **given).lines]

    assert names(images) == ["a.png"]
    assert names(images, recursive=True) == ["a.png", "b.JPG"]
    assert names(f"{images}/**/*") == ["a.png", "b.JPG"]
    assert names(f"{images}/a.png", images) == ["a.png"]
    (inner.parent / "out" / "images").mkdir(parents=True)
    (inner.parent / "out" / "images" / "a-result.png").write_bytes(b"x")
    found = read_inputs([f"{images}/**/*.png"], inner.parent / "out").lines
    assert [Path(line.values["image"]).name for line in found] == ["a.png"]
    shutil.rmtree(inner.parent / "out")
    (tmp_path / "empty").mkdir()
    for inputs, place, message in (
        ([f"{tmp_path}/empty"], out, "there are no images in"),
        ([f"{tmp_path}/*.png"], out, "there are no images in"),
        ([f"{images}/notes.txt"], out, "neither an image .* nor a manifest"),
        ([f"{tmp_path}/gone.png"], out, "there is no"),
        ([f"{tmp_path}/gone.csv"], out, "there is no file"),
        ([images], inner.parent / "out", "lies in"),
    ):
        with pytest.raises(UsageError, match=message):
            read_inputs(inputs, place)


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".yaml", ".parquet"])
def test_damaged_manifests_make_no_other_error(folder: Path, ending: str) -> None:
    chance, good, path = random.Random(ending), written(folder, ending).read_bytes(), folder / f"bad{ending}"
    for _ in range(150):
        data = bytearray(good)
        for _ in range(chance.randint(1, 8)):
            place = chance.randrange(len(data))
            match chance.randrange(3):
                case 0:
                    data[place] = chance.randrange(256)
                case 1:
                    del data[place : place + chance.randint(1, 30)]
                case _:
                    data[place:place] = chance.choice(
                        [b'"', b"[", b"{", b"\0", b"\n", b",", b"- ", b"9" * 400, b"&a *a"]
                    )
            if not data:
                break
        path.write_bytes(data)
        with contextlib.suppress(UsageError):
            assert all(item.key for item in items_of(read_manifest(path), {}, Settings({"name": "emoji"}, folder)))
