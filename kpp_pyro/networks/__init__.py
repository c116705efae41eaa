"""Encoders, decoders, readings and their heads: plain modules that return tensors."""
