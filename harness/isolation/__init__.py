"""Keeps hooks out of the judge: every hook runs in an expendable process of its own."""
