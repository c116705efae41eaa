"""What `experiments/benchmark.py` measures, one question a file."""
