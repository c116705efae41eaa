"""What `experiments/ablate.py` is made of: grids, their cells, how these run, and the table of what they scored."""
