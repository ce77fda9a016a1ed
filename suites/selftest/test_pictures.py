"""Pictures of what failed: drawn from what the judge has, kept few, and of no say in a verdict."""

from __future__ import annotations

import io
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from vae_compat.checks.parity import check_parity
from vae_compat.contracts.cases import Direction, Scale, Scenario
from vae_compat.judge import Record, judge
from vae_compat.measure.caches import Holds
from vae_compat.measure.observation import Noise, Observation
from vae_compat.reports.pictures import drawing, exhibit, making
from vae_compat.reports.pictures.album import Album
from vae_compat.reports.pictures.exhibit import Exhibit, Shown, clear, read, with_images
from vae_compat.scenarios.clip import ClipObserved, Way
from vae_compat.scenarios.tracks import ChunkSeen, SlotSeen
from vae_compat.suites.selftest.measure_fakes import a_baseline, a_case, an_observation
from vae_compat.suites.selftest.running import here, profile

EDGE = 8 * 8
"""The first border of the nominal tiles, in pixels."""
CASE = a_case(height=20, width=20, tile=8)


def stepped(size: float = 0.05, edge: int = EDGE) -> Any:
    def change(output: Tensor) -> Tensor:
        output[..., edge:] += size
        return output

    return change


def found(observation: Observation, hook: str = "mine") -> Record:
    (record,) = judge(observation.case.id, [check_parity(observation)], hook=hook)
    return record


def made(observation: Observation) -> Shown:
    shown = making.shown("mine", observation)
    assert shown is not None
    return shown


def pixels(shown: Shown, kind: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(shown.images[kind])).convert("RGB"))


# Drawing


def test_levels_become_pixels_and_what_is_not_finite_stands_out() -> None:
    levels = np.array([[[0.0, 127.6], [300.0, math.nan]]])
    picture = drawing.seen(levels)
    assert picture[0].tolist() == [[0, 0, 0], [128, 128, 128]]
    assert picture[1].tolist() == [[255, 255, 255], list(drawing.NOT_FINITE)]


@pytest.mark.parametrize(("most", "scale"), [(0.0, 1.0), (3.0, 5.0), (0.0011, 0.002), (99.0, 100)])
def test_the_scale_of_a_difference_is_a_round_number_above_it(most: float, scale: float) -> None:
    assert drawing.full_scale_of(np.full((4, 4), most)) == pytest.approx(scale)


def test_a_difference_grows_in_brightness_from_black() -> None:
    brightness = drawing.ramp().astype(int).sum(axis=1)
    assert (np.diff(brightness) >= 0).all()
    assert drawing.in_colours(np.zeros((1, 1)), 1.0).sum() < 10


def test_a_narrow_seam_survives_being_made_small() -> None:
    moved = np.zeros((100, 100))
    moved[:, 51] = 7.0
    assert drawing.pooled(moved, 10).shape == (10, 10)
    assert drawing.pooled(moved, 10)[:, 5].tolist() == [7.0] * 10


# A case


def test_a_case_shows_both_results_their_difference_and_the_worst_place(drawn: Shown) -> None:
    shown, told = drawn, drawn.exhibit
    assert set(shown.images) == set(exhibit.KINDS[:6])
    assert (told.height, told.width, told.tile) == (160, 160, EDGE)
    assert told.full_scale == 10.0  # 0.05 of 2 are 6.4 levels
    difference = pixels(shown, "difference").astype(int).sum(axis=2)
    assert difference[:, : EDGE - 8].mean() < 20 < difference[:, EDGE + 8 :].mean()
    assert told.crop is not None
    assert told.worst is not None
    y, x, height, width = told.crop
    assert y <= told.worst[0] < y + height
    assert x <= told.worst[1] < x + width


def test_a_profile_crosses_the_seam(drawn: Shown) -> None:
    told = drawn.exhibit.profile
    assert told is not None
    assert (told.seam, told.axis, told.at) == (True, "x", EDGE)
    gap = [b - a for a, b in zip(told.untiled, told.ours, strict=True) if b is not None]
    border = told.at - told.start
    assert max(map(abs, gap[:border])) < 0.1
    assert gap[border] == pytest.approx(6.4, abs=0.1)


