"""Wrong files and values are refused at once, with one sentence and exit code 2."""

from __future__ import annotations

import json
import os
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from vae_compat.errors import UsageError
from vae_compat.fixtures.inputs import open_picture
from vae_compat.front import cli
from vae_compat.front.run import running
from vae_compat.reports.log import read_log
from vae_compat.subject.profile import KnownFailure, name_of
from vae_compat.suites.selftest.running import share_process_for_hooks

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    share_process_for_hooks(monkeypatch)


PROFILE = """
[hook]
name = "mine"
entry = "vae_compat.subject.diffusers_tiling:enable"
kind = "vae"
layout = "diffusers"
[claims]
families = ["sd"]
directions = ["decode"]
modes = ["exact"]
"""
REAL = ("--families", "sd", "--scale", "real", "--full")
Refused = Callable[..., str]


@pytest.fixture
def refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Refused:
    """The one sentence with which a command is refused. Fails if it runs or prints more."""

    def judged(*_: object) -> None:
        pytest.fail("it ran")

    monkeypatch.setattr(running, "judged", judged)
    monkeypatch.setattr(running, "set_environment", lambda _: None)
    mine = tmp_path / "mine.toml"
    mine.write_text(PROFILE)

    def run(*arguments: object, command: str = "run", profile: object = mine) -> str:
        words = [command, *map(str, arguments)]
        code = cli.main(words if profile is None else [*words, "--profile", str(profile)])
        out, err = capsys.readouterr()
        assert (code, out) == (2, ""), err
        (line,) = err.splitlines()
        assert len(line) < 500
        return line

    return run


# Pictures


def _png(width: int, height: int, data: bytes) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(data)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("side", [10_000, 60_000])
def test_a_picture_that_unpacks_to_gigabytes(refused: Refused, tmp_path: Path, side: int) -> None:
    file = tmp_path / "bomb.png"
    file.write_bytes(_png(side, side, b"\0" * 1000))
    assert "pixels" in refused("--image", file)


def test_a_picture_that_stops_in_the_middle(refused: Refused, tmp_path: Path) -> None:
    file = tmp_path / "half.png"
    Image.effect_noise((200, 200), 40).save(file)
    file.write_bytes(file.read_bytes()[:-9000])
    assert "cannot be read as a picture" in refused("--image", file)


def test_a_picture_of_16_bits_keeps_its_brightness(tmp_path: Path) -> None:
    ramp = np.linspace(0, 0xFFFF, 256).astype(np.uint16).reshape(16, 16)
    file = tmp_path / "grey.png"
    Image.fromarray(ramp).save(file)
    read = np.asarray(open_picture(file))
    assert np.array_equal(read[..., 0].ravel(), np.arange(256))
    assert np.array_equal(read[..., 0], read[..., 2])


def test_a_picture_of_numbers_without_a_range_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "float.tiff"
    Image.fromarray(np.ones((8, 8), np.float32)).save(file)
    with pytest.raises(UsageError, match="floating-point"):
        open_picture(file)


# Weights


def test_weights_of_another_shape(refused: Refused, tmp_path: Path) -> None:
    file = tmp_path / "vae.safetensors"
    save_file({"decoder.conv_in.weight": torch.zeros(3, 3)}, file)
    assert str(file) in refused("--weights", f"sd={file}", *REAL)


def test_weights_of_another_kind_of_file(refused: Refused, tmp_path: Path) -> None:
    good = tmp_path / "vae.safetensors"
    save_file({"decoder.conv_in.weight": torch.zeros(3, 3)}, good)
    file = good.rename(tmp_path / "vae.ckpt")
    assert "convert the weights to safetensors" in refused("--weights", f"sd={file}", *REAL)


# Pipes


@pytest.mark.parametrize(
    "option", ["--image", "--against", "--junitxml", "--out", "--resume", "--weights", "--hook"]
)
def test_a_pipe_is_refused_and_not_waited_for(
    refused: Refused, tmp_path: Path, option: str
) -> None:
    pipe = tmp_path / "pipe.py"
    os.mkfifo(pipe)
    value = {"--weights": f"sd={pipe}", "--hook": f"{pipe}:Hook"}.get(option, pipe)
    profile = {} if option != "--hook" else {"profile": None}
    assert str(pipe) in refused(option, value, **profile)


def test_a_pipe_for_a_profile(refused: Refused, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.toml"
    os.mkfifo(pipe)
    assert "no plain file" in refused(profile=pipe)


@pytest.mark.parametrize("name", ["records.jsonl", "results.json", "summary.md"])
def test_a_pipe_where_a_report_is_to_be(refused: Refused, tmp_path: Path, name: str) -> None:
    (tmp_path / "out").mkdir()
    os.mkfifo(tmp_path / "out" / name)
    assert "no plain file" in refused("--out", tmp_path / "out")
    with pytest.raises(UsageError, match="no plain file" if name == "records.jsonl" else "cannot"):
        read_log(tmp_path / "out")


# Earlier results


def _results(**record: Any) -> dict[str, Any]:
    header = {
        "schema": 1,
        **dict.fromkeys(("version", "python", "torch", "diffusers", "platform", "cpu"), "1"),
        **{"device": "sim", "hooks": [], "commit": None, "seed": 0, "selection": "default"},
        **dict.fromkeys(("started", "finished", "command"), "now"),
    }
    plain = {"case": "c", "check": "parity", "tier": "recommended", "status": "passed"}
    return {"header": header, "records": [plain | record], "verdict": {"code": 0}}


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("[" * 200_000, "no JSON"),
        (json.dumps([]), "no results file"),
        (json.dumps({"header": {"schema": "x" * 5000}}), "results schema"),
        (json.dumps(_results(grade="perfect")), "unknown grade 'perfect'"),
        (json.dumps(_results(grade=3)), "no valid results file"),
        ('{"header": {"schema": 1e999}}', "schema"),
        ("\x00", "no JSON"),
    ],
)
def test_earlier_results_that_are_none(
    refused: Refused, tmp_path: Path, text: str, match: str
) -> None:
    file = tmp_path / "results.json"
    file.write_text(text)
    assert match in refused("--against", file)


