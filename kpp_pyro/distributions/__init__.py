"""Pyro distributions: block keys, uniform mixtures, normalising flows, low-rank normals and matrix normals."""
