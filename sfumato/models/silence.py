"""Silences the libraries below, and records what they would have printed."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from threading import RLock

_turn = RLock()


@contextlib.contextmanager
def quiet() -> Iterator[list[str]]:
    """Keeps diffusers and transformers from writing to the terminal; yields what they would have written.

    One thread at a time: what is changed belongs to the process, and must be put back in the right order.
    """
    with _turn:
        yield from _quiet()


def _quiet() -> Iterator[list[str]]:
    import transformers.utils.logging as transformers_logging
    from diffusers.utils import logging as diffusers_logging

    messages: list[str] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    collect = Collect()
    loggers = [logging.getLogger(library) for library in ("diffusers", "transformers")]
    saved = [(logger, logger.handlers[:], logger.level, logger.propagate) for logger in loggers]
    bars = [module for module in (diffusers_logging, transformers_logging) if module.is_progress_bar_enabled()]
    try:
        for logger in loggers:
            logger.handlers[:] = [collect]
            logger.setLevel(logging.WARNING)
            logger.propagate = False
        for module in bars:
            module.disable_progress_bar()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield messages
    finally:
        for logger, handlers, level, propagate in saved:
            logger.handlers[:] = handlers
            logger.setLevel(level)
            logger.propagate = propagate
        for module in bars:
            module.enable_progress_bar()
