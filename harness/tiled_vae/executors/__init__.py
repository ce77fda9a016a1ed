"""Run a plan: by bands, with line buffers, or with halos that are computed again."""