def test_a_result_with_nan_is_drawn_with_them_marked() -> None:
    def torn(output: Tensor) -> Tensor:
        output[..., 10:20, 10:20] = math.nan
        return output

    shown = made(an_observation(CASE, change=torn))
    assert shown.exhibit.psnr is None
    assert (pixels(shown, "difference_crop") == drawing.NOT_FINITE).all(axis=2).sum() == 100


def test_moments_are_drawn_by_their_worst_channel() -> None:
    case = replace(CASE, direction=Direction.ENCODE)

    def change(output: Tensor) -> Tensor:
        output[:, 5, 10:] += 0.5
        return output

    assert made(an_observation(case, change=change)).exhibit.shows == "channel 5 of the moments"


def test_a_result_of_another_size_is_shown_without_a_difference() -> None:
    shown = made(an_observation(CASE, change=lambda output: output[..., :-8, :]))
    assert set(shown.images) == {"untiled", "hook"}
    assert "152 x 160" in shown.exhibit.shows


@pytest.mark.parametrize("shape", [(3,), (1, 3, 0, 8), (1, 1, 1, 1, 1, 1)])
def test_what_is_no_picture_is_not_drawn(shape: tuple[int, ...]) -> None:
    assert making.shown("mine", an_observation(CASE, change=lambda _: torch.zeros(shape))) is None


# Clips


def a_clip(change: Any, slots: tuple[SlotSeen, ...] = ()) -> ClipObserved:
    case = a_case(family="qwen", frames=3, scenario=Scenario.CLIP, height=12, width=12, tile=8)
    whole = an_observation(case, change=change)
    chunk = ChunkSeen(
        number=0,
        frames=1,
        returned=("a tensor", "a tensor"),
        sizes=("1", "1"),
        index=(1, 1),
        slots=slots,
        lengths=(len(slots), len(slots)),
        shared=frozenset(),
        written_between=(),
        peak_bytes=(None, None),
        live_bytes=(None, None),
    )
    way = Way("own", True, (chunk,), a_baseline(case), None, ())
    return ClipObserved(case=case, promise=whole.promise, whole=whole, ways=(way,) if slots else ())


def a_slot(number: int, ours: str = "frames", error: float = 1.0) -> SlotSeen:
    holds = (Holds.FRAMES if ours == "frames" else Holds.NOTHING, Holds.FRAMES)
    return SlotSeen(
        number, "conv", ours, "frames", holds, error=Noise(error, error), floor=Noise(1.0, 1.0)
    )


def test_a_clip_has_a_film_and_the_error_of_every_frame() -> None:
    def late(output: Tensor) -> Tensor:
        output[:, :, 5:] += 0.1
        return output

    told = made(a_clip(late)).exhibit  # type: ignore[arg-type]
    assert told.film[-1] == 8
    assert len(told.frames) == 9
    assert max(told.frames[:5]) < 2 < min(told.frames[5:])
    assert "untiled_film" in {picture.kind for picture in told.pictures}


def test_wrong_slots_are_kept_by_chunk() -> None:
    observed = a_clip(None, (a_slot(0), a_slot(1, error=50.0), a_slot(2, "nothing")))
    assert making.differs(observed)
    told = made(observed).exhibit.slots  # type: ignore[arg-type]
    assert told is not None
    assert told.ratios == ((1.0,), (50.0,), (None,))
    assert told.unlike == ((2, 0),)
    assert not making.differs(a_clip(None, (a_slot(0),)))


# Keeping


def kept(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / exhibit.FOLDER).glob("*.json"))


def sizes(*steps: float) -> list[Observation]:
    """Failing cases of one group, the size of the step of each."""
    return [
        an_observation(replace(CASE, width=20 + number), change=stepped(step))
        for number, step in enumerate(steps)
    ]


def test_of_a_group_the_worst_case_is_kept_in_whatever_order_they_come(tmp_path: Path) -> None:
    cases = sizes(0.02, 0.2, 0.05)
    for number, order in enumerate((cases, cases[::-1])):
        album = Album(tmp_path / str(number))
        for each in order:
            album.consider(found(each), each)
    worst = exhibit.name_of("mine", cases[1].case.id) + ".json"
    assert kept(tmp_path / "0") == kept(tmp_path / "1") == [worst]


