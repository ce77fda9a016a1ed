"""Inputs are deterministic, have contrast, and differ wherever a hook could mix things up."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vae_compat.contracts.cases import Case, Direction, Given, Layout, Mode, Scale
from vae_compat.errors import UsageError
from vae_compat.fixtures.inputs import PHOTOGRAPHS, make_input
from vae_compat.measure.placing import arranged


def case(family: str, direction: Direction, **changes: Any) -> Case:
    made = Case(family, Scale.MOCK, Layout.DIFFUSERS, direction, Mode.EXACT, 24, 20, 16)
    return replace(made, **changes)


def slices(made: torch.Tensor) -> list[torch.Tensor]:
    """Every frame of every batch item of ``B C T H W``."""
    return list(made.transpose(1, 2).flatten(0, 1))


@pytest.mark.parametrize("direction", Direction)
@pytest.mark.parametrize(("family", "frames"), [("sd", 1), ("flux2", 1), ("wan22", 1), ("qwen", 3)])
def test_shape_and_range_are_those_of_the_case(family, frames, direction):
    one = case(family, direction, batch=2, frames=frames)
    made = make_input(one)
    assert made.dtype is torch.float32
    assert made.is_contiguous()
    if direction is Direction.DECODE:
        assert made.shape == one.latent_shape
        assert 0.7 < made.std() < 1.6
        assert made.abs().max() < 12
    else:
        assert made.shape == one.image_shape
        assert made.min() >= -1
        assert made.max() <= 1
        assert made.std() > 0.3


@pytest.mark.parametrize("direction", Direction)
def test_every_item_and_frame_differs_from_every_other(direction):
    parts = slices(make_input(case("qwen", direction, batch=5, frames=3)))
    for one, other in combinations(parts, 2):
        assert (one - other).square().mean().sqrt() > 0.05


@pytest.mark.parametrize("direction", Direction)
def test_statistics_vary_over_the_plane(direction):
    made = make_input(case("sd", direction, height=40, width=40))
    side = made.shape[-1] // 4
    means = torch.nn.functional.avg_pool2d(made, side)
    spreads = (torch.nn.functional.avg_pool2d(made.square(), side) - means.square()).sqrt()
    assert means.std() > 0.2
    assert spreads.max() > 1.5 * spreads.min()


def test_the_same_case_gets_the_same_input_and_the_random_state_is_left_alone():
    one = case("wan21", Direction.DECODE, frames=2)
    before = torch.get_rng_state()
    first = make_input(one)
    torch.rand(3)
    torch.set_rng_state(before)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert torch.equal(first, make_input(one))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("direction", Direction)
def test_cases_of_one_baseline_share_their_input_and_other_dtypes_round_it(direction):
    one = case("sd", direction)
    made = make_input(one)
    assert torch.equal(made, make_input(replace(one, mode=Mode.FAST, tile=8)))
    half = make_input(replace(one, dtype="bfloat16"))
    assert half.dtype is torch.bfloat16
    assert torch.equal(half, made.to(torch.bfloat16))


@pytest.mark.parametrize("direction", Direction)
@pytest.mark.parametrize(("family", "frames"), [("sd", 1), ("qwen", 3)])
def test_a_flat_input_has_one_value_a_channel(family, frames, direction, tmp_path):
    one = case(family, direction, batch=2, frames=frames, given=Given.FLAT)
    made = make_input(one, image=tmp_path / "not even read")
    assert made.shape == one.input_shape
    flat = made.flatten(2)
    assert torch.equal(flat.amin(-1), flat.amax(-1))
    assert 0 < made.abs().max() < 5


def test_loud_latents_are_the_usual_ones_times_ten():
    one = case("sd", Direction.DECODE, given=Given.LOUD)
    made = make_input(one)
    assert torch.equal(made, 10 * make_input(replace(one, given=None)))
    assert made.abs().max() > 20


@pytest.mark.parametrize("direction", Direction)
@pytest.mark.parametrize(("family", "frames"), [("sd", 1), ("qwen", 3)])
@pytest.mark.parametrize("given", [Given.CHANNELS_LAST, Given.SLICE, Given.EXPANDED])
def test_values_stay_where_a_tensor_lies_elsewhere_in_memory(given, family, frames, direction):
    one = case(family, direction, batch=2, frames=frames, given=given)
    made = make_input(one)
    moved = arranged(made, given)
    assert torch.equal(moved, made)
    assert not moved.is_contiguous()
    match given:
        case Given.CHANNELS_LAST:
            assert moved.stride(1) == 1
        case Given.SLICE:
            around = torch.as_strided(moved, (3,), (1,), moved.storage_offset() - 2)
            assert around.isnan().tolist() == [True, True, False]
        case Given.EXPANDED:
            assert moved.stride(0) == 0
    assert arranged(made, None) is made


def test_the_photographs_are_inside_the_wheel():
    for item in range(len(PHOTOGRAPHS)):
        make_input(case("sd", Direction.ENCODE, batch=item + 1, height=2, width=2))


def test_batch_items_show_different_photographs(monkeypatch):
    opened = []

    def note(path):
        opened.append(path.name)
        return Image.new("RGB", (64, 64))

    monkeypatch.setattr("vae_compat.fixtures.inputs.open_picture", note)
    make_input(case("qwen", Direction.ENCODE, batch=5, frames=2))
    assert opened == [*PHOTOGRAPHS, PHOTOGRAPHS[0]]


def test_a_photograph_keeps_its_proportions_and_colours():
    one = case("sd", Direction.ENCODE, height=50, width=30)
    made = make_input(one)
    assert (made[:, 0] - made[:, 2]).abs().mean() > 0.02
    smooth = (made[..., 1:] - made[..., :-1]).abs().mean()
    assert smooth < 0.3 * made.std()


def test_a_given_image_is_used_for_every_item(tmp_path):
    path = tmp_path / "red.png"
    Image.fromarray(np.full((50, 70, 3), (255, 0, 51), np.uint8)).save(path)
    made = make_input(case("qwen", Direction.ENCODE, batch=2, frames=2), image=path)
    expected = torch.tensor([1.0, -1.0, 51 / 127.5 - 1]).view(1, 3, 1, 1, 1)
    assert torch.allclose(made, expected.expand_as(made))


def test_grey_pictures_and_pictures_with_alpha_are_taken(tmp_path):
    for mode in ("L", "RGBA", "P"):
        path = tmp_path / f"{mode}.png"
        Image.effect_noise((60, 60), 40).convert(mode).save(path)
        assert make_input(case("sd", Direction.ENCODE), image=path).std() > 0


def test_a_missing_image_is_wrong_use(tmp_path):
    with pytest.raises(UsageError, match=r"gone\.png does not exist"):
        make_input(case("sd", Direction.ENCODE), image=tmp_path / "gone.png")


@pytest.mark.parametrize("content", [b"", b"no picture at all", b"\x89PNG\r\n\x1a\n broken"])
def test_a_file_that_is_no_picture_is_wrong_use(tmp_path, content):
    path = tmp_path / "text.png"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"text\.png cannot be read as a picture"):
        make_input(case("sd", Direction.ENCODE), image=path)


def test_a_truncated_picture_and_a_directory_are_wrong_use(tmp_path):
    path = tmp_path / "half.png"
    Image.effect_noise((90, 90), 40).convert("RGB").save(path)
    path.write_bytes(path.read_bytes()[:2000])
    for bad, match in (path, "cannot be read as a picture"), (tmp_path, "no plain file"):
        with pytest.raises(UsageError, match=match):
            make_input(case("sd", Direction.ENCODE), image=bad)
