"""The models that the golden cases were made with, and when cases run: first, shared out among the processes."""

import os
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest
from torch.nn import functional
from torch.overrides import TorchFunctionMode

import sfumato
from tests.conformance.golden import cases_folder
from tests.conformance.stored_sdxl import StoredSDXL, is_stored_sdxl
from tests.conformance.tiny_sd import copy_model


@pytest.fixture(scope="session")
def conformance_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str | None], Any]:
    """Gives the model of a name beside the cases under test, on the CPU in float32; None where a case needs none."""

    @cache
    def load(name: str | None) -> Any:
        if name is None:
            return None
        folder = copy_model(cases_folder(), name, tmp_path_factory.mktemp("conformance"))
        if is_stored_sdxl(folder):
            return StoredSDXL.read(folder, load("tiny-sd"))
        return sfumato.load_model(folder, device="cpu")

    return load


class WideHeads(TorchFunctionMode):
    """Fills the channels of toy heads, 4 or 8, up to 16 with zeros, which add nothing to scores and outputs.

    torch's attention kernel, nearly all of the time of a case at 64x64 latents, takes a third less for it. Hooks on the
    kernel see the heads as they are.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not functional.scaled_dot_product_attention:
            return func(*args, **kwargs)
        named = {**dict(zip(("query", "key", "value", "attn_mask"), args, strict=False)), **kwargs}
        width = named["query"].shape[-1]
        if named.get("scale") is None:
            named["scale"] = width**-0.5
        for name in ("query", "key", "value"):
            named[name] = functional.pad(named[name], (0, -width % 16))
        return func(**named)[..., :width]


@pytest.fixture(autouse=True)
def wide_heads() -> Iterator[None]:
    with WideHeads():
        yield


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Lets every process begin with its share of the golden cases, of which some take minutes, and of other long tests.

    One that is left to the end is waited for. pytest-xdist hands each process an equally long stretch of the list.
    """
    cases = [item for item in items if item.path.name == "test_conformance.py"]
    cases.sort(key=lambda item: getattr(item, "callspec").params["case"].size, reverse=True)  # noqa: B009  # undeclared
    first = cases + [item for item in items if item.get_closest_marker("long") is not None]
    chosen = set(first)
    others = [item for item in items if item not in chosen]
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    arranged: list[pytest.Item] = []
    for process in range(processes):
        stretch = len(items) * (process + 1) // processes - len(arranged)
        own = first[process::processes]
        taken = max(stretch - len(own), 0) if process < processes - 1 else len(others)
        arranged += own + others[:taken]
        others = others[taken:]
    items[:] = arranged
