"""Folders of toy models, and a hub's cache of their own for the tests."""

import shutil
from pathlib import Path

import pytest
from huggingface_hub import constants

from tests.toy import toy_sd_folder, toy_sdxl_folder


@pytest.fixture(scope="session")
def sd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Stable Diffusion folder at toy width. Shared: copy it before changing it."""
    return toy_sd_folder(tmp_path_factory.mktemp("model") / "plain")


@pytest.fixture(scope="session")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Likewise, of Stable Diffusion XL."""
    return toy_sdxl_folder(tmp_path_factory.mktemp("model") / "plain-xl")


@pytest.fixture
def copy(sd: Path, tmp_path: Path) -> Path:
    """The first one, to be changed."""
    return Path(shutil.copytree(sd, tmp_path / "copy"))


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache, so that no test depends on what the user has downloaded."""
    folder = tmp_path_factory.mktemp("hub")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    return folder
