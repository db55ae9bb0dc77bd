"""What strangers and other pages must not be able to do."""

import json
import re
import resource
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import quote

import pytest
from PIL import Image

from sfumato.apps.web.forms import Limits
from sfumato.apps.web.public import file_label, model_label, without_paths
from sfumato.images import png_bytes
from sfumato.run.job_queue import Bounds
from tests.apps.web.serving import Client, serving
from tests.apps.web.test_server import EDIT, picture

TOKEN = "a-token-of-letters-0123456789"
MB = 2**20


@pytest.fixture(scope="module")
def client(toy_model: Any) -> Iterator[Client]:
    with serving(toy_model, limits=Limits(upload_bytes=2 * MB), hosts=["art.example.org"]) as client:
        yield client


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "127.0.0.1@evil.example", "localhost."])
def test_another_host_is_refused(client: Client, host: str) -> None:
    reply = client.get("/api/library", host=host)
    assert reply.status in (400, 403)
    assert b"methods" not in reply.body


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:99", "127.0.0.1", "[::1]:7860", "art.example.org"])
def test_own_hosts_are_let_in(client: Client, host: str) -> None:
    assert client.get("/api/health", host=host).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:1"},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
    ],
)
@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/api/runs"), ("POST", "/api/images"), ("DELETE", "/api/runs/x")]
)
def test_another_page_starts_nothing(client: Client, method: str, path: str, headers: dict[str, str]) -> None:
    assert client.ask(method, path, b"{}", content_type="application/json", **headers).status == 403


def test_the_own_page_may(client: Client) -> None:
    headers = {"origin": f"http://127.0.0.1:{client.port}", "sec_fetch_site": "same-origin"}
    assert client.post("/api/runs", {"request": {}}, **headers).status == 422


def test_every_answer_has_the_headers(client: Client) -> None:
    for reply in (
        client.get("/"),
        client.get("/no"),
        client.get("/", host="evil.example"),
        client.post("/api/runs", 1),
    ):
        assert reply.headers["content-security-policy"].startswith("default-src 'none'")
        assert "unsafe" not in reply.headers["content-security-policy"]
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert reply.headers["referrer-policy"] == "no-referrer"
        assert reply.headers["cross-origin-opener-policy"] == "same-origin"
        assert not [name for name in reply.headers if name.startswith("access-control")]
        assert "server" not in reply.headers


TRAVERSAL = (
    "../pyproject.toml", "..%2f..%2fpyproject.toml", "%2e%2e/%2e%2e/server.py", "....//server.py", "/etc/passwd",
    "%2fetc%2fpasswd", "index.html%00.png", "C:%5cwindows%5cwin.ini", "%5c%5chost%5cshare", "..\\..\\server.py",
    "image-0.png/..", "%c0%ae%c0%ae/x", "~root", "..", ".", "", "__init__.py", "server.py",
)  # fmt: skip


@pytest.mark.parametrize("path", TRAVERSAL)
@pytest.mark.parametrize("below", ["/static/", "/api/runs/", "/api/images/", "/api/runs/{run}/"])
def test_no_path_leads_to_a_file(client: Client, below: str, path: str) -> None:
    below = below.format(run="0" * 32)
    reply = client.get(below + quote(path, safe="%/\\.~:"))
    assert reply.status in (307, 400, 404, 405)
    assert b"root:" not in reply.body
    assert b"import" not in reply.body


@pytest.mark.parametrize(
    ("request_part", "complaint"),
    [
        ({"image": {"path": "/etc/passwd"}}, "does not name its image"),
        ({"inverted": {"path": "/tmp/x.safetensors"}}, "does not name its inverted"),
        ({"mask": {"path": "/etc/passwd"}}, "does not name its mask"),
        ({"images": [{"path": "/etc/passwd"}], "command": "morph"}, "does not name its images"),
        ({"method": "pix2pix-zero", "options": {"direction": "/etc/passwd"}}, "does not open"),
        ({"method": "langevin", "options": {"encoder": "someone/some-network"}}, "does not open"),
        ({"store": "/tmp"}, "holds 'store'"),
        ({"model": "someone/some-network"}, "holds 'model'"),
        ({"num_inference_steps": 10_000}, "here 200 are the most"),
        ({"target_prompts": ["a dog"] * 5}, "here 4 are the most"),
        ({"source_prompt": "cat " * 1000}, "here 1000 are the most"),
        ({"size": [4096, 4096]}, "choose a smaller size"),
        ({"method": "langevin", "options": {"num_langevin_steps": 100_000}}, "more than a run here may ask for"),
        ({"method": "null-text"}, "unknown method"),
        ({"guidance_scale": "much"}, "guidance_scale must be"),
        ({"command": "translate"}, "command must be one of"),
        ({"command": ["edit"]}, "command must be one of"),
        ({"mask": {}}, "the mask is missing"),
    ],
)
def test_a_request_opens_nothing_and_asks_for_no_more_than_it_may(
    client: Client, request_part: dict[str, Any], complaint: str
) -> None:
    reply = client.post("/api/runs", {"request": {**EDIT, **request_part}})
    assert reply.status == 422, reply.body
    assert complaint in reply.json["error"]


def test_too_many_frames_are_refused(client: Client) -> None:
    ids = [client.send(picture(k))["id"] for k in range(2)]
    asked = {"command": "morph", "method": "crossfade", "num_frames": 65}
    assert "here 64 are the most" in client.post("/api/runs", {"request": asked, "images": ids}).json["error"]


