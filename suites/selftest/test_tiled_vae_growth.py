"""The memory of the reference hook depends on its tiles and hardly on the picture."""

from dataclasses import replace

import pytest

from vae_compat.contracts.cases import Case, Direction, Layout, Mode, Scale
from vae_compat.suites.selftest.shapes import counted, over_weights

pytestmark = pytest.mark.slow

BOUND = 0.05


@pytest.mark.parametrize(("family", "small", "large"), [("sd", 48, 64), ("qwen", 24, 40)])
def test_at_fixed_tiles_the_peak_grows_by_a_small_part_of_what_untiled_grows_by(
    family, small, large
):
    """Real configs without data, because a mock's pictures are large beside its activations."""
    case = Case(family, Scale.REAL, Layout.DIFFUSERS, Direction.DECODE, Mode.EXACT, 1, 1, 16)

    def grown(tile):
        sizes = (replace(case, height=side, width=side) for side in (small, large))
        first, last = (over_weights(counted(sized, tile)) for sized in sizes)
        return last - first

    assert grown(128) <= BOUND * grown(None)
