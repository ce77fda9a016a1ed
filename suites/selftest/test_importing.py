"""Diffusers is imported without SciPy and without collections of garbage, and nobody notices."""

from __future__ import annotations

import gc
import subprocess
import sys

import pytest

from vae_compat.importing import imported, uncollected

PROGRAM = """
import gc, sys
from vae_compat.importing import imported
diffusers = imported("diffusers")
from diffusers.utils import is_scipy_available
from importlib.util import find_spec
assert diffusers.AutoencoderKL and diffusers.AutoencoderKLWan
assert "scipy" not in sys.modules
assert is_scipy_available() == (find_spec("scipy") is not None)
assert gc.isenabled() and gc.get_freeze_count()
"""


@pytest.mark.slow
def test_diffusers_comes_without_scipy_and_says_afterwards_that_it_is_there() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_what_is_imported_is_not_imported_again_and_nothing_is_frozen() -> None:
    frozen = gc.get_freeze_count()
    assert imported("json") is sys.modules["json"]
    assert gc.get_freeze_count() == frozen


@pytest.mark.parametrize("on", [True, False])
def test_collections_go_on_as_before_also_after_an_error(on: bool) -> None:
    before, within = gc.isenabled(), []

    def fails() -> None:
        with uncollected():
            within.append(gc.isenabled())
            raise ImportError

    gc.enable() if on else gc.disable()
    try:
        with pytest.raises(ImportError):
            fails()
        assert within == [False]
        assert gc.isenabled() is on
    finally:
        gc.enable() if before else gc.disable()
