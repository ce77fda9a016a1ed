"""The call contract: every way in which the field calls a coder, and nothing crashes."""

from vae_compat.checks.contract import check_call_contract, check_completes


def test_call_contract(observation, report):
    report(check_call_contract(observation))


def test_completes(observation, report):
    report(check_completes(observation))
