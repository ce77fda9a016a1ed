"""Runs that are on disk: resumed, merged, held against each other, annotated."""
