"""The `sfumato` command: one file a subcommand."""
