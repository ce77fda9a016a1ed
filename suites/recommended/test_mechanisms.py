"""Probes: which mechanism of the net the hook breaks."""

from vae_compat.checks.mechanism import check_mechanism


def test_mechanism(observation, report):
    report(check_mechanism(observation))
