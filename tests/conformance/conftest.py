"""The model that the golden cases were made with, and when they run: first, shared out among the processes."""

import os
from typing import Any

import pytest

import sfumato
from tests.conformance.golden import cases_folder
from tests.conformance.tiny_sd import copy_tiny_sd


@pytest.fixture(scope="session")
def conformance_model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The model beside the cases under test, on the CPU in float32."""
    folder = copy_tiny_sd(cases_folder(), tmp_path_factory.mktemp("conformance"))
    return sfumato.load_model(folder, device="cpu")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Lets every process begin with its share of the golden cases, of which some take minutes.

    One that is left to the end is waited for. pytest-xdist hands each process an equally long stretch of the list.
    """
    cases = [item for item in items if item.path.name == "test_conformance.py"]
    others = [item for item in items if item.path.name != "test_conformance.py"]
    cases.sort(key=lambda item: getattr(item, "callspec").params["case"].size, reverse=True)  # noqa: B009  # undeclared
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    arranged: list[pytest.Item] = []
    for process in range(processes):
        stretch = len(items) * (process + 1) // processes - len(arranged)
        own = cases[process::processes]
        taken = max(stretch - len(own), 0) if process < processes - 1 else len(others)
        arranged += own + others[:taken]
        others = others[taken:]
    items[:] = arranged
