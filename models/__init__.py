"""Memory models as Pyro model/guide pairs.

A model is a file here, which registers it, and a line below, which imports the file.
"""

import models.dynamic_kanerva_machine
import models.kanerva_machine
import models.kanerva_plus_plus
import models.pseudo_inverse_memory
import models.vae
from models.registry import MODELS, ModelKind

__all__ = ["MODELS", "ModelKind"]
