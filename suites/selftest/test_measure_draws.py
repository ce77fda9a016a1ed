"""More draws of the noise raise a floor that one draw set too low; a wrong result stays wrong."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vae_compat.contracts.cases import Direction
from vae_compat.contracts.finding import Finding, Status
from vae_compat.contracts.promise import Promise
from vae_compat.device import open_device
from vae_compat.fixtures.specimens.caching import CachingTiler
from vae_compat.fixtures.specimens.resting import RestingTiler
from vae_compat.measure import draws
from vae_compat.measure.distance import floors, largest
from vae_compat.measure.draws import (
    DRAWS,
    EXPLAINED,
    SHARE,
    another_draw,
    in_doubt,
    is_doubtful,
    moved,
)
from vae_compat.measure.observation import WHOLE, Noise
from vae_compat.scenarios import tracks
from vae_compat.subject.profile import Profile, profile_from_flags
from vae_compat.suites.selftest.measure_fakes import FLOOR, a_case, an_observation
from vae_compat.suites.selftest.playing import Stand

pytestmark = pytest.mark.slow

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
LITTLE, MUCH = 2e-5, 0.03
"""Noise that a hook adds: about ten times the floor of mock VAEs, and far beyond any draw."""


@pytest.mark.parametrize("dtype", DTYPES)
def test_few_values_move_and_each_by_one_unit_in_the_last_place(dtype: torch.dtype) -> None:
    x = torch.randn(2, 4, 40, 40, generator=torch.Generator().manual_seed(1)).to(dtype)
    other = moved(x, 0)
    assert other.dtype == dtype
    up, down = torch.full_like(x, torch.inf), torch.full_like(x, -torch.inf)
    higher, lower = other == torch.nextafter(x, up), other == torch.nextafter(x, down)
    assert bool((higher | lower | (other == x)).all())
    assert float((higher | lower).double().mean()) == pytest.approx(SHARE, rel=0.1)
    assert float(higher.double().mean()) == pytest.approx(SHARE / 2, rel=0.1)


def test_draws_differ_and_are_the_same_again() -> None:
    x = torch.ones(1, 4, 8, 8)
    assert torch.equal(moved(x, 3), moved(x, 3))
    assert len({tuple(moved(x, draw).flatten().tolist()) for draw in range(DRAWS)}) == DRAWS
    assert torch.equal(x, torch.ones(1, 4, 8, 8))


@pytest.mark.parametrize("kind", ["cpu", "sim"])
def test_every_second_draw_convolves_with_channels_innermost(kind: str) -> None:
    convolution, formats = nn.Conv2d(4, 8, 3), []
    device = open_device(kind)
    with torch.no_grad(), device:
        device.place(convolution)
        for draw in range(4):
            with another_draw(torch.ones(1, 4, 8, 8), draw) as x:
                out = convolution(device.put(x))
            formats.append(out.is_contiguous(memory_format=torch.channels_last))
        device.withdraw(convolution)
    assert formats == [False, True, False, True]


def test_floors_are_those_of_every_item_frame_and_change() -> None:
    truth = torch.zeros(2, 3, 2, 4, 4, dtype=torch.float64)
    output = torch.zeros(2, 3, 2, 4, 4)
    output[0, 1, 1, 2, 3] = 12.0  # one of 192 elements, 96 of an item, 48 of a frame
    found = floors(output, truth)
    assert found[WHOLE] == Noise(pytest.approx(12 / 192**0.5), 12.0)
    assert found[0, None] == Noise(pytest.approx(12 / 96**0.5), 12.0)
    assert found[0, 1] == Noise(pytest.approx(12 / 48**0.5), 12.0)
    assert found[None, 1] == Noise(pytest.approx(12 / 96**0.5), 12.0)
    assert {found[part] for part in ((0, 0), (1, None), (1, 0), (1, 1))} == {Noise(0.0, 0.0)}
    assert len(found) == 8


def test_floors_of_a_picture_are_those_of_its_items() -> None:
    truth = torch.ones(2, 3, 4, 4, dtype=torch.float64)
    found = floors(torch.stack([truth[0] + 1, truth[1]]).float(), truth)
    assert found == {
        WHOLE: Noise(pytest.approx(0.5**0.5), 1.0),
        (0, None): Noise(1.0, 1.0),
        (0, 0): Noise(1.0, 1.0),
        (1, None): Noise(0.0, 0.0),
        (1, 0): Noise(0.0, 0.0),
    }


def test_largest_takes_rms_and_worst_each_by_itself() -> None:
    one, other = {WHOLE: Noise(1.0, 8.0), (0, 0): Noise(1.0, 1.0)}, {WHOLE: Noise(2.0, 5.0)}
    assert largest(one, other) == {WHOLE: Noise(2.0, 8.0), (0, 0): Noise(1.0, 1.0)}
    assert largest({}, one) == largest(one, {}) == one
    assert Noise(1.0, 8.0).largest(None, Noise(0.5, 9.0)) == Noise(1.0, 9.0)
    unknown = Noise(float("nan"), float("inf"))
    assert Noise(1.0, 8.0).largest(unknown) == unknown.largest(Noise(1.0, 8.0)) == Noise(1.0, 8.0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_draw_that_is_not_finite_says_nothing(bad: float) -> None:
    truth = torch.zeros(1, 3, 4, 4, dtype=torch.float64)
    output = torch.zeros(1, 3, 4, 4)
    output[0, 0, 0, 0] = bad
    assert floors(output, truth) == {}


def test_only_what_a_draw_may_explain_is_doubtful() -> None:
    floor = Noise(1.0, 5.0)
    right, missed = (Noise(1.9, 39.0), floor), (Noise(2.1, 5.0), floor)
    lone, beyond = (Noise(1.0, 41.0), floor), (Noise(2.1 * EXPLAINED, 5.0), floor)
    assert not is_doubtful([right, right])
    assert is_doubtful([right, missed])
    assert is_doubtful([lone])
    assert not is_doubtful([missed, beyond])
    assert not is_doubtful([(Noise(float("nan"), float("nan")), floor)])


# Whole cases --------------------------------------------------------------------------------------


def noisy(result: Any, amount: float) -> Any:
    """The result with noise that is the same in every call."""
    if not isinstance(result, Tensor):
        return result
    added = torch.randn(result.shape, generator=torch.Generator().manual_seed(result.shape[-1]))
    return result + amount * added.to(result.device)


class Picture(RestingTiler):
    """Adds a little noise."""

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return noisy(super().__call__(x, *args, **kwargs), LITTLE)


class Wrong(RestingTiler):
    """Adds noise that no draw explains."""

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return noisy(super().__call__(x, *args, **kwargs), MUCH)


class Video(CachingTiler):
    """Adds a little noise to every chunk."""

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        return noisy(super().__call__(x, *args, **kwargs), LITTLE)


class Caches(CachingTiler):
    """Adds a little noise to the cache, whose floor is lower."""

    def commit(self, feat_cache: list[Any]) -> None:
        self.fresh = {slot: noisy(value, LITTLE / 10) for slot, value in self.fresh.items()}
        super().commit(feat_cache)


class Unseen(RestingTiler):
    """Changes a weight in a way that no version counter sees, and computes with it."""

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        self.net.conv_out.weight.data.mul_(1 + 1e-5)
        return super().__call__(x, *args, **kwargs)


class UnseenVideo(CachingTiler):
    """Does the same in a causal coder."""

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        self.net.head[-1].weight.data.mul_(1 + 1e-5)
        return super().__call__(x, *args, **kwargs)


PLAYED = (
    ("Picture", None),
    ("Picture", "twice"),
    ("Picture", "settings"),
    ("Video", "clip"),
    ("Video", "streams"),
    ("Caches", "clip"),
)


SMALL = {"height": 4, "width": 7}
"""Two tiles beside each other, which suffice here."""
FEW = 2
"""Draws made in these tests, because eight would take as long as everything else together."""


@pytest.fixture(scope="module")
def baselines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What untiled gives, made once; sound hooks need no draw, so no draw is among it."""
    folder = tmp_path_factory.mktemp("baselines")
    made = Stand(folder)
    for scenario in (None, "twice", "settings"):
        made.observed("resting", scenario, family="sd", **SMALL)
    for scenario in ("clip", "streams"):
        made.observed("caching", scenario, family="qwen", **SMALL)
    return folder / "baselines"


