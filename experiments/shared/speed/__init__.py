"""The measurements of `experiments/benchmark.py`."""
