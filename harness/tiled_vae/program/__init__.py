"""A coder as a program: its steps, and which pixels each depends on."""
