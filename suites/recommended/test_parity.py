"""The result is the VAE's, as far as its own noise allows."""

from vae_compat.checks.parity import check_batch_items, check_parity
from vae_compat.checks.picture import check_colour_shift, check_seams, check_value_range


def test_parity(observation, report):
    report(check_parity(observation))


def test_seams(observation, report):
    report(check_seams(observation))


def test_value_range(observation, report):
    report(check_value_range(observation))


def test_colour_shift(observation, report):
    report(check_colour_shift(observation))


def test_batch_items(observation, report):
    report(check_batch_items(observation))
