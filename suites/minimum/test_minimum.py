"""What must not break: the hook is called as the field calls it, runs, and tiles."""


def test_minimum(check, observation, report):
    report(check(observation))
