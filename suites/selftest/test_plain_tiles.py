"""Where little is promised, a hook is held to what plain overlapping tiles give."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vae_compat.checks.registry import BY_NAME
from vae_compat.contracts.cases import TIME_TILES, Case, Direction, Mode, Scale, Scenario
from vae_compat.contracts.finding import Status
from vae_compat.contracts.promise import Promise
from vae_compat.device import open_device
from vae_compat.measure.borders import most_distinct
from vae_compat.measure.observation import Observation
from vae_compat.measure.plain_tiles import in_time, measure_plain_tiles, overlapping
from vae_compat.suites.selftest.measure_fakes import (
    CASE,
    TinyView,
    a_baseline,
    a_case,
    an_observation,
)

LEVEL = 2 / 255
CHECK = BY_NAME["plain_tiles"]
LOW = a_case(height=8, width=32)
CLIP = a_case(family="qwen", frames=2, height=4, width=32)
LONG_CLIP = replace(CLIP, frames=9)


# The tiler


@pytest.mark.parametrize("size", [(48, 48), (17, 33), (40, 9)])
@pytest.mark.parametrize("direction", Direction)
def test_a_net_without_neighbours_is_the_same_in_tiles(
    direction: Direction, size: tuple[int, int]
) -> None:
    case = a_case(direction=direction, height=size[0], width=size[1])
    x = torch.rand(case.input_shape, generator=torch.Generator().manual_seed(0))
    seen: list[tuple[int, int]] = []

    def run(tile: Tensor) -> Tensor:
        seen.append((tile.shape[-2], tile.shape[-1]))
        return (
            F.interpolate(tile, scale_factor=8)
            if case.direction == "decode"
            else tile[..., ::8, ::8]
        )

    torch.testing.assert_close(overlapping(run, x, case), run(x))
    largest = 16 if direction is Direction.DECODE else 128
    assert len(seen) > 3
    assert max(max(sides) for sides in seen[:-1]) == largest


def test_neighbours_fade_into_each_other_without_a_step() -> None:
    case = a_case(height=16, width=40)
    numbers = iter(range(10))

    def run(tile: Tensor) -> Tensor:
        return torch.full((1, 3, tile.shape[-2] * 8, tile.shape[-1] * 8), float(next(numbers)))

    row = overlapping(run, torch.zeros(case.latent_shape), case)[0, 0, 64]
    assert row[:96].unique().tolist() == [0.0]
    assert row[128:192].unique().tolist() == [1.0]
    assert row.diff().max() <= 1 / 32 + 1e-6
    assert row[-1] > 2.9  # the last tile is a sliver, and counts most at the edge


def test_nothing_stays_in_the_vae_that_the_baseline_would_find_there() -> None:
    class Keeping(TinyView):
        def run(self, direction: Direction, x: Tensor) -> Tensor:
            self.vae.kept = x
            return super().run(direction, x)

    view, case = Keeping(), a_case(height=8, width=20, device="cpu")
    x = torch.rand(case.latent_shape, generator=torch.Generator().manual_seed(0))
    made = measure_plain_tiles(case, view, x, open_device("cpu"))
    assert made.shape == case.image_shape
    assert not hasattr(view.vae, "kept")


@pytest.mark.parametrize("direction", Direction)
@pytest.mark.parametrize("frames", [9, 17])
def test_time_tiles_of_a_net_that_remembers_nothing_are_its_clip(
    direction: Direction, frames: int
) -> None:
    case = a_case(family="qwen", direction=direction, frames=frames, height=4, width=4)
    x = torch.rand(case.input_shape, generator=torch.Generator().manual_seed(0))
    lengths: list[int] = []

    def run(clip: Tensor) -> Tensor:
        lengths.append(clip.shape[2])
        if direction is Direction.ENCODE:
            return clip[:, :, ::4]
        return clip.repeat_interleave(4, 2)[:, :, 3:]

    made = in_time(run, case, TIME_TILES)(x)
    count = 2 if frames == 9 else 3
    assert len(lengths) == count
    torch.testing.assert_close(made, run(x))


def test_clips_are_cut_in_time_for_hooks_that_claim_it() -> None:
    clip = replace(CLIP, frames=9)
    assert Promise(grade="degraded").time_tiles(clip) is None
    assert Promise(grade="degraded", temporal=True).time_tiles(clip) == TIME_TILES
    assert Promise(grade="degraded", temporal=True).time_tiles(CLIP) is None


# The check


def beside(
    change: Callable[[Tensor], Tensor] | None = None, case: Case = LOW, **more: Any
) -> Observation:
    """A hook and plain tiles that differ from untiled by noise of a level or two, still in time."""
    base = a_baseline(case)
    chance = torch.Generator().manual_seed(1)
    noise = 1.5 * LEVEL * torch.randn(base.output.shape, generator=chance)
    if noise.dim() == 5:
        noise = noise[:, :, :1].expand_as(noise)
    ours = base.output + 0.4 * noise.flip(-1)
    made = an_observation(case, baseline=base, grade="degraded", **more)
    return replace(
        made,
        output=ours if change is None else change(ours),
        plain_tiles=base.output + noise,
    )


def seamed(output: Tensor) -> Tensor:
    """Right, but for half of it."""
    output = a_baseline(LOW).output.clone()
    output[..., 128:] += 1.9 * LEVEL
    return output


def toned(output: Tensor) -> Tensor:
    """A whole tile, with ends that fade."""
    ramp = torch.linspace(0, 1, 64)
    output[..., 128:192] += 6 * LEVEL * ramp
    output[..., 192:256] += 6 * LEVEL * ramp.flip(0)
    return output


def noisy(output: Tensor) -> Tensor:
    return output + 4 * LEVEL * torch.randn(
        output.shape, generator=torch.Generator().manual_seed(2)
    )


def flashing(output: Tensor) -> Tensor:
    """The error of one frame is as large as that of the others, and of the other sign."""
    untiled = a_baseline(CLIP).output[:, :, 4]
    output[:, :, 4] = 2 * untiled - output[:, :, 4]
    return output


def cut_in_time(output: Tensor) -> Tensor:
    """The frames of a latent frame have more than twice the error of others, and do not jump."""
    output[:, :, 13:17] += 1.5 * (output - a_baseline(LONG_CLIP).output)[:, :, 13:17]
    return output


def meeting(output: Tensor) -> Tensor:
    """Smooth errors on either side of a line, which have nothing to do with each other."""
    chance = torch.Generator().manual_seed(3)
    sides = [
        F.interpolate(torch.randn((*output.shape[:2], 5, 9), generator=chance), (64, 128),
                      mode="bilinear", align_corners=True)
        for _ in range(2)
    ]  # fmt: skip
    return a_baseline(LOW).output + 1.2 * LEVEL * torch.cat(sides, -1)


def one_item(output: Tensor) -> Tensor:
    return torch.cat([output[:1], noisy(output[1:])])


@pytest.mark.parametrize("case", [LOW, replace(LOW, batch=2), CLIP])
def test_other_errors_of_the_same_size_pass(case: Case) -> None:
    assert CHECK(beside(case=case)).status is Status.PASSED


def test_a_better_result_passes() -> None:
    better = replace(beside(), output=a_baseline(LOW).output)
    assert CHECK(better).status is Status.PASSED


@pytest.mark.parametrize(
    ("change", "case", "said"),
    [
        (seamed, LOW, "a seam"),
        (toned, LOW, "a region whose mean is shifted by +"),
        (noisy, LOW, "2 x that of plain tiles"),
        (one_item, replace(LOW, batch=2), "batch item 1"),
        (flashing, CLIP, "between frames"),
        (meeting, LOW, "a seam; should be none, as with plain tiles; at x 128"),
        (cut_in_time, LONG_CLIP, "a clip is not cut in time; at batch item 0, frames 13 to 16"),
    ],
)
def test_what_plain_tiles_do_not_do_fails(
    change: Callable[[Tensor], Tensor], case: Case, said: str
) -> None:
    found = CHECK(beside(change, case))
    assert found.status is Status.FAILED
    assert said in found.message
    assert found.metrics["plain_rms"]


def test_a_hook_that_claims_to_cut_in_time_may_do_so() -> None:
    cut = beside(cut_in_time, LONG_CLIP)
    assert CHECK(replace(cut, promise=replace(cut.promise, temporal=True))).status is Status.PASSED
    assert CHECK(beside(case=LONG_CLIP)).status is Status.PASSED


def test_the_most_distinct_line_is_told_by_its_contrast() -> None:
    base = a_baseline(LOW)
    found = most_distinct(meeting(base.output), base, LOW)
    assert (found.axis, found.position, found.batch) == ("x", 128, 0)
    assert found.levels > 0.5
    assert most_distinct(noisy(base.output.clone()), base, LOW).contrast < 1.5
    assert most_distinct(base.output, base, LOW).contrast <= 1


def test_without_plain_tiles_nothing_is_judged() -> None:
    seen = beside()
    assert CHECK(replace(seen, plain_tiles=None)).status is Status.NOT_JUDGED
    endless = torch.full_like(seen.baseline.output, torch.inf)
    assert CHECK(replace(seen, plain_tiles=endless)).status is Status.NOT_JUDGED


def test_it_is_for_what_tiles_and_promises_little() -> None:
    little = Promise(grade="degraded")
    assert CHECK.applies(CASE, little)
    for case in (
        a_case(height=16, width=16),
        a_case(mode=Mode.FAST),
        a_case(scenario=Scenario.REPEAT),
    ):
        assert not CHECK.applies(case, little)
        assert not little.beside_plain_tiles(case)
    assert not CHECK.applies(CASE, Promise(grade="close"))
    assert not CHECK.applies(CASE, replace(little, claimed=False))
    assert CHECK.applies(a_case(scale=Scale.REAL), little)
