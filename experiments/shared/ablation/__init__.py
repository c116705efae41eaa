"""The parts of `experiments/ablate.py`: grids, cells, running them, results, and the table."""
