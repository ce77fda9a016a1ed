"""Checks: functions ``check_*(observation) -> Answer``, each declared with its tier and cases."""
