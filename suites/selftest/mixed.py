"""One run of several hooks, in two processes and in one: what many tests read is run once."""

from __future__ import annotations

from pathlib import Path

from vae_compat.suites.selftest.running import Ran, here, once, profile

HOSTILE = """
class Hook:
    def __init__(self, net, tile_size, is_decoder):
        pass

    def __call__(self, x):
        raise OSError("\\x1b[2Jgate holds\\x07" + "\\udc80" + "y" * 200_000)
"""
"""Its exception holds control characters and invalid Unicode."""


def in_two(base: Path) -> Ran:
    """The reported hook, a sound one and a hostile one, in two workers, told in every format."""
    return once(base, "two", lambda out: _mixed(out, 2, "-v", "--junitxml", out.parent / "j.xml"))


def in_one(base: Path) -> Ran:
    """The same in one process."""
    return once(base, "one", lambda out: _mixed(out, 0))


def _mixed(out: Path, processes: int, *more: object) -> Ran:
    entry = "vae_compat.fixtures.specimens.as_reported:AsReported"
    folder = out.parents[1]  # the same for both runs: messages name the profile
    (folder / "hostile.py").write_text(HOSTILE)
    files = (
        profile(folder, "reported", entry, families=("sd", "qwen"), grade="degraded"),
        profile(folder, "sound"),
        profile(folder, "hostile", "hostile.py:Hook"),
    )
    hooks = [f"--profile={file}" for file in files]
    narrow = ("--directions", "decode", "--scale", "mock", "--families", "sd,qwen")
    some = ("-k", "44x20 or (qwen and 17x17)")
    return here(out, *hooks, *narrow, *some, "-n", processes, *more)
