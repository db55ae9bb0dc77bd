"""Jobs on a Ray cluster of two simulated machines are done once, whoever is lost."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sfumato.api.batch import Options, run_batch
from sfumato.api.batch_items import Settings
from sfumato.api.batch_progress import Progress
from sfumato.api.batch_work import Begin
from sfumato.api.manifest import Line
from sfumato.errors import UsageError
from sfumato.run.jobs import Died, run_jobs
from sfumato.run.ray_crew import RayCrew
from tests.run.jobs import Square
from tests.toy import toy_sd_folder

ray = pytest.importorskip("ray")

TRIES = 3
"""On a busy machine, a part of the cluster may not be there in the time that Ray gives it."""


def ports() -> dict[str, int]:
    """Free ports for the agents of a machine: where they are given, Ray does not wait for the agents to name them."""
    names = ("metrics_agent_port", "metrics_export_port", "runtime_env_agent_port", "dashboard_agent_listen_port")
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in names]
    found = {name: one.getsockname()[1] for name, one in zip(names, sockets, strict=True)}
    for one in sockets:
        one.close()
    return found


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head without cores, and two machines with one each."""
    from ray.cluster_utils import Cluster

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's own 15 gives actors next to nothing of a busy machine
    for _ in range(TRIES):
        cluster = Cluster()
        try:
            cluster.add_node(num_cpus=0, include_dashboard=False, **ports())
            for _ in range(2):
                cluster.add_node(num_cpus=1, **ports())
            ray.init(address=cluster.address, log_to_driver=False)
            break
        except Exception as error:  # noqa: BLE001 - of Ray's many
            reason = error
            cluster.shutdown()
    else:
        pytest.skip(f"no Ray cluster starts here: {reason}")
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:1", r"no Ray cluster can be reached at 127\.0\.0\.1:1"),
        ("here", "must be auto or HOST:PORT"),
        ("host:99999", "must be auto or HOST:PORT"),
    ],
)
def test_what_is_no_cluster_is_refused(tmp_path: Path, address: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        RayCrew(Square(tmp_path / "log"), address)


def test_actors_do_each_job_once(cluster: Any, tmp_path: Path) -> None:
    with RayCrew(Square(tmp_path / "log"), cluster.address) as crew:
        assert crew.places == 2
        found = dict(run_jobs(crew, [[1, 2], [3, 4]], workers=crew.places))
    assert found == {1: 1, 2: 4, 3: 9, 4: 16}


def test_an_actor_that_is_killed_and_one_that_kills(cluster: Any, tmp_path: Path) -> None:
    with RayCrew(Square(tmp_path / "log", once=(2,), fatal=(4,)), cluster.address) as crew:
        found = dict(run_jobs(crew, [[1, 2], [3, 4]], workers=2))
    assert isinstance(found.pop(4), Died)
    assert found == {1: 1, 2: 4, 3: 9}
    with RayCrew(Square(tmp_path / "log", refuses=(6,)), cluster.address) as crew:  # noqa: SIM117
        with pytest.raises(UsageError, match="6 is refused"):
            list(run_jobs(crew, [[5, 6]], workers=1))


def test_a_machine_that_is_lost(cluster: Any, tmp_path: Path) -> None:
    facts: list[object] = []
    found: dict[int, int] = {}
    lost = next(iter(cluster.worker_nodes))
    with RayCrew(Square(tmp_path / "log", pause=0.5), cluster.address) as crew:
        for number, square in run_jobs(crew, [[k] for k in range(60)], workers=2, ready=facts.append):
            found[number] = square
            if len(facts) == 2 and lost in cluster.worker_nodes:
                cluster.remove_node(lost, allow_graceful=False)
    assert found == {k: k * k for k in range(60)}
    assert lost not in cluster.worker_nodes


def test_a_batch_loses_and_doubles_nothing_when_a_machine_is_lost(cluster: Any, tmp_path: Path) -> None:
    model = toy_sd_folder(tmp_path / "model")
    for seed in range(6):
        values = np.random.default_rng(seed).integers(0, 255, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(values).resize((64, 64), Image.Resampling.BICUBIC).save(tmp_path / f"{seed}.png")
    lines = [Line(seed, {"image": f"{seed}.png"}) for seed in range(6)]
    texts = {"source_prompt": "a cat", "target_prompt": "a dog", "method": "sdedit", "num_inference_steps": 4}
    settings, options = Settings({"name": str(model), "device": "cpu"}, tmp_path), Options(workers=2, threads=1)
    extra = cluster.add_node(num_cpus=1, **ports())

    def tick(progress: Progress) -> None:
        if progress.done == 2 and extra in cluster.worker_nodes:
            cluster.remove_node(extra, allow_graceful=False)

    def on_ray(begin: Begin) -> RayCrew:
        return RayCrew(begin, cluster.address)

    def files(out: Path) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (out / "images").iterdir()}

    batch = run_batch(lines, texts, settings, tmp_path / "ray", options, hire=on_ray, tick=tick)
    assert (batch.progress.done, batch.progress.failed) == (6, 0)
    run_batch(lines, texts, settings, tmp_path / "here", Options(threads=1))
    assert files(tmp_path / "ray") == files(tmp_path / "here")
    rows = [json.loads(line)["item"] for line in (tmp_path / "ray" / "rows.jsonl").read_text().splitlines()]
    assert len(rows) == len(set(rows)) == 6
