"""Proves and measures `sfumato serve` with the embedded model, on small images and one step.

    python benchmarks/serve.py start       # until it answers, beside loading the model alone
    python benchmarks/serve.py clients     # 50 clients at once: none lost, none doubled
    python benchmarks/serve.py memory      # 500 runs: memory after 50 and after all
    python benchmarks/serve.py kill        # SIGKILL in the middle of a run, and started again
    python benchmarks/serve.py overhead    # an edit by the page against sfumato.edit
    python benchmarks/serve.py paint       # the first paint in a fresh browser, after `make browser`

Seconds of the processor are given beside seconds, as they mean something on a machine with other jobs, too. All but
`start`, `overhead` and `paint`, which only measure, end with an error where the server does not keep what it promises.
"""

from __future__ import annotations

import argparse
import http.client
import io
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIDE = 64
EDIT = {"command": "edit", "source_prompt": "a cat", "target_prompts": ["a dog"], "method": "sdedit"}
EDIT |= {"num_inference_steps": 1, "options": {"strength": 1.0}}
OVER = ("done", "failed", "cancelled")
OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]


class Server:
    """`sfumato serve` in a process of its own, and questions to it."""

    def __init__(self, *options: str, temporary: str | None = None) -> None:
        command = [sys.executable, "-m", "sfumato", "serve", "--port", "0", "--device", "cpu", *options]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **({"TMPDIR": temporary} if temporary else {})}
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        assert self.process.stdout is not None
        found = re.search(r":(\d+)/", self.process.stdout.readline())
        assert found is not None
        self.port = int(found[1])

    def ask(self, method: str, path: str, body: bytes | None = None, kind: str = "application/json") -> Any:
        """Status, headers and JSON of an answer; the server may take its time to begin to listen."""
        for _ in range(3):
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
            try:
                connection.request(method, path, body, {"content-type": kind})
                answer = connection.getresponse()
                return answer.status, answer.headers, json.loads(answer.read())
            except ConnectionResetError:
                time.sleep(0.1)
            finally:
                connection.close()
        raise ConnectionError(path)

    def upload(self, seed: int) -> str:
        status, _, said = self.ask("POST", f"/api/images?name={seed}.png", picture(seed), "image/png")
        assert status == 201, said
        return str(said["id"])

    def submit(self, seed: int) -> tuple[int, Any, Any]:
        form = {"request": {**EDIT, "seed": seed}, "image": self.upload(seed)}
        return self.ask("POST", "/api/runs", json.dumps(form).encode())  # type: ignore[no-any-return]

    def wait(self, run: str, pause: float = 0.02) -> Any:
        while (news := self.ask("GET", f"/api/runs/{run}")[2])["state"] not in OVER:
            time.sleep(pause)
        assert news["state"] == "done", news
        return news

    def memory(self) -> float:
        """MB that it holds."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024  # type: ignore[index]

    def processor(self) -> float:
        """Seconds of the processor that it used."""
        times = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(times[11]) + int(times[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def serving(*options: str, temporary: str | None = None) -> Iterator[Server]:
    server = Server(*options, temporary=temporary)
    try:
        yield server
    finally:
        server.process.kill()
        server.process.wait()


def picture(seed: int) -> bytes:
    """A soft image of its own for each seed, as PNG."""
    values = np.random.default_rng(seed).integers(0, 255, (4, 4, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(values).resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(file, "png")
    return file.getvalue()


def start() -> None:
    """The time until the server answers, and that of a process that does nothing but load the model."""
    code = "import sfumato, time; sfumato.load_model('emoji', device='cpu'); print(time.process_time())"
    for _ in range(2):  # the first warms the disk's cache
        begun = time.perf_counter()
        alone = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        loading, used = time.perf_counter() - begun, float(alone.stdout)
    begun = time.perf_counter()
    with serving() as server:
        assert server.ask("GET", "/api/health")[0] == 200
        taken, of_server = time.perf_counter() - begun, server.processor()
        print(f"loads the model alone: {loading:.1f} s ({used:.1f} s of the processor)")
        print(f"serves: {taken:.1f} s ({of_server:.1f})")
        print(f"so it serves {taken - loading:.1f} s after the model is loaded ({of_server - used:.1f})")


def clients(count: int = 50) -> None:
    """Each client asks for one edit; a refused one comes back when it was told to."""
    statuses, results, lock = Counter[int](), {}, threading.Lock()

    def one(seed: int) -> None:
        while True:
            status, headers, said = server.submit(seed)
            with lock:
                statuses[status] += 1
            if status == 202:
                break
            assert status in (429, 503), (status, said)
            assert int(headers["retry-after"]) >= 1
            time.sleep(int(headers["retry-after"]))
        news = server.wait(said["id"])
        with lock:
            results[seed] = (said["id"], news["result"]["recipe"]["seed"])

    with serving("--per-client", "1000") as server:
        server.wait(server.submit(10_000)[2]["id"])  # the first run warms up
        begun, used = time.perf_counter(), server.processor()
        threads = [threading.Thread(target=one, args=(seed,)) for seed in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        taken, used = time.perf_counter() - begun, server.processor() - used
    assert {seed: own for seed, (_, own) in results.items()} == {seed: seed for seed in range(count)}
    assert len({run for run, _ in results.values()}) == count
    assert statuses[202] == count
    refused = sum(statuses.values()) - count
    print(f"{count} clients at once: all done in {taken:.0f} s ({used:.0f} s of the processor), {refused} times told"
          " to come back, none lost, none doubled")  # fmt: skip


def memory(count: int = 500) -> None:
    with serving() as server:
        held = {}
        for k in range(1, count + 1):
            server.wait(server.submit(k)[2]["id"])
            if k in (1, 50, 100, 200, 350, count):
                held[k] = server.memory()
                print(f"after {k} runs: {held[k]:.0f} MB", flush=True)
    assert held[count] <= 1.1 * held[50], held


def kill() -> None:
    """A server that is killed leaves nothing behind, and the next one serves."""
    with tempfile.TemporaryDirectory() as temporary:
        with serving(temporary=temporary) as server:
            run = server.submit(1)[2]["id"]
            while server.ask("GET", f"/api/runs/{run}")[2]["state"] != "running":
                time.sleep(0.005)
            server.process.send_signal(signal.SIGKILL)
            server.process.wait()
        left = [path.name for path in Path(temporary).rglob("*") if path.is_file()]
        with serving("--port", str(server.port), temporary=temporary) as again:
            assert again.port == server.port
            again.wait(again.submit(1)[2]["id"])
    assert not left, left
    print("killed in the middle of a run: no file is left, and started again on the same port it serves")


def overhead(times: int = 4, steps: int = 20) -> None:
    """Seconds of the processor of the same edit by the server and by the library, in turn; the best of each."""
    import sfumato
    from sfumato.emoji import EXAMPLES

    model: Any = sfumato.load_model("emoji", device="cpu")
    texts = {"source_prompt": "a cat on a blue background", "target_prompts": ["a dog on a blue background"]}
    page, library = [], []
    with serving() as server:
        image = Image.open(EXAMPLES / "cat.png").convert("RGB")
        for seed in range(times + 1):
            image.putpixel((0, 0), (seed, seed, seed))  # the server would not invert an image that it knows
            image.save(file := io.BytesIO(), "png")
            used = server.processor()
            upload = server.ask("POST", "/api/images?name=cat.png", file.getvalue(), "image/png")[2]["id"]
            request = {"command": "edit", **texts, "num_inference_steps": steps, "seed": seed}
            run = server.ask("POST", "/api/runs", json.dumps({"request": request, "image": upload}).encode())[2]["id"]
            server.wait(run, pause=2.0)
            page.append(server.processor() - used)
            used = time.process_time()
            source, target = texts["source_prompt"], texts["target_prompts"][0]
            result = sfumato.edit(
                model, Image.open(file), source_prompt=source, target_prompt=target,
                num_inference_steps=steps, seed=seed,
            )  # fmt: skip
            result.image.save(io.BytesIO(), "png")
            library.append(time.process_time() - used)
    best, middle = min(page[1:]) / min(library[1:]), statistics.median(page[1:]) / statistics.median(library[1:])
    print(
        f"an edit of {steps} steps, seconds of the processor: {min(page[1:]):.2f} by the page, {min(library[1:]):.2f}"
    )
    print(f"by the library: {100 * (best - 1):+.1f} % (best of {times}), {100 * (middle - 1):+.1f} % (median)")


def paint(times: int = 3) -> None:
    """Milliseconds until the first paint, and until the page can be used, each time in a browser that is new."""
    from playwright.sync_api import sync_playwright

    program = shutil.which(os.environ.get("SFUMATO_CHROMIUM", "chromium"))
    first = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
    with serving() as server, sync_playwright() as playwright:
        for _ in range(times):
            browser = playwright.chromium.launch(executable_path=program, args=OPTIONS, timeout=300_000)
            page, asked = browser.new_page(), list[str]()
            page.on("response", lambda answer, asked=asked: asked.append(answer.url))
            begun = time.perf_counter()
            page.goto(f"http://127.0.0.1:{server.port}/")
            page.locator(".strip button").first.wait_for(timeout=300_000)
            usable = time.perf_counter() - begun
            files = [url for url in asked if "/api/images/" not in url]
            print(f"first paint {page.evaluate(first):.0f} ms, usable {1e3 * usable:.0f} ms, {len(files)} requests"
                  " besides the examples", flush=True)  # fmt: skip
            browser.close()


if __name__ == "__main__":
    parts = {part.__name__: part for part in (start, clients, memory, kill, overhead, paint)}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=parts)
    parts[parser.parse_args().what]()
