"""Scenarios: what a runner performs of a case with the hook, and what the judge makes of it."""
