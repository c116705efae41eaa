"""Files: atomic writes, checkpoints, tensor files, memories and the run folder."""
