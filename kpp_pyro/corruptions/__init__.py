"""Corruptions of images, to make cues of them: what was written is to be recalled from a corrupted copy.

| corruption      | what happens                                                  | strength s                   |
|-----------------|---------------------------------------------------------------|------------------------------|
| salt_and_pepper | pixels become black or white, with equal probability          | share of pixels, up to 1     |
| speckle         | x (1 + s n), n ~ N(0, 1): bright pixels flicker               | standard deviation           |
| poisson         | s Poisson(x / s): x / s photons on average                    | 1 / photons of a white pixel |
| mask            | a square at a random place is black, and known to be missing  | share of the area, up to 1   |

What leaves [0, 1] is cut off.

A corruption is a file here, which registers it, and a line below, which imports the file.
"""

import kpp_pyro.corruptions.pixels
from kpp_pyro.corruptions.interface import CORRUPTIONS, Corrupted, Corruption, corrupt, find_corruption

__all__ = ["CORRUPTIONS", "Corrupted", "Corruption", "corrupt", "find_corruption"]
