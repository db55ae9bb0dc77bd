"""Tensors in one file: whole or not there, with the rights that the umask gives, and one clear line on a full disk."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from sfumato.errors import InversionError
from sfumato.tensorfile import Kind, load_tensors, save_tensors

KIND = Kind("test", make="make it", again="make it again", error=InversionError)
TENSORS = {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(2, dtype=torch.bfloat16), "none": torch.zeros(0, 3)}


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    path = save_tensors(tmp_path / "one.safetensors", TENSORS, {"steps": 3}, KIND)
    tensors, fields = load_tensors(path, KIND)
    assert {name: (tensor.dtype, tensor.tolist()) for name, tensor in tensors.items()} == {
        name: (tensor.dtype, tensor.tolist()) for name, tensor in TENSORS.items()
    }
    assert fields == {"steps": 3}
    assert [other.name for other in tmp_path.iterdir()] == ["one.safetensors"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
def test_tensors_have_the_rights_that_the_umask_gives(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        path = save_tensors(tmp_path / "one.safetensors", TENSORS, {}, KIND)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_full_disk_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(InversionError, match=r"cannot write .*one\.safetensors: No space left on device$"):
        save_tensors(tmp_path / "one.safetensors", TENSORS, {}, KIND)
    assert list(tmp_path.iterdir()) == []
