"""A clip is the VAE's from its first frame to its last."""

from vae_compat.checks.clips import check_clip_completes, check_flicker, check_video_parity


def test_clip_completes(observation, report):
    report(check_clip_completes(observation))


def test_video_parity(observation, report):
    report(check_video_parity(observation))


def test_flicker(observation, report):
    report(check_flicker(observation))
