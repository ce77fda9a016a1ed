"""What comes back has the shape, dtype and place of the untiled result."""

from vae_compat.checks.output import (
    check_finite,
    check_output_device,
    check_output_dtype,
    check_output_shape,
)


def test_output_shape(observation, report):
    report(check_output_shape(observation))


def test_output_dtype(observation, report):
    report(check_output_dtype(observation))


def test_output_device(observation, report):
    report(check_output_device(observation))


def test_finite(observation, report):
    report(check_finite(observation))