@pytest.fixture
def stand(tmp_path: Path, baselines: Path, monkeypatch: pytest.MonkeyPatch) -> Stand:
    """Each test makes the draws anew."""
    shutil.copytree(baselines, tmp_path / "baselines")
    monkeypatch.setattr(draws, "DRAWS", FEW)
    monkeypatch.setattr(tracks, "DRAWS", FEW)
    return Stand(tmp_path)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The numbers of the draws that were made."""
    made: list[int] = []

    def note(x: Tensor, draw: int) -> Tensor:
        made.append(draw)
        return moved(x, draw)

    monkeypatch.setattr(draws, "moved", note)
    return made


@pytest.fixture
def ill_conditioned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draws lie far apart, as if the VAE amplified a unit in the last place."""

    def apart(x: Tensor, draw: int) -> Tensor:
        return x + 1e-3 * torch.randn(x.shape, generator=torch.Generator().manual_seed(draw))

    monkeypatch.setattr(draws, "moved", apart)


UNSEEN = (
    ("Unseen", None),
    ("Unseen", "twice"),
    ("UnseenVideo", "clip"),
)


def profile(name: str, grade: str = "exact") -> Profile:
    causal = name in ("Video", "Caches", "UnseenVideo")
    return profile_from_flags(
        f"{__file__}:{name}",
        "forward",
        "wan" if causal else "ldm",
        name=f"{name}-{grade}",
        families=("qwen",) if causal else ("sd",),
        directions=("encode", "decode"),
        modes=("exact",),
        cache="split" if causal else "none",
        grade={"exact": grade},
    )


