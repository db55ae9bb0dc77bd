"""Benchmarks: one file each, and the runner, the report and the comparison that serve them all."""
