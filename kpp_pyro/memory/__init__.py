"""Memories as tensors: the block memory of Kanerva++, matrix memories of its rivals, and the sign code."""