def failed(stand: Stand, name: str, scenario: str | None, grade: str = "exact") -> list[Finding]:
    """The failed findings about a hook of this module."""
    stand.add(profile(name, grade))
    findings = stand.findings(f"{name}-{grade}", scenario, **SMALL)
    return [found for found in findings.values() if found.status == Status.FAILED]


@pytest.mark.parametrize(("name", "scenario"), PLAYED)
def test_result_that_misses_one_draw_is_held_against_the_noisiest(
    stand: Stand, ill_conditioned: None, name: str, scenario: str | None
) -> None:
    assert failed(stand, name, scenario) == []


@pytest.mark.parametrize(("name", "scenario"), PLAYED)
def test_wrong_result_is_looked_at_again_and_stays_wrong(
    stand: Stand, looks: list[int], name: str, scenario: str | None
) -> None:
    assert failed(stand, name, scenario) != []
    assert set(looks) == set(range(FEW))


@pytest.mark.parametrize("scenario", [None, "twice"])
def test_what_no_draw_explains_is_not_looked_at_again(
    stand: Stand, looks: list[int], scenario: str | None
) -> None:
    assert failed(stand, "Wrong", scenario) != []
    assert looks == []


def test_where_noise_is_no_bound_nothing_is_looked_at_again(stand: Stand, looks: list[int]) -> None:
    assert failed(stand, "Picture", None, grade="close") == []
    assert looks == []


@pytest.mark.parametrize("scenario", [None, "clip", "streams"])
def test_sound_hook_needs_no_further_draw(
    stand: Stand, looks: list[int], scenario: str | None
) -> None:
    findings = stand.findings("caching" if scenario else "resting", scenario, **SMALL)
    assert {found.status for found in findings.values()} == {Status.PASSED}
    assert looks == []


def test_draws_are_made_once_for_all_hooks(stand: Stand, looks: list[int]) -> None:
    failed(stand, "Picture", None)
    assert len(looks) == FEW
    failed(stand, "Picture", None)  # another run over the same folder: the draws are stored
    assert len(looks) == FEW


@pytest.mark.parametrize(("name", "scenario"), UNSEEN)
def test_what_a_hook_does_to_the_weights_is_no_noise(
    stand: Stand, looks: list[int], name: str, scenario: str | None
) -> None:
    assert failed(stand, name, scenario) != []
    assert set(looks) == set(range(FEW))


@pytest.mark.parametrize(("grade", "direction"), [("exact", "decode"), ("lossless", "encode")])
def test_grades_that_noise_bounds_are_looked_at_again(grade: str, direction: str) -> None:
    case = a_case(direction=Direction(direction))
    seen = an_observation(case, change=lambda y: y + 5 * FLOOR, grade=grade)
    assert in_doubt(seen)
    assert not in_doubt(an_observation(case, grade=grade))
    assert not in_doubt(replace(seen, output=seen.output.half()))
    assert not in_doubt(replace(seen, promise=Promise(grade="close")))
    assert in_doubt(replace(seen, promise=Promise(grade="close", claimed=False)))


def test_levels_of_a_picture_are_no_noise() -> None:
    seen = an_observation(change=lambda y: y + 5 * FLOOR, grade="lossless")
    assert not in_doubt(seen)
