"""What users see: the right output, for less memory, and nothing left behind."""


def test_recommended(check, observation, report):
    report(check(observation))
