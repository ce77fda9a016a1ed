"""How far the hook has come with causal caches, and what a clip takes while it runs."""

from vae_compat.checks.phases import check_cache_parked, check_cache_phase, check_memory_growth


def test_cache_parked(observation, report):
    report(check_cache_parked(observation))


def test_cache_phase(observation, report):
    report(check_cache_phase(observation))


def test_memory_growth(observation, report):
    report(check_memory_growth(observation))
