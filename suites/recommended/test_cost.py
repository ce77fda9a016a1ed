"""Tiling saves what it is there to save, and costs no more than it must."""

from vae_compat.checks.cost import check_peak_vram, check_transfers, check_work
from vae_compat.checks.tiles import check_single_tile


def test_peak_vram(observation, report):
    report(check_peak_vram(observation))


def test_work(observation, report):
    report(check_work(observation))


def test_transfers(observation, report):
    report(check_transfers(observation))


def test_single_tile(observation, report):
    report(check_single_tile(observation))
