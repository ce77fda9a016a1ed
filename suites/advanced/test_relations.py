"""Relations: results that must agree with each other, whatever they are."""

from vae_compat.checks.relations import (
    check_batch_split,
    check_oversize,
    check_partition,
    check_poison,
    check_repeat,
    check_shift,
    check_tile_size,
)


def test_tile_size(observation, report):
    report(check_tile_size(observation))


def test_oversize(observation, report):
    report(check_oversize(observation))


def test_partition(observation, report):
    report(check_partition(observation))


def test_batch_split(observation, report):
    report(check_batch_split(observation))


def test_shift(observation, report):
    report(check_shift(observation))


def test_repeat(observation, report):
    report(check_repeat(observation))


def test_poison(observation, report):
    report(check_poison(observation))
