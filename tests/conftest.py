"""What all tests share. Nothing here or in any test reaches for the network."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conformance.golden import COMMITTED
from tests.conformance.tiny_sd import complete_tiny_sd

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_sd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete Stable Diffusion 1.x folder at toy width, tokenizer included. Shared: copy it before changing it."""
    return complete_tiny_sd(COMMITTED, tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def tiny_model(tiny_sd: Path) -> Any:
    """That folder, loaded once for all tests of a process: leave it as it was found."""
    import sfumato

    return sfumato.load_model(tiny_sd, device="cpu")
