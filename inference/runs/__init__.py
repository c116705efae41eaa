"""Runs: configuration, data, training, and the folder of a trained pair."""
