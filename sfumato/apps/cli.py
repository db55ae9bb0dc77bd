"""The `sfumato` command. Each subcommand is a module beside this one; heavy imports happen inside them only."""

from __future__ import annotations

from typing import Annotated

import typer

from sfumato import __version__
from sfumato.apps.apply import apply
from sfumato.apps.batch import batch
from sfumato.apps.bench import bench
from sfumato.apps.console import command
from sfumato.apps.demo import demo
from sfumato.apps.direction import direction_app
from sfumato.apps.distill import distill
from sfumato.apps.doctor import doctor
from sfumato.apps.edit import edit
from sfumato.apps.generate import generate
from sfumato.apps.invert import invert
from sfumato.apps.methods import methods
from sfumato.apps.models import models
from sfumato.apps.morph import morph
from sfumato.apps.serve import serve
from sfumato.apps.slider import slider
from sfumato.apps.stopping import leave_at_once
from sfumato.apps.translate import translate

app = typer.Typer(
    name="sfumato",
    help="Edit and morph images with pretrained diffusion models, and keep everything else as it was.",
    epilog="Start with: sfumato demo (offline, on bundled images). Errors in full: SFUMATO_DEBUG=1.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_COMMANDS = (
    demo, edit, morph, slider, translate, generate, invert, methods, models, serve, batch, distill, apply, bench,
    doctor,
)  # fmt: skip
for _function in _COMMANDS:
    app.command()(command(_function))
app.add_typer(direction_app)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sfumato {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and leave.", is_eager=True, callback=_show_version)
    ] = False,
) -> None:
    pass


def main() -> None:
    """Runs the command; see `sfumato --help`."""
    try:
        app(prog_name="sfumato")
    finally:
        leave_at_once()
