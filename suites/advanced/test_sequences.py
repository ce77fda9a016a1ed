"""Calls in a row: what came before shows in none of them."""

from vae_compat.checks.sequences import check_sequence


def test_sequence(observation, report):
    report(check_sequence(observation))
