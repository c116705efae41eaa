"""Training objectives, by the name that a configuration uses (`--objective`).

To add an objective, add a file that registers it in `OBJECTIVES`, and import the file below.
"""

import inference.objectives.elbo
import inference.objectives.iwae
from inference.objectives.interface import OBJECTIVES, ObjectiveKind, make_objective

__all__ = ["OBJECTIVES", "ObjectiveKind", "make_objective"]
