"""Corruptions of images. A corrupted copy is a cue, from which the written image is recalled.

| corruption      | corrupted pixel                                                 | strength s                   |
|-----------------|-----------------------------------------------------------------|------------------------------|
| salt_and_pepper | a share s of the pixels is black or white, each with half of it | share of pixels, up to 1     |
| speckle         | x (1 + s n), n ~ N(0, 1): multiplicative noise                  | standard deviation of s n    |
| poisson         | s Poisson(x / s): x / s photons on average                      | 1 / photons of a white pixel |
| gaussian        | x + s n, n ~ N(0, 1): additive noise                            | standard deviation of s n    |
| mask            | a rectangle at a random place is black and known to be missing  | share of the area, up to 1   |

Corrupted pixels are clipped to [0, 1]. In images of several channels, salt and pepper and the mask take a pixel's
channels together; the other corruptions draw noise for each channel.

To add a corruption, register it in a file of this folder and import the file below.
"""

import kpp_pyro.corruptions.pixels
from kpp_pyro.corruptions.interface import CORRUPTIONS, Corrupted, Corruption, corrupt, find_corruption

__all__ = ["CORRUPTIONS", "Corrupted", "Corruption", "corrupt", "find_corruption"]
