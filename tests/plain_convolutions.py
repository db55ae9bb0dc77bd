"""A fixture for folders of tests that run toy networks: their `conftest.py` imports it."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True, scope="package")
def plain_convolutions() -> Iterator[None]:
    """Torch's own convolutions: those of oneDNN take longer to start than a toy network's take to run."""
    torch.backends.mkldnn.enabled = False
    yield
    torch.backends.mkldnn.enabled = True
