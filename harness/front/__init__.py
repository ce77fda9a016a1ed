"""What people and other programs use: command line, pytest plugin, Python API."""
