"""Distances are compared with values worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from vae_compat.contracts.cases import Direction
from vae_compat.measure.distance import Place, distance, floor_of, in_words, noise
from vae_compat.measure.observation import Noise
from vae_compat.measure.planes import level_sizes, spans
from vae_compat.suites.selftest.measure_fakes import CASE, a_baseline, a_case

DECODE = Direction.DECODE


def test_untiled_result_is_at_its_own_floor():
    baseline = a_baseline()
    measured = distance(baseline.output, baseline, DECODE)
    assert measured.ratio == pytest.approx(1.0, abs=0.02)
    assert measured.error.rms == pytest.approx(baseline.floor.rms)
    assert measured.level_change == 0
    assert measured.differing == 0
    assert measured.missing == 0


def test_known_error_gives_known_numbers():
    baseline = a_baseline()
    output = baseline.output.clone()
    output[0, 1, 7, 9] += 0.5
    measured = distance(output, baseline, DECODE)
    assert measured.worst_at == Place(0, 1, 0, 7, 9)
    assert measured.error.worst == pytest.approx(0.5, abs=1e-5)
    assert measured.error.rms == pytest.approx(0.5 / math.sqrt(output.numel()), rel=1e-3)
    assert measured.level_change in (63, 64)
    assert measured.differing == pytest.approx(1 / (384 * 384))
    span = float(baseline.truth.max() - baseline.truth.min())
    assert measured.psnr == pytest.approx(20 * math.log10(span / measured.error.rms))


def test_shift_is_counted_in_levels_per_item_and_channel():
    case = a_case(batch=2)
    baseline = a_baseline(case)
    output = baseline.output.clone()
    output[1, 2] += 3 * 2 / 255
    shift = distance(output, baseline, DECODE).shift
    assert len(shift) == 6
    assert shift[5] == pytest.approx(3.0, abs=1e-3)
    assert max(map(abs, shift[:5])) < 1e-3


def test_shift_is_the_mean_over_all_frames():
    case = a_case(family="qwen", frames=2, height=8, width=8)
    baseline = a_baseline(case)
    output = baseline.output.clone()
    output[:, 1, 0] += 5 * 2 / 255
    assert distance(output, baseline, DECODE).shift[1] == pytest.approx(1.0, abs=1e-3)


def test_what_a_host_clamps_shifts_no_picture_and_is_an_error_all_the_same():
    plain = a_baseline()
    wide = replace(plain, output=plain.output * 4, truth=plain.truth * 4)
    clamped = wide.output.clamp(-1, 1)
    measured = distance(clamped, wide, DECODE)
    assert set(measured.shift) == {0.0}
    assert measured.error.worst > 1
    moments = distance(clamped, wide, Direction.ENCODE)
    assert max(map(abs, moments.shift)) > 0.1


def test_items_and_frames_have_numbers_of_their_own():
    case = a_case(family="qwen", batch=2, frames=2, height=8, width=8)
    baseline = a_baseline(case)
    output = baseline.output.clone()
    output[1, :, 3] += 0.1
    measured = distance(output, baseline, DECODE)
    assert [part.ratio > 100 for part in measured.items] == [False, True]
    bad = [(part.batch, part.frame) for part in measured.frames if part.ratio > 100]
    assert bad == [(1, 3)]
    assert measured.worst_at.frame == 3


def test_a_picture_outside_the_range_moves_no_level_there():
    baseline = a_baseline(truth=torch.full((1, 3, 16, 16), 1.5, dtype=torch.float64))
    assert distance(baseline.output + 1, baseline, DECODE).level_change == 0


def test_nan_is_counted_located_and_never_near():
    baseline = a_baseline()
    output = baseline.output.clone()
    output[0, 2, 5, 6] = torch.nan
    measured = distance(output, baseline, DECODE)
    assert measured.non_finite == 1
    assert measured.worst_at == Place(0, 2, 0, 5, 6)
    assert math.isnan(measured.error.rms)
    assert math.isnan(measured.psnr)
    assert measured.differing > 0


@pytest.mark.parametrize("value", [torch.inf, -torch.inf])
def test_infinite_values_have_no_psnr(value: float):
    baseline = a_baseline()
    output = baseline.output.clone()
    output[0, 0, 0, 0] = value
    assert math.isnan(distance(output, baseline, DECODE).psnr)


def test_unwritten_pixels_are_missing():
    baseline = a_baseline()
    output = baseline.output.clone()
    output[..., 10:12, :50] = 0
    assert distance(output, baseline, DECODE).missing == 100


def test_a_net_without_noise_is_still_allowed_its_rounding():
    truth = a_baseline().output.double()
    baseline = replace(a_baseline(truth=truth), output=truth.float(), floor=Noise(0.0, 0.0))
    output = truth.float() * (1 + 2**-24)
    measured = distance(output, baseline, DECODE)
    assert measured.floor.rms > 0
    assert measured.ratio < 2
    assert distance(truth.float() + 1e-5, baseline, DECODE).ratio > 100


@pytest.mark.parametrize("own", [0.0, 1e-6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_floor_is_the_noise_or_the_rounding_whichever_is_more(own: float, dtype: torch.dtype):
    truth = torch.full((1, 3, 8, 8), 0.5, dtype=torch.float64)
    found, eps = floor_of((truth + own).to(dtype), truth), torch.finfo(dtype).eps
    expected = own if dtype is torch.float32 else 0.0  # 0.500001 is 0.5 in bfloat16
    assert found.rms == pytest.approx(max(expected, eps / 4 * 0.5), rel=0.1)
    assert found.worst == pytest.approx(max(expected, eps / 2 * 0.5), rel=0.1)


def test_moments_are_judged_by_the_worse_of_mean_and_log_variance():
    case = a_case(direction=Direction.ENCODE)
    baseline = a_baseline(case)
    truth = baseline.truth.clone()
    truth[:, 4:] *= 100
    baseline = a_baseline(case, truth=truth)
    output = baseline.output.clone()
    output[:, :4] += 0.1
    measured = distance(output, baseline, Direction.ENCODE)
    assert measured.level_change is None
    assert measured.psnr < 30
    assert spans(truth, Direction.ENCODE)[0] < 2
    assert spans(truth, Direction.ENCODE)[7] > 100


def test_levels_of_a_constant_latent_are_finite():
    assert torch.isfinite(level_sizes(torch.zeros(1, 8, 4, 4), Direction.ENCODE)).all()


def test_other_shapes_are_refused():
    baseline = a_baseline()
    with pytest.raises(ValueError, match="shapes differ"):
        distance(baseline.output[..., :-1], baseline, DECODE)


def test_noise_is_measured_in_float64():
    truth = torch.full((1, 1, 4, 4), 1.0, dtype=torch.float64)
    assert noise((truth + 1e-3).float(), truth).rms == pytest.approx(1e-3, rel=1e-4)


@pytest.mark.parametrize(
    ("y", "x", "said"),
    [
        (3, 5, "tile row 0, column 0, interior"),
        (128, 5, "horizontal border at y 128"),
        (127, 257, "horizontal border at y 128 and vertical border at x 256"),
        (0, 0, "interior"),
        (383, 383, "interior"),
    ],
)
def test_place_in_words(y: int, x: int, said: str):
    assert said in in_words(Place(0, 1, 0, y, x), CASE, (1, 3, 384, 384))


def test_large_pictures_are_never_held_twice():
    baseline = a_baseline(a_case(batch=2, height=8, width=8))
    plane = 64 * 64 * 8
    held = {tensor.untyped_storage().data_ptr() for tensor in (baseline.truth, baseline.output)}
    made = []

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **kwargs or {})
            if isinstance(result, torch.Tensor):
                storage = result.untyped_storage()
                if storage.data_ptr() not in held:
                    made.append(storage.nbytes())
            return result

    with Sizes():
        distance(baseline.output, baseline, DECODE)
    assert max(made) == plane
