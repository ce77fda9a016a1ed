"""Never a vacuous pass: tiles really ran."""

from vae_compat.checks.tiles import check_tiles_ran


def test_tiles_ran(observation, report):
    report(check_tiles_ran(observation))
