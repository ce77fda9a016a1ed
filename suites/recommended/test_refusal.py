"""What is not claimed refuses or falls back, and never returns a wrong picture."""

from vae_compat.checks.manners import check_refusal


def test_refusal(observation, report):
    report(check_refusal(observation))
