"""Objectives that a configuration may name: what is descended along, and what each of them asks for.

An objective is a file here, which registers it, and a line below, which imports the file.
"""

import inference.objectives.elbo
import inference.objectives.iwae
from inference.objectives.interface import OBJECTIVES, ObjectiveKind, make_objective

__all__ = ["OBJECTIVES", "ObjectiveKind", "make_objective"]
