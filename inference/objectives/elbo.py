"""The ELBO: every term from one draw (`trace`), or KLs in closed form (`mean_field`)."""

from __future__ import annotations

from pyro.infer import TraceMeanField_ELBO

from inference.objectives.interface import OBJECTIVES, ObjectiveKind
from kpp_pyro.fast_pyro import TensorTrace_ELBO

OBJECTIVES["trace"] = ObjectiveKind(TensorTrace_ELBO, capturable=True)
OBJECTIVES["mean_field"] = ObjectiveKind(TraceMeanField_ELBO, closed_kls=True)
