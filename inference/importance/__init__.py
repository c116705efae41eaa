"""Importance-sampled ln p(x | M): the estimator, proposals from refinement and search, and scores of episodes."""
