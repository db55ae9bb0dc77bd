"""The queue of runs on real models: order, places, progress, previews, cancelling, bounds."""

import io
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from PIL import Image

import sfumato
from sfumato.errors import SamplingError, UsageError
from sfumato.run.job_queue import Bounds, Busy, Job, JobQueue
from sfumato.run.memory_guard import RESERVE, MemoryGuard
from sfumato.watch import Progress, Watch


@dataclass(frozen=True)
class Made:
    """An outcome of so many bytes."""

    value: Any
    size: int = 1


def drawing(steps: int) -> Callable[[Any, Watch], Made]:
    """A real run."""
    return lambda model, watch: Made(sfumato.generate(model, "a cat", num_inference_steps=steps, watch=watch))


class Gate:
    """Work that says when it has begun, and goes on when it is let."""

    def __init__(self) -> None:
        self.begun, self.let = threading.Event(), threading.Event()

    def __call__(self, model: Any, watch: Watch) -> Made:
        self.begun.set()
        while not self.let.wait(0.01):
            watch.check()
        return Made("through")


def finished(job: Job, seconds: float = 60.0) -> Job:
    end = time.monotonic() + seconds
    while not job.over and time.monotonic() < end:
        job.asked_at = time.monotonic()
        time.sleep(0.005)
    assert job.over, job
    return job


@pytest.fixture
def queue(toy_model: Any) -> Iterator[Callable[..., JobQueue]]:
    made: list[JobQueue] = []

    def make(**bounds: Any) -> JobQueue:
        made.append(JobQueue({"toy": toy_model}, Bounds(**bounds)))
        return made[-1]

    yield make
    for one in made:
        one.close()


def submit(queue: JobQueue, work: Any, client: str = "me", pixels: int = 1) -> Job:
    return queue.submit(work, model="toy", client=client, pixels=pixels)


def test_a_run_gives_what_it_gives_by_itself(queue: Callable[..., JobQueue], toy_model: Any) -> None:
    job = finished(submit(queue(), drawing(3)))
    alone = sfumato.generate(toy_model, "a cat", num_inference_steps=3)
    assert job.state == "done"
    assert job.outcome.value.image.tobytes() == alone.image.tobytes()
    assert (job.stage, job.done, job.total) == ("drawing", 3, 3)


def test_jobs_run_in_the_order_in_which_they_came_and_know_their_place(queue: Callable[..., JobQueue]) -> None:
    q, gate, order = queue(), Gate(), list[int]()
    first = submit(q, gate)
    assert gate.begun.wait(10)
    others = [submit(q, lambda model, watch, k=k: order.append(k) or Made(k)) for k in range(3)]
    assert [q.place(job) for job in (first, *others)] == [0, 1, 2, 3]
    gate.let.set()
    for job in others:
        finished(job)
    assert order == [0, 1, 2]


def test_a_waiting_job_is_cancelled_at_once(queue: Callable[..., JobQueue]) -> None:
    q, gate = queue(), Gate()
    submit(q, gate)
    assert gate.begun.wait(10)
    second, third = submit(q, drawing(2)), submit(q, drawing(2))
    assert q.cancel(second.id)
    assert second.state == "cancelled"
    assert q.place(third) == 1
    assert not q.cancel(second.id)
    gate.let.set()
    assert finished(third).state == "done"


def test_a_running_job_is_cancelled_within_one_step(queue: Callable[..., JobQueue]) -> None:
    q, seen = queue(), list[Progress]()

    def work(model: Any, watch: Watch) -> Made:
        def progress(progress: Progress) -> None:
            seen.append(progress)
            if progress.done == 2:
                q.cancel(job.id)

        own = Watch(progress=progress, cancelled=watch.cancelled)
        return Made(sfumato.generate(model, "a cat", num_inference_steps=50, watch=own))

    job = submit(q, work)
    assert finished(job).state == "cancelled"
    assert seen[-1].done == 2


def test_previews_are_small_images_of_the_run(queue: Callable[..., JobQueue]) -> None:
    q, shown = queue(), list[bytes]()

    def work(model: Any, watch: Watch) -> Made:
        sfumato.generate(model, "a cat", num_inference_steps=4, watch=watch)
        shown.append(job.preview or b"")
        return Made(None)

    job = submit(q, work)
    assert finished(job).previews >= 1
    assert Image.open(io.BytesIO(shown[0])).size == (128, 128)
    assert job.preview is None


def test_previews_do_not_change_the_image(queue: Callable[..., JobQueue], toy_model: Any) -> None:
    edited = {"source_prompt": "a cat", "target_prompt": "a dog", "num_inference_steps": 3}
    job = finished(submit(queue(), lambda model, watch: Made(sfumato.edit(model, None, watch=watch, **edited))))
    assert job.outcome.value.image.tobytes() == sfumato.edit(toy_model, None, **edited).image.tobytes()


