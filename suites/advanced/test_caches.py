"""After each chunk the caller's feature cache is what untiled would have left."""

from vae_compat.checks.caches import (
    check_cache_aliases,
    check_cache_index,
    check_cache_sentinels,
    check_cache_slots,
)


def test_cache_slots(observation, report):
    report(check_cache_slots(observation))


def test_cache_sentinels(observation, report):
    report(check_cache_sentinels(observation))


def test_cache_index(observation, report):
    report(check_cache_index(observation))


def test_cache_aliases(observation, report):
    report(check_cache_aliases(observation))
