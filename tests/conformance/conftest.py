"""The model that the golden cases were made with."""

from typing import Any

import pytest

import sfumato
from tests.conformance.golden import cases_folder
from tests.conformance.tiny_sd import complete_tiny_sd


@pytest.fixture(scope="session")
def conformance_model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The model beside the cases under test, on the CPU in float32."""
    folder = complete_tiny_sd(cases_folder(), tmp_path_factory.mktemp("conformance"))
    return sfumato.load_model(folder, device="cpu")
