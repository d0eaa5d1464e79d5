"""Measurements of speed and memory. Each module runs by itself: `python -m tests.bench.wire`."""
