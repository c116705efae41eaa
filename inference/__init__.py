"""Objectives, the training loop and evaluation, for any model/guide pair called as `(episode, memory=None)`."""
