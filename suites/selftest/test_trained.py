"""VAEs that a training made: what ships, what it reconstructs, and what is judged on it."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from vae_compat.contracts.cases import Case, Direction, Layout, Mode, Scale
from vae_compat.errors import UsageError
from vae_compat.families import FAMILIES
from vae_compat.fixtures.inputs import HELD_OUT, make_input
from vae_compat.fixtures.specimens import SPECIMENS
from vae_compat.fixtures.training import files, loop
from vae_compat.fixtures.training.loop import Recipe, Stage, rate_at, train
from vae_compat.fixtures.training.photographs import (
    LICENCES,
    held_out_crops,
    photograph,
    tensor_of,
    training_set,
)
from vae_compat.fixtures.vaes import build
from vae_compat.fixtures.vaes.trained import FOLDER
from vae_compat.front.explaining.explain import explain, parse_case
from vae_compat.front.selection.subjects import load_subject
from vae_compat.matrix import generate
from vae_compat.measure.circumstances import code_files
from vae_compat.suites.mutation.trial import judged, prepared, profile_of

FILES = {family.trained.file: name for name, family in reversed(FAMILIES.items()) if family.trained}
"""The first family of every file."""
TRAINED = [name for name, family in FAMILIES.items() if family.trained]
PSNR = 24.0
SHOWN = (
    "resting",
    "crossfading",
    "blending",
    "short-halo",
    "attention-per-tile",
    "corner-blend",
)
"""Hooks, sound and bad, that meet a trained net in a test of their own."""


def a_case(family: str, direction: Direction = Direction.DECODE, **changes: object) -> Case:
    size = {"height": 20, "width": 40, "tile": 8} | changes
    return Case(family, Scale.TRAINED, Layout.DIFFUSERS, direction, Mode.EXACT, **size)


@cache
def told_by(file: str) -> dict[str, str]:
    with safe_open(FOLDER / file, framework="pt") as opened:
        return dict(opened.metadata())


# What ships


@pytest.mark.parametrize("file", FILES)
def test_a_file_is_small_and_says_what_it_was_made_from(file: str) -> None:
    assert (FOLDER / file).stat().st_size <= 2 * 2**20
    told = told_by(file)
    photographs = json.loads(told["photographs"])
    assert photographs == LICENCES
    assert all(licence.startswith(("CC0", "public domain")) for licence in photographs.values())
    assert told["held_out"] == HELD_OUT
    for family in TRAINED:
        trained = FAMILIES[family].trained
        assert trained is not None
        if trained.file == file:
            kept = {"block_out_channels", "norm_num_groups", "base_dim", "z_dim", "latent_channels"}
            config = json.loads(told["config"])
            mine = json.loads(json.dumps(dict(trained.config)))
            assert {k: config.get(k) for k in kept} == {k: mine.get(k) for k in kept}


@pytest.mark.parametrize("file", FILES)
def test_crops_that_were_not_trained_on_are_reconstructed(
    file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    claimed = json.loads(told_by(file)["figures"])["64 px"]
    assert claimed["all"] >= PSNR
    family = FILES[file]
    monkeypatch.setattr(files, "held_out_crops", lambda side: held_out_crops(side)[::4])
    found = files.figures(build(family, Scale.TRAINED), FAMILIES[family], 64)
    assert found["all"] == pytest.approx(claimed["all"], abs=0.7)
    assert claimed["worst"] - 0.02 <= found["worst"] <= found["best"] <= claimed["best"] + 0.02


def test_the_photograph_that_is_held_out_is_not_trained_on() -> None:
    assert HELD_OUT in LICENCES
    seen = training_set(0)
    assert len(seen.planes) == len(LICENCES) - 1
    held = tensor_of(photograph(HELD_OUT))
    assert all(plane.shape != held.shape for sizes in seen.planes for plane in sizes)


@pytest.mark.parametrize("family", TRAINED)
def test_families_of_one_net_have_the_same_weights_whatever_the_seed(family: str) -> None:
    trained = FAMILIES[family].trained
    assert trained is not None
    first = build(FILES[trained.file], Scale.TRAINED).state_dict()
    mine = build(family, Scale.TRAINED, seed=7).state_dict()
    assert mine.keys() == first.keys()
    assert all(torch.equal(mine[name], first[name]) for name in mine)


@pytest.mark.parametrize("family", sorted(FAMILIES.keys() - set(TRAINED)))
def test_a_family_of_another_net_has_none_and_is_told_so(family: str) -> None:
    with pytest.raises(UsageError, match=f"no trained weights ship for {family}.*sd, sdxl"):
        build(family, Scale.TRAINED)
    with pytest.raises(UsageError, match="have trained weights here"):
        parse_case(f"{family}-trained-ldm-decode-exact-20x40t8-b1-f1-float32-sim")
    assert "no weights ship here" in explain(family)


def test_a_cache_of_baselines_depends_on_the_trained_weights() -> None:
    assert {FOLDER / file for file in FILES} <= set(code_files())


# Cases


@pytest.mark.parametrize("full", [False, True])
def test_every_net_has_a_case_a_direction_and_the_whole_matrix_one_a_family(full: bool) -> None:
    claims = load_subject("reference").claims
    every = generate(claims, Layout.LDM, "sim", ["float32"], full=full)
    found = [case for case in every if case.scale is Scale.TRAINED]
    families = TRAINED if full else FILES.values()
    places = {(case.family, case.direction) for case in found}
    assert places == {(family, direction) for family in families for direction in Direction}
    assert full or len(found) == len(places)
    for case in found:
        assert case.must_tile
        assert case.frames == (2 if case.facts.frame_axis else 1)
        assert parse_case(case.id) == case


def test_a_profile_that_claims_a_kin_alone_gets_its_case() -> None:
    claims = replace(load_subject("reference").claims, families=("sdxl", "wan21"))
    every = generate(claims, Layout.LDM, "sim", ["float32"])
    found = {case.family for case in every if case.scale is Scale.TRAINED}
    assert found == {"sdxl", "wan21"}


# Inputs


@pytest.mark.parametrize("family", FILES.values())
def test_a_decode_case_is_given_the_latents_of_the_photograph(family: str) -> None:
    case = a_case(family, height=20, width=28)
    vae = build(family, Scale.TRAINED)
    with torch.inference_mode():
        made = vae.decode(make_input(case)).sample  # type: ignore[operator]
    picture = made[:, :, 0] if made.dim() == 5 else made
    whole = tensor_of(photograph(HELD_OUT))
    top, left = (37 - case.height) // 2 * 8, (56 - case.width) // 2 * 8
    crop = whole[:, top : top + picture.shape[-2], left : left + picture.shape[-1]]
    error = (picture[0] - crop).square().mean().item()
    assert 10 * math.log10(4 / error) > PSNR - 2


@pytest.mark.parametrize("family", FILES.values())
def test_windows_of_any_size_differ_from_item_to_item_and_frame_to_frame(family: str) -> None:
    frames = 5 if FAMILIES[family].frame_axis else 1
    made = make_input(a_case(family, height=50, width=70, batch=3, frames=frames))
    assert made.shape == a_case(family, height=50, width=70, batch=3, frames=frames).latent_shape
    assert not torch.equal(made[0], made[1])
    if frames > 1:
        assert not torch.equal(made[:, :, 0], made[:, :, 1])


def test_an_encode_case_is_given_the_photograph_itself() -> None:
    trained = make_input(a_case("sd", Direction.ENCODE))
    seeded = make_input(replace(a_case("sd", Direction.ENCODE), scale=Scale.MOCK))
    second = make_input(replace(a_case("sd", Direction.ENCODE, batch=2), scale=Scale.MOCK))
    assert not torch.equal(trained, seeded)
    assert trained.shape == seeded.shape
    assert (trained - second[1:]).abs().mean() < (trained - seeded).abs().mean()


# Verdicts


def grades(hook: str, tmp_path: Path, **changes: object) -> dict[str, tuple[str, str | None]]:
    """Status and grade of every check of a hook on a trained VAE."""
    profile = load_subject(hook) if hook == "reference" else profile_of(SPECIMENS[hook])
    run = prepared([profile], tmp_path)
    family = changes.pop("family", "sd")
    layout = profile.hook.layout
    if layout != "diffusers":
        layout = FAMILIES[str(family)].coder_layout
    case = replace(a_case(str(family), **changes), layout=Layout(layout))
    records, _ = judged(run, profile.hook.name, case)
    return {record.check: (record.status, record.grade) for record in records}


def test_the_reference_hook_is_exact_and_a_bad_one_is_caught(tmp_path: Path) -> None:
    size = {"height": 6, "width": 12, "tile": 4}
    found = grades("reference", tmp_path, **size)
    assert found["parity"] == ("passed", "exact")
    assert {status for status, _ in found.values()} == {"passed"}
    found = grades("per-tile-statistics", tmp_path, **size)
    assert found["parity"][0] == "failed"


@pytest.mark.slow
@pytest.mark.parametrize("direction", Direction)
@pytest.mark.parametrize("family", FILES.values())
def test_the_cases_of_a_run_hold_for_the_reference_hook(
    family: str, direction: Direction, tmp_path: Path
) -> None:
    size = {"height": 16, "frames": 2} if FAMILIES[family].frame_axis else {}
    found = grades("reference", tmp_path, family=family, direction=direction, **size)
    assert found["parity"] == ("passed", "exact")
    assert {status for status, _ in found.values()} == {"passed"}


@pytest.mark.slow
def test_sound_hooks_hold_and_bad_ones_do_not(tmp_path: Path) -> None:
    for hook in SHOWN:
        size = {"height": 6, "width": 12, "tile": 4}
        statuses = {status for status, _ in grades(hook, tmp_path, **size).values()}
        assert (statuses == {"passed"}) is SPECIMENS[hook].sound, hook


# Training


@pytest.mark.slow
def test_a_training_is_repeatable_and_its_file_holds_what_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "SOLVED", 2)
    monkeypatch.setattr(files, "held_out_crops", lambda side: held_out_crops(side)[:1])
    monkeypatch.setattr(files, "SIDES", (64,))
    recipe = Recipe("qwen", (Stage(1, batch=1, side=16), Stage(1, 1, 16, frames=5)))
    told: list[int] = []
    made = [
        train(recipe, 3, lambda progress, _: told.append(progress.step), every=1) for _ in range(2)
    ]
    first, second = (vae.state_dict() for vae in made)
    assert told == [1, 2, 1, 2]
    assert all(torch.equal(first[name], second[name]) for name in first)
    saved = files.save(made[0], recipe, 3, tmp_path / "video.safetensors")
    assert json.loads(saved["recipe"])["family"] == "qwen"
    assert json.loads(saved["figures"])["64 px"]["all"] > 15  # it starts from a blurred picture


def test_the_learning_rate_rises_and_falls() -> None:
    recipe = Recipe("sd", (Stage(100, batch=1, side=32),), rate=1.0)
    rates = [rate_at(recipe, step) for step in range(100)]
    top = rates.index(max(rates))
    assert rates[:top] == sorted(rates[:top])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert rates[-1] < 0.05 < 0.9 < rates[top] <= 1
