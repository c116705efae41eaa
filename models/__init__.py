"""Memory models as Pyro model/guide pairs.

To add a model, add a file that registers it in `MODELS`, and import the file below.
"""

import models.dynamic_kanerva_machine
import models.kanerva_machine
import models.kanerva_plus_plus
import models.pseudo_inverse_memory
import models.two_layer_vae
import models.vae
from models.registry import MODELS, ModelKind

__all__ = ["MODELS", "ModelKind"]
