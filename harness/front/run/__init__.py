"""A run: its processes, the tests that they share, and how it ends."""
