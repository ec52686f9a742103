"""Comparisons with peers, and measurements of speed and memory: python -m benchmarks.NAME. src imports none of it."""
