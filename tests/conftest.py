"""What all tests share. Nothing here or in any test reaches for the network."""

import functools
import gc
import inspect
import os
import signal
import types

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conformance.golden import COMMITTED
from tests.conformance.tiny_sd import copy_tiny_sd

torch.set_num_threads(1)
gc.disable()  # until all tests are collected, which takes a quarter less time

# A shell lets what it runs in the background ignore Ctrl-C, and so do its children: the tests of Ctrl-C send one.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


# diffusers asks for the signature of an attention layer's processor at each call: a tenth of a toy network's time.
_signature = inspect.signature


@functools.cache
def _signature_of_method(function: Callable[..., Any], owner: type) -> inspect.Signature:
    return _signature(types.MethodType(function, owner))


def _signature_once(function: Any, **options: Any) -> inspect.Signature:
    if options or not isinstance(function, types.MethodType) or torch.compiler.is_compiling():
        return _signature(function, **options)
    return _signature_of_method(function.__func__, type(function.__self__))


inspect.signature = _signature_once


def pytest_collection_finish() -> None:
    """Leaves what is imported by now, about a million objects, out of what Python's collector looks through."""
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Asks every test to leave torch on one thread: threads that wait for one another make all tests after it slow."""
    yield
    if (left := torch.get_num_threads()) != 1:
        torch.set_num_threads(1)
        pytest.fail(f"the test leaves torch on {left} threads")


@pytest.fixture(scope="session")
def tiny_sd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete Stable Diffusion 1.x folder at toy width, tokenizer included. Shared: copy it before changing it."""
    return copy_tiny_sd(COMMITTED, tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def tiny_model(tiny_sd: Path) -> Any:
    """That folder, loaded once for all tests of a process: leave it as it was found."""
    import sfumato

    return sfumato.load_model(tiny_sd, device="cpu")


@pytest.fixture(scope="session")
def toy_model() -> Any:
    """A Stable Diffusion 1.x of three levels at 16x16 latents: quick enough for whole runs in a test."""
    from sfumato.models.stable_diffusion import StableDiffusion
    from tests.toy import toy_sd_pipeline

    return StableDiffusion.from_pipeline(toy_sd_pipeline(), name="toy", revision="toy")


@pytest.fixture(scope="session")
def toy_velocity_model() -> Any:
    """The same, predicting velocity as Stable Diffusion 2.x does."""
    from sfumato.models.stable_diffusion import StableDiffusion
    from tests.toy import toy_sd_pipeline

    pipeline = toy_sd_pipeline(prediction_type="v_prediction")
    return StableDiffusion.from_pipeline(pipeline, name="toy-v", revision="toy-v")


@pytest.fixture(scope="session")
def toy_xl_model() -> Any:
    """Stable Diffusion XL's topology at toy width: two text encoders, pooled embedding, size conditions."""
    from sfumato.models.sdxl import StableDiffusionXL
    from tests.toy import toy_sdxl_pipeline

    return StableDiffusionXL.from_pipeline(toy_sdxl_pipeline(), name="toy-xl", revision="toy-xl")
