"""`sfumato serve`."""

from __future__ import annotations

import ipaddress
import re
import socket
import threading
import warnings
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sfumato.apps.console import say, stdout, working
from sfumato.apps.loading import load
from sfumato.apps.options import Compile, Device, Dtype, Offload
from sfumato.errors import UsageError
from sfumato.files import at_home

if TYPE_CHECKING:
    import uvicorn

SHORTEST_TOKEN = 16
MOST_CONNECTIONS = 200
SECONDS_TO_STOP = 3


def serve(
    model: Annotated[
        list[str] | None,
        typer.Option("--model", "-m", help="A model to edit with; repeatable.", show_default="emoji"),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen at. Another computer reaches 0.0.0.0.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen at; 0 picks a free one.", min=0, max=65535)] = 7860,
    token_file: Annotated[
        Path | None,
        typer.Option(
            help="File with the token that opens the page; needed where other computers reach it.", show_default="none"
        ),
    ] = None,
    hosts: Annotated[
        list[str] | None,
        typer.Option(help="A name that browsers open the page by, such as art.example.org; repeatable."),
    ] = None,
    max_upload: Annotated[str, typer.Option(help="Largest file that is taken, such as 20MB.")] = "20MB",
    queue: Annotated[int, typer.Option(help="Runs that may wait, for each model.", min=1, max=1000)] = 20,
    per_client: Annotated[int, typer.Option(help="Runs of one client that may wait or run.", min=1, max=1000)] = 4,
    max_seconds: Annotated[float, typer.Option(help="Seconds that one run may take.", min=1.0)] = 3600.0,
    history: Annotated[
        bool, typer.Option("--history/--no-history", help="Let the browser keep what was made in it.")
    ] = True,
    show: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    root_path: Annotated[str, typer.Option(help="Path that a proxy in front of the server takes off.")] = "",
    trusted_proxy: Annotated[
        str | None, typer.Option(help="Address of the proxy whose word on clients' addresses counts.")
    ] = None,
    device: Device = None,
    dtype: Dtype = None,
    compile_: Compile = False,
    offload: Offload = None,
) -> None:
    """Open a web page for edits, morphs and comparisons; everything stays on this computer.

    Example: sfumato serve --open
    """
    with working("starting"):
        from sfumato.run.job_queue import Bounds, JobQueue

        web = _web()
    token = _read_token(token_file)
    _check_reach(host, token)
    limits = web.Limits(upload_bytes=_bytes(max_upload))
    listening = _listen(host, port)
    loaded = [load(name, device, dtype, compile_, offload) for name in model or ["emoji"]]
    names = web.named_models(loaded)
    warnings.simplefilter("ignore", UserWarning)  # notes of runs, which may hold prompts: the page shows them
    jobs = JobQueue(names, Bounds(waiting=queue, per_client=per_client, seconds=max_seconds))
    try:
        server = web.Server(jobs, names, limits, token, history)
        app = web.create_app(server, hosts=[*(hosts or []), host])
        address = f"http://{_shown_host(host)}:{listening.getsockname()[1]}/"
        say(f"open {address} in a browser; Ctrl-C stops", to=stdout())
        if show:
            threading.Timer(0.5, webbrowser.open, [address]).start()
        _uvicorn(app, root_path, trusted_proxy).run(sockets=[listening])
    finally:
        jobs.close()


def _web() -> Any:
    """The modules of the page.

    Raises:
        UsageError: Its packages are not installed.
    """
    from types import SimpleNamespace

    try:
        import uvicorn  # noqa: F401

        from sfumato.apps.web.forms import Limits
        from sfumato.apps.web.library import named_models
        from sfumato.apps.web.server import Server, create_app
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in ("starlette", "uvicorn", "anyio"):
            raise UsageError("the page needs two more packages: pip install 'sfumato[serve]'") from error
        raise
    return SimpleNamespace(Limits=Limits, Server=Server, create_app=create_app, named_models=named_models)


def _uvicorn(app: Any, root_path: str, trusted_proxy: str | None) -> uvicorn.Server:
    import uvicorn

    config = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, date_header=False, root_path=root_path,
        limit_concurrency=MOST_CONNECTIONS, timeout_keep_alive=5, timeout_graceful_shutdown=SECONDS_TO_STOP,
        proxy_headers=trusted_proxy is not None, forwarded_allow_ips=trusted_proxy, ws="none",
    )  # fmt: skip
    return uvicorn.Server(config)


def _read_token(file: Path | None) -> str | None:
    """The token in a file.

    Raises:
        UsageError: It cannot be read, or is too easy to guess.
    """
    if file is None:
        return None
    try:
        token = at_home(file).read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read --token-file {file}: {getattr(error, 'strerror', None) or error}") from error
    if len(token) < SHORTEST_TOKEN or not re.fullmatch(r"[\w.~-]+", token, re.ASCII):
        raise UsageError(
            f"the token in {file} must have at least {SHORTEST_TOKEN} letters, digits, or characters of -._~, such as"
            " `openssl rand -hex 16` prints"
        )
    return token


def _check_reach(host: str, token: str | None) -> None:
    """Refuses to be open to other computers without a token."""
    try:
        inside = ipaddress.ip_address(host).is_loopback
    except ValueError:
        inside = host == "localhost"
    if not inside and token is None:
        raise UsageError(
            f"at {host} other computers can use this one: give --token-file, or leave out --host to stay on this one"
        )


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=512)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UsageError(f"cannot listen at {host}, port {port} ({reason}): choose another with --port") from error


def _shown_host(host: str) -> str:
    """The host as this computer's browser opens it."""
    if host in ("0.0.0.0", "::"):
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


def _bytes(text: str) -> int:
    """Reads a size such as 20MB.

    Raises:
        UsageError: It is something else.
    """
    found = re.fullmatch(r"\s*(\d{1,4})\s*(k|M|G)i?B?\s*", text, re.IGNORECASE)
    if found is None or int(found[1]) == 0:
        raise UsageError(f"--max-upload must be a size such as 20MB, got {text!r}")
    return int(found[1]) * {"k": 2**10, "m": 2**20, "g": 2**30}[found[2].lower()]
