"""Probes: which mechanism of the net the hook breaks."""

from harness.checks.mechanism import check_mechanism


def test_mechanism(observation, report):
    report(check_mechanism(observation))
