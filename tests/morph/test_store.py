"""The store keeps whole files under keys that tell apart whatever changes a result."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sfumato.errors import UsageError
from sfumato.morph.path import Ends
from sfumato.morph.store import Store, adaptation_key

ENDS = Ends(torch.zeros(2, 3, 8, 8), torch.zeros(2, 4, 1, 1), ("a cat", "a dog"), ("one", "two"))
MODEL: Any = SimpleNamespace(revision="abc", dtype=torch.float32)


def key(model: Any = MODEL, ends: Ends = ENDS, part: str = "adapter", **options: Any) -> str:
    return adaptation_key(model, ends, part, {"rank": 4} | options)


def test_the_key_changes_with_whatever_changes_the_result() -> None:
    keys = [
        key(),
        key(rank=8),
        key(seed=1),
        key(part="embeddings"),
        key(model=SimpleNamespace(revision="def", dtype=torch.float32)),
        key(model=SimpleNamespace(revision="abc", dtype=torch.float16)),
        key(ends=replace(ENDS, pictures=("one", "three"))),
        key(ends=replace(ENDS, pictures=("two", "one"))),
        key(ends=replace(ENDS, prompts=("a cat", "a lion"))),
        key(ends=replace(ENDS, latents=torch.zeros(2, 4, 2, 2))),
        key(ends=replace(ENDS, pictures=("", ""))),
        key(ends=replace(ENDS, pictures=("", ""), latents=torch.ones(2, 4, 1, 1))),
    ]
    assert len(set(keys)) == len(keys)
    assert key() == keys[0]
    assert key().startswith("adapter-")


def test_keeps_and_gives_back(tmp_path: Path) -> None:
    store = Store(tmp_path / "new" / "folder")
    assert store.load("run") is None
    assert not store.folder.exists()
    store.save("run", {"up": torch.arange(3.0)}, {"done": 3})
    store.slot("run").save({"up": torch.arange(4.0)}, {"done": 4})
    found = store.load("run")
    assert found is not None
    assert torch.equal(found[0]["up"], torch.arange(4.0))
    assert found[1] == {"done": 4}
    assert [path.name for path in store.folder.iterdir()] == ["run.safetensors"]


def test_a_damaged_file_counts_as_none(tmp_path: Path) -> None:
    store = Store(tmp_path)
    path = store.save("run", {"up": torch.arange(3.0)}, {})
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    with pytest.warns(UserWarning, match="damaged.*training starts anew"):
        assert store.load("run") is None


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot keep adaptations in"):
        Store(tmp_path / "file" / "inside").save("run", {}, {})
