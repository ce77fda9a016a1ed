"""Profiles are read strictly, and each mistake in one is named in a sentence."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from vae_compat.contracts.cases import Case, Direction, Layout, Mode, Scale
from vae_compat.contracts.finding import Grade
from vae_compat.contracts.promise import Bounds
from vae_compat.errors import UsageError
from vae_compat.families import FAMILIES
from vae_compat.subject.profile import (
    Cache,
    Claims,
    Kind,
    KnownFailure,
    embedded_names,
    load_embedded,
    load_profile,
    name_of,
    profile_from_flags,
)

HOOK = """
[hook]
name = "quadtree"
entry = "tiled_vae.py:VAEHook"
kind = "forward"
layout = "ldm"
"""
FULL = (
    HOOK
    + """
host = "comfyui"
[claims]
families = ["sd", "qwen"]
directions = ["decode"]
modes = ["exact", "fast"]
cache = "split"
[claims.grade]
fast = "close"
[claims.family_grade.qwen]
fast = "lossless"
[[known_failures]]
id = "parity[qwen-*-decode-*]"
reason = "the frame axis is dropped"
link = "https://example.org/1"
"""
)


def write(folder: Path, text: str) -> Path:
    path = folder / "vae-compat.toml"
    path.write_text(text, encoding="utf-8")
    return path


def case(family: str = "sd", direction: str = "decode", mode: str = "exact") -> Case:
    layout = Layout(FAMILIES[family].coder_layout)
    return Case(family, Scale.MOCK, layout, Direction(direction), Mode(mode), 40, 40, 16)


def test_a_full_profile_is_read(tmp_path: Path) -> None:
    profile = load_profile(write(tmp_path, FULL))
    assert profile.hook.kind is Kind.FORWARD
    assert profile.hook.layout is Layout.LDM
    assert profile.hook.host == "comfyui"
    assert profile.claims.families == ("sd", "qwen")
    assert profile.claims.directions == (Direction.DECODE,)
    assert profile.claims.modes == (Mode.EXACT, Mode.FAST)
    assert profile.claims.cache is Cache.SPLIT
    assert profile.claims.grade == {Mode.FAST: Grade.CLOSE}
    assert profile.folder == tmp_path.resolve()
    assert profile.known_failures[0].reason == "the frame axis is dropped"


def test_claims_default_to_closed(tmp_path: Path) -> None:
    profile = load_profile(write(tmp_path, HOOK))
    assert profile.claims == Claims()
    assert not profile.promise(case()).claimed


@pytest.mark.parametrize(
    ("changed", "claimed"),
    [
        ({}, True),
        ({"family": "flux"}, False),
        ({"direction": "encode"}, False),
        ({"mode": "quadtree"}, False),
    ],
)
def test_a_promise_covers_what_is_claimed_and_nothing_else(
    tmp_path: Path, changed: dict[str, str], claimed: bool
) -> None:
    assert load_profile(write(tmp_path, FULL)).promise(case(**changed)).claimed is claimed


def test_a_promise_carries_grade_cache_and_kind(tmp_path: Path) -> None:
    profile = load_profile(write(tmp_path, FULL.replace('"forward"', '"vae"')))
    assert profile.promise(case(mode="fast")).grade == "close"
    assert profile.promise(case(mode="exact")).grade == "exact"
    assert profile.promise(case("qwen", mode="fast")).grade == "lossless"
    assert profile.promise(case("qwen", mode="exact")).grade == "exact"
    assert profile.promise(case("qwen")).cache == "split"
    assert profile.promise(case("sd")).cache == "none"
    assert profile.promise(case("sd")).kind == "vae"


def test_the_host_says_how_hooks_are_called_where_the_profile_does_not(tmp_path: Path) -> None:
    promised = load_profile(write(tmp_path, FULL)).promise(case("sd"))
    assert (promised.context, promised.coders) == ("inference_mode", ("offloaded",))
    told = FULL.replace('cache = "split"', 'context = "no_grad"\ncoders = []')
    promised = load_profile(write(tmp_path, told)).promise(case("sd"))
    assert (promised.context, promised.coders) == ("no_grad", ())
    alone = load_profile(write(tmp_path, FULL.replace('host = "comfyui"', "")))
    assert (alone.promise(case("sd")).context, alone.claims.coders) == ("", ())


def test_a_promise_carries_what_else_is_claimed(tmp_path: Path) -> None:
    cuts = 'axes = "height"\ntemporal = true\nslices = true\ntile_multiple = 64\npasses = 3\ncache'
    bounds = "\n[claims.bounds]\npsnr = 30\nseams = true\n[[known"
    text = FULL.replace("cache", cuts, 1).replace("[[known", bounds, 1)
    promise = load_profile(write(tmp_path, text)).promise(case())
    assert (promise.axes, promise.temporal, promise.slices) == ("height", True, True)
    assert (promise.tile_multiple, promise.passes) == (64, 3)
    assert promise.bounds == Bounds(psnr=30.0, levels=None, seams=True)
    plain = load_profile(write(tmp_path, FULL)).promise(case())
    assert (plain.axes, plain.temporal, plain.slices) == ("both", False, False)
    assert (plain.tile_multiple, plain.passes, plain.bounds) == (1, 1, None)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('cache = "split"', 'axes = "rows"', ["claims.axes", "'rows'", "both, height or width"]),
        ('cache = "split"', "slices = 1", ["claims.slices", "1", "true or false"]),
        ('cache = "split"', "passes = 9", ["claims.passes", "9", "1, 2, 3 or 4"]),
        ('cache = "split"', "tile_multiple = 0", ["claims.tile_multiple", "above 0"]),
        ('cache = "split"', "tile_multiple = 1e3", ["claims.tile_multiple", "whole number"]),
        ('cache = "split"', "tile_multiple = 1024", ["claims.tile_multiple", "at most 512"]),
        ('cache = "split"', "bounds = {psnr = 0}", ["claims.bounds.psnr", "above 0"]),
        ('cache = "split"', 'bounds = {levels = "2"}', ["claims.bounds.levels", "a number"]),
        ('cache = "split"', "bounds = {level = 2}", ["claims.bounds.level", "'levels'"]),
        ('name = "quadtree"', 'nmae = "x"', ["hook.nmae", "did you mean 'name'"]),
        ('host = "comfyui"', 'hots = "comfyui"', ["hook.hots", "did you mean 'host'", "entry"]),
        ("[claims]", "[claim]", ["[claim]", "did you mean [claims]", "known_failures"]),
        ("[claims]", '[hook.settings]\nside = "x"\n[claims]', ["hook.settings", "'side'", "tile"]),
        ('cache = "split"', "parks = true", ["claims.parks", "cache = 'split'"]),
        ('cache = "split"', 'when = "short"', ["claims.when", "'short'", "always or memory"]),
        ('cache = "split"', 'coders = ["own"]', ["claims.coders", "'own'", "patched"]),
        ('cache = "split"', 'parks = "yes"', ["claims.parks", "true or false"]),
        ('cache = "split"', "cached = true", ["claims.cached", "families, directions"]),
        ("reason =", "reasons =", ["known_failures.reason"]),
        ('"forward"', '"foward"', ["hook.kind", "'foward'", "forward, vae, function or ranks"]),
        ('"ldm"', '"comfy"', ["hook.layout", "'comfy'", "diffusers, ldm or wan"]),
        ('["sd", "qwen"]', '"sd"', ["claims.families", "'sd'", "a list"]),
        ('["sd", "qwen"]', '["sd", "quen"]', ["'quen'", "did you mean 'qwen'", "flux2"]),
        ('"fast"]', '"fest"]', ["claims.modes", "'fest'", "did you mean 'fast'"]),
        ('["decode"]', "[1]", ["claims.directions", "1", "encode or decode"]),
        ('fast = "close"', 'fats = "close"', ["claims.grade", "'fats'", "no mode"]),
        ('fast = "close"', 'fast = "good"', ["claims.grade.fast", "'good'", "lossless"]),
        ('fast = "close"', 'quadtree = "close"', ["'quadtree'", "claims.modes"]),
        ("family_grade.qwen", "family_grade.quen", ["'quen'", "did you mean 'qwen'"]),
        ("family_grade.qwen", "family_grade.flux", ["'flux'", "claims.families"]),
        ('fast = "lossless"', 'exact = "good"', ["claims.family_grade.qwen.exact", "'good'"]),
        ('fast = "lossless"', 'fast = "broken"', ["every output", "close"]),
        ('fast = "lossless"', 'quadtree = "exact"', ["claims.family_grade.qwen", "'quadtree'"]),
        ('fast = "lossless"', 'fats = "exact"', ["claims.family_grade.qwen", "'fats'", "no mode"]),
        ("[claims.family_grade.qwen]\nfast", "[claims.family_grade]\nqwen", ["a table"]),
        ('"comfyui"', '"comfy"', ["hook.host", "'comfy'", "did you mean 'comfyui'"]),
        ('"tiled_vae.py:VAEHook"', '" "', ["hook.entry", "empty"]),
        ('"tiled_vae.py:VAEHook"', "3", ["hook.entry", "3", "text in quotes"]),
        ('fast = "close"', 'fast = "broken"', ["claims.grade.fast", "every output", "degraded"]),
        ('name = "quadtree"', 'name = "x]"', ["hook.name", "'x]'", "test ids"]),
        ('name = "quadtree"', 'name = "a:b"', ["hook.name", "'a:b'", "test ids"]),
        ('name = "quadtree"', 'name = "Tüll"', ["hook.name", "accents"]),
        ("[hook]", "[hook", ["not valid TOML", "line"]),
    ],
)
def test_a_bad_profile_gives_one_sentence(
    tmp_path: Path, old: str, new: str, words: list[str]
) -> None:
    assert old in FULL
    path = write(tmp_path, FULL.replace(old, new, 1))
    with pytest.raises(UsageError) as caught:
        load_profile(path)
    message = str(caught.value)
    for word in [*words, "vae-compat.toml"]:
        assert word in message
    for jargon in ("pydantic", "validation", "Field", "literal", "\n", "input"):
        assert jargon not in message
    assert caught.value.__cause__ is None


def test_missing_files_folders_and_binaries_are_refused(tmp_path: Path) -> None:
    binary = tmp_path / "x.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    for path, word in ((tmp_path / "no.toml", "no.toml"), (tmp_path, "folder"), (binary, "UTF-8")):
        with pytest.raises(UsageError, match=word):
            load_profile(path)


def test_ids_of_known_failures_take_brackets_literally() -> None:
    known = KnownFailure("parity[qwen-*-decode-*]", "why")
    assert known.matches("parity[qwen-mock-wan-decode-exact-40x40t16-b1-f1-float32-sim]")
    assert not known.matches("parity[sd-mock-ldm-decode-exact-40x40t16-b1-f1-float32-sim]")
    assert not known.matches("parityq")
    assert KnownFailure("parity[?d-*]", "why").matches("parity[sd-mock]")


def test_flags_alone_assume_what_the_hook_takes(tmp_path: Path) -> None:
    (tmp_path / "hook.py").write_text(
        "class Hook:\n"
        "    def __init__(self, net, tile_size, fast_decoder=False, color_fix=False): ...\n"
    )
    profile = profile_from_flags("hook.py:Hook", folder=tmp_path)
    assert profile.hook.name == "hook.Hook"
    assert profile.hook.layout is Layout.LDM
    assert profile.claims.families == tuple(FAMILIES)
    assert profile.claims.directions == tuple(Direction)
    assert profile.claims.modes == (Mode.EXACT, Mode.FAST)  # no fast_encoder: no colour fix
    assert profile.promise(case()).grade == "exact"
    assert profile.promise(case(mode="fast")).grade == "degraded"


def test_flags_can_be_overridden_and_are_checked() -> None:
    profile = profile_from_flags(
        "a.py:B", "vae", families=["sd"], modes=["exact"], grade={"exact": "close"}, cache="split"
    )
    assert profile.hook.layout is Layout.DIFFUSERS
    assert profile.promise(case()).grade == "close"
    with pytest.raises(UsageError, match="kind"):
        profile_from_flags("a.py:B", "forwards", modes=["exact"])
    with pytest.raises(UsageError, match="'sdd'"):
        profile_from_flags("a.py:B", families=["sdd"], modes=["exact"])


def test_names_come_from_entries() -> None:
    assert name_of("some/folder/tiled_vae.py:VAEHook") == "tiled_vae.VAEHook"
    assert name_of("package.tiling:enable") == "tiling.enable"
    assert name_of("some/my [old] hook:2.py:Größe") == "my__old__hook_2.Gr__e"


def test_embedded_profiles_are_found_by_name(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(HOOK)
    assert embedded_names(tmp_path) == ("diffusers", "mine", "reference")
    assert load_embedded("mine", tmp_path).hook.name == "quadtree"
    diffusers = load_embedded("diffusers")
    assert diffusers.hook.kind is Kind.VAE
    assert set(diffusers.claims.families) == set(FAMILIES)
    with pytest.raises(UsageError, match="diffusers"):
        load_embedded("nothing")


def test_importing_the_profile_stays_cheap() -> None:
    code = "import sys, vae_compat.subject.profile; print({'torch', 'pydantic'} & {*sys.modules})"
    root = Path(__file__).parents[2]
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root
    )
    assert out.stdout.strip() == "set()"
