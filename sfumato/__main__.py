"""`python -m sfumato` is the `sfumato` command."""

from sfumato.apps.stopping import leave_at_once


def main() -> None:
    """Runs the command; see `sfumato --help`. Exit codes: 0, 1 (failed), 2 (wrong usage), 130 and 143 (stopped)."""
    leave_at_once()
    from sfumato.apps.cli import main as run

    run()


if __name__ == "__main__":
    main()
