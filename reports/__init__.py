"""Results of a run: stored, rendered, compared."""
