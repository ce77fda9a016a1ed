"""Measure what a run of a case gives: untiled results, distances, draws, seams, hooks at work."""