def test_the_results_of_the_tests_above_are_right_but_for_the_grade(tmp_path: Path) -> None:
    from vae_compat.reports.results import read

    file = tmp_path / "results.json"
    file.write_text(json.dumps(_results(grade="exact")))
    assert read(file).records[0].grade == "exact"


# Profiles


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("a = " + "[" * 20_000 + "]" * 20_000, "nested too deep"),
        ("a = " + "9" * 10_000, "not valid TOML"),
        (PROFILE.replace('"mine"', '"' + "n" * 300 + '"'), "has 300 characters"),
        (PROFILE.replace('"mine"', '"a b"'), "use only letters"),
        (PROFILE.replace("[hook]", "[hok]"), "did you mean [hook]?"),
        (PROFILE.replace("[claims]", "[clams]"), "did you mean [claims]?"),
        (PROFILE + "\n" * 2**20, "more than"),
    ],
    ids=["nested", "number", "name", "sign", "hok", "clams", "size"],
)
@pytest.mark.parametrize("command", ["run", "list"])
def test_a_profile_that_is_wrong(
    refused: Refused, tmp_path: Path, command: str, text: str, match: str
) -> None:
    file = tmp_path / "wrong.toml"
    file.write_text(text)
    assert match in refused(command=command, profile=file)


def test_the_longest_name_is_taken_and_one_made_from_an_entry_fits() -> None:
    assert len(name_of("a" * 300 + ".py:Hook")) == 80
    assert name_of("some/folder/tiled.py:Hook") == "tiled.Hook"


def test_a_pattern_of_many_stars_is_matched_in_no_time() -> None:
    record = "parity[" + "a" * 200 + "]"
    began = time.process_time()
    for _ in range(1000):
        assert not KnownFailure("*a" * 100 + "*b*]", "known").matches(record)
    assert KnownFailure("*a" * 100 + "*]", "known").matches(record)
    assert time.process_time() - began < 5


@pytest.mark.parametrize(
    ("pattern", "fits"),
    [
        ("parity[sd-40x40]", True),
        ("parity[sd-*]", True),
        ("*", True),
        ("**", True),
        ("*[*]", True),
        ("p?rity[sd-*x4?]", True),
        ("*?d-40*40*", True),
        ("parity[sd-40x40]*", True),
        ("parity[sd-40", False),
        ("parity", False),
        ("*sd", False),
        ("parity[*40x40x*]", False),
        ("parity[sd-40x40]*]", False),
        ("parity[[]sd-*", False),
        ("p??rity*", False),
        ("", False),
        ("?" * 16, True),
        ("?" * 17, False),
        ("parity[sd-40x40*40]", False),
    ],
)
def test_patterns_mean_what_they_say(pattern: str, fits: bool) -> None:
    assert KnownFailure(pattern, "known").matches("parity[sd-40x40]") is fits


# What list refuses


@pytest.mark.parametrize("command", ["run", "list"])
@pytest.mark.parametrize(
    ("change", "match"),
    [
        ('[[known_failures]]\nid = "nothing*"\nreason = "known"\n', "matches no check"),
        (None, "claims nothing"),
    ],
)
def test_list_refuses_what_run_refuses(
    refused: Refused, tmp_path: Path, command: str, change: str | None, match: str
) -> None:
    file = tmp_path / "stale.toml"
    file.write_text(PROFILE.replace('["sd"]', "[]") if change is None else PROFILE + change)
    assert match in refused(command=command, profile=file)


def test_list_refuses_a_selection_of_nothing(refused: Refused) -> None:
    narrow = ("--families", "sdxl", "--scale", "real", "--modes", "quadtree")
    assert "leaves no case" in refused(*narrow, command="list")
    assert "leaves no case" in refused(*narrow)


def test_names_that_are_too_long_for_any_file(refused: Refused) -> None:
    long = "x" * 300
    assert "neither a file" in refused(profile=long)
    assert "cannot be read" in refused(profile=f"{long}.toml")
    assert "no path can be like this" in refused("--out", long)
    assert "check the path" in refused("--hook", f"{long}.py:Hook", profile=None)
    assert "cannot be read" in refused("--image", f"{long}.png")
    assert "neither a file" in refused("--weights", f"sd={long}.safetensors")


def test_resuming_somewhere_else_than_where_it_was(refused: Refused, tmp_path: Path) -> None:
    assert "exclude each other" in refused("--resume", tmp_path, "--out", tmp_path / "other")
    assert "cannot read" in refused("--resume", tmp_path)
