"""Metrics of a trained pair: held-out ELBO, denoising and generation."""
