"""Loggers, registered by the name in a configuration: they record a run for a viewer of curves and figures.

To add a logger, register it in a file of this folder and import the file below.
"""

import inference.runs.loggers.mlflow
import inference.runs.loggers.tensorboard
import inference.runs.loggers.wandb
from inference.runs.loggers.interface import LOGGERS, Logger, LoggerKind

__all__ = ["LOGGERS", "Logger", "LoggerKind"]