def test_what_passes_is_kept_once_a_family_and_what_others_show_stays(tmp_path: Path) -> None:
    album = Album(tmp_path)
    for family in ("sd", "flux"):
        sound = an_observation(replace(CASE, family=family, height=32))
        album.consider(found(sound), sound)
    (bad,) = sizes(0.1)
    album.consider(found(bad), bad)
    album.consider(replace(found(bad), check="seams"), bad)
    (worse,) = sizes(0.3)
    worse = replace(worse, case=replace(CASE, height=64))
    album.consider(found(worse), worse)
    assert len(kept(tmp_path)) == 4  # `bad` still stands for the seams


def test_a_failure_without_anything_to_see_has_no_picture(tmp_path: Path) -> None:
    sound = an_observation(CASE)
    Album(tmp_path).consider(replace(found(sound), check="left_behind", status="failed"), sound)
    assert not (tmp_path / exhibit.FOLDER).exists()


# Storing


@pytest.fixture(scope="module")
def drawn() -> Shown:
    return made(an_observation(CASE, change=stepped()))


@pytest.fixture
def stored(drawn: Shown, tmp_path: Path) -> Exhibit:
    exhibit.write(drawn, tmp_path)
    return drawn.exhibit


@pytest.mark.parametrize(("step", "shows"), [(0.02, True), (1e-4, False)])
def test_a_photograph_is_shown_rather_than_noise_where_anything_can_be_seen_in_it(
    step: float, shows: bool, tmp_path: Path
) -> None:
    noise = an_observation(CASE, change=stepped(0.1))
    photograph = an_observation(replace(CASE, scale=Scale.TRAINED), change=stepped(step))
    album = Album(tmp_path)
    for each in (photograph, noise, photograph):
        album.consider(found(each), each)
    wanted = photograph if shows else noise
    assert kept(tmp_path) == [exhibit.name_of("mine", wanted.case.id) + ".json"]
    told = [made(each).exhibit for each in (noise, photograph)]
    assert exhibit.worst_of(told) == told[shows]


def test_an_exhibit_is_read_back_with_its_pictures(stored: Exhibit, tmp_path: Path) -> None:
    back = read("mine", stored.case, tmp_path)
    assert back == stored
    assert set(with_images(stored, tmp_path).images) == set(exhibit.KINDS[:6])
    assert read("another", stored.case, tmp_path) is None


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"hook": "mine"}', '{"other": 1}', "[" * 100_000, '{"hook": NaN}']
)
def test_a_description_that_is_none_is_passed_over(
    stored: Exhibit, tmp_path: Path, text: str
) -> None:
    (tmp_path / exhibit.FOLDER / f"{stored.name}.json").write_text(text)
    assert read("mine", stored.case, tmp_path) is None


def test_a_description_with_far_too_much_in_it_is_passed_over(
    stored: Exhibit, tmp_path: Path
) -> None:
    exhibit.write(Shown(replace(stored, frames=(1.0,) * 100_000), {}), tmp_path)
    assert read("mine", stored.case, tmp_path) is None


@pytest.mark.parametrize("data", [b"", b"<svg onload='x'/>", b"RIFF\0\0\0\0WEBPVP8 ", None])
def test_a_file_that_is_no_picture_is_passed_over(
    stored: Exhibit, tmp_path: Path, data: bytes | None
) -> None:
    file = tmp_path / exhibit.FOLDER / f"{stored.name}-hook.webp"
    if data is None:
        file.write_bytes(drawing.encoded(np.zeros((3, 3, 3), dtype=np.uint8)))  # of another size
    else:
        file.write_bytes(data)
    assert "hook" not in with_images(stored, tmp_path).images


def test_a_fresh_run_clears_exhibits_and_nothing_else(stored: Exhibit, tmp_path: Path) -> None:
    room = tmp_path / exhibit.FOLDER
    (room / "mine.webp").write_text("of the user")
    (room / "notes.json").write_text("of the user")
    clear(tmp_path)
    assert {path.name for path in room.iterdir()} == {"mine.webp", "notes.json"}
    assert read("mine", stored.case, tmp_path) is None


@pytest.mark.slow
def test_a_picture_that_cannot_be_written_is_a_sentence_and_changes_no_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Album, "consider", full)
    case = replace(CASE, height=17, width=17, tile=16).id
    narrow = ("--profile", profile(tmp_path, "mine"), "--case", case, "-k", "parity or finite")
    ran = here(tmp_path / "out", *narrow)
    assert ran.code == 0, ran.out + ran.err
    assert [found["status"] for found in ran.records()] == ["passed", "passed"]
    assert ran.err == "vae-compat: pictures of 2 records are missing: No space left on device\n"
