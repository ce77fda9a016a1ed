"""The hook behaves as a program that uses it expects."""

from vae_compat.checks.usage import (
    check_on_host,
    check_out_of_memory,
    check_settings,
    check_switches,
    check_tiny_tiles,
)


def test_settings(observation, report):
    report(check_settings(observation))


def test_switches(observation, report):
    report(check_switches(observation))


def test_tiny_tiles(observation, report):
    report(check_tiny_tiles(observation))


def test_out_of_memory(observation, report):
    report(check_out_of_memory(observation))


def test_on_host(observation, report):
    report(check_on_host(observation))
