"""The hook leaves the VAE, the input and the device as it found them."""

from vae_compat.checks.manners import check_input_untouched, check_left_behind, check_live_bytes


def test_left_behind(observation, report):
    report(check_left_behind(observation))


def test_live_bytes(observation, report):
    report(check_live_bytes(observation))


def test_input_untouched(observation, report):
    report(check_input_untouched(observation))
