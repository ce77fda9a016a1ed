"""What shows over time: clips, caches, sequences of calls, relations between results."""


def test_advanced(check, observation, report):
    report(check(observation))
