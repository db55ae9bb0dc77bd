"""The web page of `sfumato serve`: a small server of requests, and one page of its own."""
