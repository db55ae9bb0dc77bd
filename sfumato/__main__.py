"""`python -m sfumato` is the `sfumato` command."""

from sfumato.apps.cli import main

if __name__ == "__main__":
    main()
