"""The programs around the library: the `sfumato` command, and later the web page."""
