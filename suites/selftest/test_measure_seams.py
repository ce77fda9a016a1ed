"""Seams are found on tile borders, wherever a hook puts them, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from vae_compat.contracts.cases import Direction
from vae_compat.measure.observation import Baseline
from vae_compat.measure.seams import find_seams
from vae_compat.suites.selftest.measure_fakes import CASE, a_baseline, a_case

LEVEL = 2 / 255
SIZE = 384


def random(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def smooth(seed: int) -> Tensor:
    made = interpolate(random(seed, 1, 3, 12, 12), size=(SIZE, SIZE), mode="bicubic")
    return 0.3 * made


def photograph() -> Tensor:
    data = pytest.importorskip("skimage.data")
    picture = torch.from_numpy(data.astronaut()[:SIZE, :SIZE].copy())
    return picture.permute(2, 0, 1)[None].double() / 127.5 - 1


def blocks(seed: int) -> Tensor:
    return 0.3 * interpolate(random(seed, 1, 3, 48, 48), scale_factor=8)


PICTURES: dict[str, Callable[[], Tensor]] = {
    "noise": lambda: 0.4 * random(1, 1, 3, SIZE, SIZE),
    "smooth": lambda: smooth(2),
    "blocks": lambda: blocks(3),
    "photograph": photograph,
}


@pytest.fixture(scope="module", params=sorted(PICTURES))
def picture(request: pytest.FixtureRequest) -> Baseline:
    return a_baseline(truth=PICTURES[request.param]())


def look(picture: Baseline, difference: Tensor):
    return find_seams((picture.output.double() + difference).float(), picture, CASE)


def nothing() -> Tensor:
    return torch.zeros(1, 3, SIZE, SIZE, dtype=torch.float64)


@pytest.mark.parametrize("levels", [1.5, 3, 10])
@pytest.mark.parametrize("at", [128, 131, 205])
@pytest.mark.parametrize("axis", ["x", "y"])
def test_a_step_along_a_line_is_a_seam(picture: Baseline, levels: float, at: int, axis: str):
    step = nothing()
    step[..., at:] += levels * LEVEL
    found = look(picture, step if axis == "x" else step.mT)
    assert found.seam
    line = found.lines[0]
    assert (line.axis, line.position) == (axis, at)
    assert line.nominal == (at == 128)
    assert line.levels == pytest.approx(levels, rel=0.1)


def test_a_step_along_part_of_a_line_is_a_seam(picture: Baseline):
    step = nothing()
    step[..., 90:200, 150:] += 4 * LEVEL
    found = look(picture, step)
    mine = [line for line in found.lines if (line.axis, line.position) == ("x", 150)]
    assert mine
    assert mine[0].start <= 100
    assert 190 <= mine[0].stop <= 220


def test_tiles_that_disagree_by_a_texture_have_a_seam(picture: Baseline):
    wrong = nothing()
    wrong[..., 128:] = (
        2 * LEVEL * interpolate(random(4, 1, 3, 48, 32), scale_factor=8, mode="bilinear")
    )
    wrong[..., :128] = (
        2 * LEVEL * interpolate(random(5, 1, 3, 48, 16), scale_factor=8, mode="bilinear")
    )
    found = look(picture, wrong)
    assert [line.position for line in found.lines if line.axis == "x"] == [128]


def test_an_error_that_lives_at_nominal_borders_is_a_seam(picture: Baseline):
    x = torch.arange(SIZE, dtype=torch.float64)
    near = torch.exp(-torch.minimum((x - 128).abs(), (x - 256).abs()) / 10)
    noise = 4 * LEVEL * random(6, 1, 3, SIZE, SIZE)
    found = look(picture, noise * torch.maximum(near[:, None], near[None, :]))
    assert found.seam
    assert found.banded
    assert found.band_rms is not None
    assert found.interior_rms is not None
    assert found.band_rms > 3 * found.interior_rms


def test_an_error_on_scattered_parts_of_nominal_borders_is_a_seam(picture: Baseline):
    x = torch.arange(SIZE, dtype=torch.float64)
    near = torch.exp(-torch.minimum((x - 128).abs(), (x - 256).abs()) / 6)
    dashed = (x % 60 < 20).double()[:, None]
    found = look(picture, 12 * LEVEL * random(6, 1, 3, SIZE, SIZE) * near * dashed)
    assert found.seam
    assert found.banded


def test_a_ridge_at_a_border_of_the_hooks_own_is_a_seam(picture: Baseline):
    x = torch.arange(SIZE, dtype=torch.float64)
    near = torch.exp(-(x - 205).abs() / 6)
    found = look(picture, 6 * LEVEL * random(7, 1, 3, SIZE, SIZE) * near)
    assert found.seam
    assert abs(found.lines[0].position - 205) <= 8


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("levels", [0.3, 1, 5, 30])
def test_noise_has_no_seam(picture: Baseline, seed: int, levels: float):
    assert not look(picture, levels * LEVEL * random(10 + seed, 1, 3, SIZE, SIZE)).seam


@pytest.mark.parametrize("seed", range(2))
def test_grey_noise_has_no_seam(picture: Baseline, seed: int):
    noise = 5 * LEVEL * random(20 + seed, 1, 1, SIZE, SIZE).expand(1, 3, SIZE, SIZE)
    assert not look(picture, noise).seam


def test_a_colour_shift_is_no_seam(picture: Baseline):
    shift = nothing()
    shift[:, 0] += 20 * LEVEL
    assert not look(picture, shift).seam


def test_a_changed_contrast_is_no_seam(picture: Baseline):
    assert not look(picture, -0.3 * picture.truth).seam


def test_a_smooth_error_is_no_seam(picture: Baseline):
    assert not look(picture, smooth(8)).seam


def test_an_error_at_latent_resolution_is_no_seam(picture: Baseline):
    error = 0.1 * interpolate(random(9, 1, 3, 48, 48), scale_factor=8, mode="bilinear")
    assert not look(picture, error).seam


@pytest.mark.parametrize("size", [0.1, 1.0, 100.0])
def test_single_pixels_are_no_seam(picture: Baseline, size: float):
    error = nothing()
    for y, x in ((200, 128), (10, 17), (127, 300), (255, 256)):
        error[0, 1, y, x] = size
    assert not look(picture, error).seam


def test_the_untiled_result_has_no_seam(picture: Baseline):
    found = look(picture, nothing())
    assert not found.seam
    assert found.band_worst == 0


def test_a_step_below_the_noise_of_the_dtype_is_no_seam():
    picture = a_baseline(truth=smooth(2))
    loud = replace(picture, floor=replace(picture.floor, rms=2 * LEVEL))
    step = nothing()
    step[..., 128:] += 3 * LEVEL
    assert look(picture, step).seam
    assert not look(loud, step).seam


def test_moments_have_seams_in_levels_of_their_own_range():
    case = a_case(direction=Direction.ENCODE)
    baseline = a_baseline(case)
    output = baseline.output.clone()
    output[:, :4, :, 16:] += 0.3
    found = find_seams(output, baseline, case)
    assert found.seam
    assert (found.lines[0].axis, found.lines[0].position) == ("x", 16)
    assert not find_seams(baseline.output + 0.3, baseline, case).seam


def test_frames_and_items_are_looked_at_one_by_one():
    case = a_case(family="qwen", batch=2, frames=2, height=24, width=24, tile=8)
    baseline = a_baseline(case)
    output = baseline.output.clone()
    output[1, :, 3, :, 64:] += 6 * LEVEL
    lines = find_seams(output, baseline, case).lines
    assert {(line.batch, line.frame, line.position) for line in lines} == {(1, 3, 64)}


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 40), (5, 3), (17, 17)])
def test_small_planes_are_looked_at_without_error(height: int, width: int):
    for direction in Direction:
        case = a_case(height=height, width=width, direction=direction)
        baseline = a_baseline(case)
        found = find_seams(baseline.output + 0.5, baseline, case)
        assert not found.seam


def test_nan_is_no_seam_and_no_error():
    baseline = a_baseline()
    output = baseline.output.clone()
    output[..., 128:] = torch.nan
    find_seams(output, baseline, CASE)
