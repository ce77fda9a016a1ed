"""Checks: plain functions ``check_*(observation) -> Finding``, a module per concern."""
