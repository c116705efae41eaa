"""Memories as tensors: the block memory of Kanerva++, matrix memories of other models, and the sign code."""
