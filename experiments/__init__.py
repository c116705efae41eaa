"""Scripts: one verb each."""
