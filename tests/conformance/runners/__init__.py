"""One module a method: how sfumato computes what the cases of a kind hold. Every module here is found by itself."""
