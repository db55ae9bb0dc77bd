"""Silence for the libraries below ends as it began, also where several threads load at once."""

import logging
from threading import Event, Thread

from sfumato.models.silence import quiet


def test_silence_of_two_threads_leaves_the_loggers_as_found() -> None:
    loggers = [logging.getLogger(library) for library in ("diffusers", "transformers")]
    with quiet():
        pass  # imports them
    before = [(logger.handlers[:], logger.level, logger.propagate) for logger in loggers]
    first_inside, second_started = Event(), Event()

    def first() -> None:
        with quiet():
            first_inside.set()
            second_started.wait(5)

    def second() -> None:
        first_inside.wait(5)
        Thread(
            target=lambda: (second_started.wait(0.2), second_started.set())
        ).start()  # while this one waits, or is in
        with quiet() as heard:
            second_started.wait(5)
            threads[0].join(5)  # the first one ends first
            logging.getLogger("transformers").warning("heard")
        assert heard == ["heard"]

    threads = [Thread(target=first), Thread(target=second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert [(logger.handlers[:], logger.level, logger.propagate) for logger in loggers] == before