def test_a_full_queue_says_when_to_come_back(queue: Callable[..., JobQueue]) -> None:
    q, gate = queue(waiting=2, per_client=100), Gate()
    submit(q, gate)
    assert gate.begun.wait(10)
    for _ in range(2):
        submit(q, drawing(1))
    with pytest.raises(Busy, match="2 runs are waiting already") as refused:
        submit(q, drawing(1))
    assert 1 <= refused.value.retry_after <= 600
    gate.let.set()


def test_one_client_cannot_fill_the_queue(queue: Callable[..., JobQueue]) -> None:
    q, gate = queue(per_client=2), Gate()
    submit(q, gate)
    submit(q, drawing(1))
    with pytest.raises(Busy, match="2 of your runs wait or run"):
        submit(q, drawing(1))
    other = submit(q, drawing(1), client="other")
    gate.let.set()
    assert finished(other).state == "done"


def test_a_job_that_nobody_asks_after_is_given_up(queue: Callable[..., JobQueue]) -> None:
    q, gate = queue(patience=0.2), Gate()
    running, waiting = submit(q, gate), submit(q, drawing(1))
    assert gate.begun.wait(10)
    end = time.monotonic() + 10
    while not (running.over and waiting.over) and time.monotonic() < end:
        time.sleep(0.01)
    assert (running.state, waiting.state) == ("cancelled", "cancelled")
    assert "no client asked" in running.error


def test_a_run_that_takes_too_long_is_stopped(queue: Callable[..., JobQueue]) -> None:
    job = finished(submit(queue(seconds=0.1), Gate()))
    assert job.state == "cancelled"
    assert "0.1 seconds" in job.error


def test_old_results_go_first(queue: Callable[..., JobQueue]) -> None:
    q = queue(kept=3, kept_bytes=100)
    small = [finished(submit(q, lambda model, watch: Made(0))) for _ in range(4)]
    assert [q.get(job.id) is None for job in small] == [True, False, False, False]
    large = finished(submit(q, lambda model, watch: Made(0, size=99)))
    assert [q.get(job.id) is None for job in small] == [True, True, True, False]
    assert q.get(large.id) is large


def test_a_failed_run_says_why_and_the_worker_lives_on(
    queue: Callable[..., JobQueue], caplog: pytest.LogCaptureFixture
) -> None:
    q = queue()
    job = finished(submit(q, lambda model, watch: Made(sfumato.generate(model, "a cat", size=(7, 8), watch=watch))))
    assert job.state == "failed"
    assert "multiples of 8" in job.error

    def broken(model: Any, watch: Watch) -> Made:
        raise KeyError("/secret/place")

    assert "secret" not in finished(submit(q, broken)).error
    assert finished(submit(q, drawing(1))).state == "done"


def test_an_unknown_model_is_refused(queue: Callable[..., JobQueue]) -> None:
    with pytest.raises(UsageError, match="no model 'other' here: there are toy"):
        queue().submit(drawing(1), model="other", client="me", pixels=1)


def test_no_thread_outlives_the_queue(queue: Callable[..., JobQueue]) -> None:
    before = threading.active_count()
    q, gate = queue(), Gate()
    running, waiting = submit(q, gate), submit(q, drawing(1))
    assert gate.begun.wait(10)
    q.close()
    assert (running.state, waiting.state) == ("cancelled", "cancelled")
    assert threading.active_count() == before
    with pytest.raises(Busy, match="about to stop"):
        submit(q, drawing(1))


class FakeGauge:
    """A device with so many bytes free, on which a run takes so many."""

    def __init__(self, free: int, taken: int) -> None:
        self.bytes, self.taken, self.cleared = free, taken, 0

    def free(self) -> int:
        return self.bytes

    def held(self) -> int:
        return 0

    def peak(self) -> int:
        return self.taken

    def clear(self) -> None:
        self.cleared += 1


def test_a_run_that_would_not_fit_by_what_others_took_is_refused() -> None:
    guard = MemoryGuard(FakeGauge(RESERVE + 1000, taken=500))  # type: ignore[arg-type]
    assert guard.run(lambda: "small", 10) == "small"
    assert guard.run(lambda: "twice as large", 20) == "twice as large"
    with pytest.raises(SamplingError, match="use a smaller image"):
        guard.run(lambda: pytest.fail("it was run"), 60)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("x"), RuntimeError("DefaultCPUAllocator: can't allocate")])
def test_out_of_memory_is_tried_once_more_and_then_said_in_words(error: Exception) -> None:
    gauge, tries = FakeGauge(RESERVE + 1000, taken=500), list[int]()

    def work() -> str:
        tries.append(1)
        raise error

    with pytest.raises(SamplingError, match="use a smaller image"):
        MemoryGuard(gauge).run(work, 1)  # type: ignore[arg-type]
    assert (len(tries), gauge.cleared) == (2, 2)


def test_another_error_is_not_taken_for_memory() -> None:
    with pytest.raises(RuntimeError, match="shapes"):
        MemoryGuard(FakeGauge(RESERVE, taken=0)).run(_shapes, 1)  # type: ignore[arg-type]


def _shapes() -> None:
    raise RuntimeError("shapes do not fit")
