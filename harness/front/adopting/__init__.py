"""How a repository takes the harness up: a profile, a workflow, checks as tests of its own."""