def test_models_that_were_not_given_at_start_are_refused(client: Client) -> None:
    for name in ("sd15", "../toy", 3, None):
        assert client.post("/api/runs", {"request": EDIT, "model": name}).status == 422


@pytest.mark.parametrize("path", ["/api/runs", "/login"])
def test_json_is_bounded_and_said_to_be_json(client: Client, path: str) -> None:
    assert client.ask("POST", path, b"{}", content_type="text/plain").status == 415
    assert client.ask("POST", path, b"{}").status == 415
    assert client.ask("POST", path, b"{", content_type="application/json").status == 400
    assert client.ask("POST", path, b"[" * 1000, content_type="application/json").status == 400
    assert client.ask("POST", path, b'{"a": NaN}', content_type="application/json").status == 400
    assert client.ask("POST", path, b" " * 65_537, content_type="application/json").status == 413


def test_a_body_is_counted_while_it_comes_in(client: Client) -> None:
    sent: list[int] = []

    def endless() -> Iterator[bytes]:
        for _ in range(4_000):
            sent.append(1)
            yield bytes(64 * 1024)

    with suppress(ConnectionError):  # closed while it still sends
        assert client.ask("POST", "/api/images", endless(), content_type="image/png").status == 413
    assert len(sent) < 2_000
    reply = client.ask("POST", "/api/images", b"x", content_type="image/png", content_length="99999999")
    assert reply.status == 413
    assert client.get("/api/health").status == 200


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kB on Linux")
def test_a_bomb_is_refused_before_it_is_decoded(client: Client) -> None:
    bomb = png_bytes(Image.new("1", (30_000, 1_000)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    reply = client.ask("POST", "/api/images", bomb, content_type="image/png")
    assert reply.status == 422
    assert "megapixels" in reply.json["error"]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 60 * 1024


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GIF89a",
        b"%!PS-Adobe-3.0 EPSF-3.0",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"\0" * 5000,
        b"MZ" * 99,
    ],
)
def test_what_is_no_image_is_refused_in_words(client: Client, data: bytes) -> None:
    reply = client.ask("POST", "/api/images?name=%2Fetc%2Fpasswd", data, content_type="image/png")
    assert reply.status == 422
    assert reply.json["error"]
    assert "/etc" not in reply.body.decode()


def test_a_form_post_of_another_page_is_no_upload(client: Client) -> None:
    for kind in ("multipart/form-data; boundary=x", "text/plain", "application/x-www-form-urlencoded"):
        assert client.ask("POST", "/api/images", b"x", content_type=kind).status == 415


def test_ids_are_unguessable_and_nothing_is_listed(client: Client) -> None:
    assert re.fullmatch(r"[0-9a-f]{32}", client.send(picture())["id"])
    assert re.fullmatch(r"[0-9a-f]{32}", client.post("/api/runs", {"request": EDIT}).json["id"])
    assert client.get("/api/images").status == 405
    assert client.get("/api/runs").status == 405


def test_a_token_opens_the_server_and_nothing_else_does(toy_model: Any) -> None:
    with serving(toy_model, token=TOKEN) as client:
        assert client.get("/").status == 200
        for headers in ({}, {"authorization": "Bearer x"}, {"cookie": f"sfumato-token={TOKEN[:-1]}"}):
            assert client.get("/api/library", **headers).status == 401
        assert client.post("/login", {"token": "wrong"}).status == 401
        reply = client.post("/login", {"token": TOKEN})
        cookie = reply.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=strict" in cookie
        assert client.get("/api/library", cookie=cookie.partition(";")[0]).status == 200
        assert client.get("/api/library", authorization=f"Bearer {TOKEN}").status == 200


def test_no_path_of_this_computer_is_in_any_answer(toy_model: Any, tmp_path: Path) -> None:
    folder = tmp_path / "my-model"
    parts = {"lora": [{"path": str(tmp_path / "style.safetensors"), "sha256": "0", "scale": 1.0}]}
    with (
        mock.patch.object(toy_model, "name", str(folder)),
        mock.patch.object(toy_model, "parts", parts),
        mock.patch.object(toy_model, "notes", (f"read {tmp_path}/x.json",)),
        serving(toy_model, bounds=Bounds()) as client,
    ):
        run = client.run(EDIT, image=client.send(picture(), str(tmp_path / "cat.png"))["id"])
        said = json.dumps([run, client.get("/api/library").json]).encode() + client.file(run, "image-0.png").body
        assert str(tmp_path).encode() not in said
        assert run["result"]["recipe"]["model"] == "my-model"
        assert run["result"]["recipe"]["lora"][0]["path"] == "style.safetensors"
        assert "--model my-model" in run["result"]["command"]


def test_names_and_messages_lose_their_folders() -> None:
    assert without_paths("cannot read /home/me/a b/cat.png: gone") != "cannot read /home/me/a b/cat.png: gone"
    assert without_paths("cannot read /home/me/cat.png: gone") == "cannot read cat.png: gone"
    assert without_paths(r"at C:\Users\me\cat.png") == "at cat.png"
    assert without_paths("1/2 of a/b, 3 dB / 4") == "1/2 of a/b, 3 dB / 4"
    assert model_label("someone/some-model") == "someone/some-model"
    assert model_label("/models/sd15") == "sd15"
    assert [file_label(name) for name in ("../a.png", r"C:\b.png", "-rf", "", "..")] == [
        "a.png", "b.png", "rf", "image.png", "image.png",
    ]  # fmt: skip
