"""Benchmarks: every claim of speed in this project, measured."""
