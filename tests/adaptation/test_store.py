"""The store keeps whole files under keys that tell apart whatever changes a result."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sfumato import files
from sfumato.adaptation.store import Store
from sfumato.errors import Cancelled, UsageError
from sfumato.morphs.path import Ends, adaptation_key
from sfumato.watch import Watch

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
        key(ends=replace(ENDS, image_digests=("one", "three"))),
        key(ends=replace(ENDS, image_digests=("two", "one"))),
        key(ends=replace(ENDS, prompts=("a cat", "a lion"))),
        key(ends=replace(ENDS, latents=torch.zeros(2, 4, 2, 2))),
        key(ends=replace(ENDS, image_digests=("", ""))),
        key(ends=replace(ENDS, image_digests=("", ""), latents=torch.ones(2, 4, 1, 1))),
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


def full(*_: Any) -> None:
    raise OSError(28, "No space left on device")


def test_a_folder_is_tried_before_the_work_and_left_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Store(tmp_path / "not" / "yet").check()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    for wrong in (tmp_path / "file", tmp_path / "file" / "inside", tmp_path / ("x" * 300)):
        with pytest.raises(UsageError, match=r"cannot keep adaptations in .*: name another folder"):
            Store(wrong).check()
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UsageError, match="No space left on device"):
        Store(tmp_path).check()
    with pytest.raises(UsageError, match="name another folder"):
        Store("~nobody-of-this-name/morph")


def test_a_full_disk_after_the_training_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.warns(UserWarning, match=r"cannot write .*run\.safetensors: No space left on device; the run goes on"):
        Store(tmp_path).slot("run").save({"up": torch.arange(3.0)}, {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(files.fcntl is None, reason="there are no locks here")
def test_who_trains_the_same_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_SECONDS_BETWEEN_TRIES", 0.01)
    slot, other = Store(tmp_path).slot("run"), Store(tmp_path).slot("other")
    asked = iter([False, False, True])
    with (
        slot.locked(Watch()),
        other.locked(Watch()),
        pytest.warns(UserWarning, match="another run trains the same in .*: waiting for it"),
        pytest.raises(Cancelled),
        slot.locked(Watch(cancelled=lambda: next(asked))),
    ):
        pass
    with slot.locked(Watch()):
        assert [path.name for path in tmp_path.iterdir()] == [".run.lock"]
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with Store(tmp_path / "file").slot("run").locked(Watch()):  # what cannot be written needs no lock
        pass
