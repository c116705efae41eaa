"""Posterior draws of latents: ArviZ data and NUTS."""
