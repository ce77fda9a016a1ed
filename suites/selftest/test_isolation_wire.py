"""What a runner sends is not trusted: whatever is not as declared is refused."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
import safetensors.torch
import torch

from vae_compat.device.meter import Convolution, Reading
from vae_compat.isolation import wire
from vae_compat.isolation.frames import MOST_BEATS, Inbox
from vae_compat.isolation.wire import Garbled, Sort, Told, pack, unpack
from vae_compat.measure.observation import Failure
from vae_compat.scenarios.performed import Called, WholePerformed
from vae_compat.subject.messages import HookFacts
from vae_compat.text import printable

WHOLE = WholePerformed(
    whole=Called(
        returned="Tensor",
        output=torch.arange(24.0).reshape(1, 2, 3, 4),
        reading=Reading(peak_bytes=7, convolutions={Convolution((1, 2, 3, 3), (8, 8)): 3}),
        residue=("something",),
    )
)


def _parts(message: object) -> tuple[dict[str, Any], bytes]:
    ((_, text, body),) = Inbox().take(pack(Sort.ANSWER, message))
    return json.loads(text), body


def _read(plain: object, body: bytes = b"", kind: type = WholePerformed) -> Any:
    return unpack(kind, json.dumps(plain).encode(), body)


def test_an_answer_comes_back_as_it_was() -> None:
    plain, body = _parts(WHOLE)
    found = _read(plain, body)
    assert torch.equal(found.whole.output, WHOLE.whole.output)
    assert found.whole.reading == WHOLE.whole.reading
    assert found.whole.residue == WHOLE.whole.residue


def test_frames_are_found_wherever_they_are_cut() -> None:
    sent = pack(Sort.BEAT, Told(seconds=1.0)) + pack(Sort.ANSWER, WHOLE)
    inbox, found = Inbox(), []
    for byte in sent:
        found += inbox.take(bytes([byte]))
    assert [sort for sort, _, _ in found] == [Sort.BEAT, Sort.ANSWER]


@pytest.mark.parametrize(
    "header",
    [
        b"garbage" * 10,
        wire.HEADER.pack(b"VAEX", b"A", 0, 0),
        wire.HEADER.pack(wire.MAGIC, b"?", 0, 0),
        wire.HEADER.pack(wire.MAGIC, b"\xff", 0, 0),
        wire.HEADER.pack(wire.MAGIC, b"A", 2**62, 0),
        wire.HEADER.pack(wire.MAGIC, b"A", 0, 2**63),
        wire.HEADER.pack(wire.MAGIC, b"B", 2**22, 0),
        wire.HEADER.pack(wire.MAGIC, b"R", 0, 1),
    ],
)
def test_no_more_is_waited_for_than_a_frame_may_have(header: bytes) -> None:
    with pytest.raises(Garbled):
        Inbox().take(header)


def test_beats_are_counted() -> None:
    inbox, beat = Inbox(), pack(Sort.BEAT, Told(seconds=1.0))
    for _ in range(MOST_BEATS):
        inbox.take(beat)
    with pytest.raises(Garbled, match="again and again"):
        inbox.take(beat)


@pytest.mark.parametrize(
    "value", ["NaN", "Infinity", "-Infinity", "1e999", str(2**70), "true", '"7"', "7.5", "[]"]
)
def test_a_number_that_is_none_is_refused(value: str) -> None:
    plain, body = _parts(WHOLE)
    plain["whole"]["reading"]["peak_bytes"] = "HERE"
    text = json.dumps(plain).replace('"HERE"', value).encode()
    with pytest.raises(Garbled):
        unpack(WholePerformed, text, body)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"null",
        b"[]",
        b"{}",
        b"[" * 200_000,
        b'{"a":' * 100_000,
        b"1" * 5000,
        b'{"whole": {"output": "t9"}}',
        b'{"whole": {"output": 3}}',
        b'{"whole": {"failure": {"kind": "X", "origin": "nobody"}}}',
    ],
)
def test_text_that_is_no_answer_is_refused(text: bytes) -> None:
    with pytest.raises(Garbled) as told:
        unpack(WholePerformed, text, b"")
    assert len(str(told.value)) < 1000


@pytest.mark.parametrize(
    "body",
    [
        b"\xff" * 64,
        b"\x00" * 8,
        (2**40).to_bytes(8, "little") + b"{}",
        safetensors.torch.save({"t0": torch.zeros(2, dtype=torch.complex64)}),
        safetensors.torch.save({"t0": torch.zeros(2).to(torch.float8_e4m3fn)}),
    ],
)
def test_tensors_with_which_nothing_is_computed_are_refused(body: bytes) -> None:
    plain, _ = _parts(WHOLE)
    with pytest.raises(Garbled):
        _read(plain, body)


def test_no_text_of_a_stranger_holds_what_a_terminal_obeys() -> None:
    bad = "\x1b[2J\x1b]0;gate holds\x07\0\u202e\ud800\u2028ok"
    told = Failure(bad, bad, bad, bad, bad)
    plain, body = _parts(WholePerformed(whole=Called(failure=told, residue=(bad,))))
    found = _read(plain, body).whole
    for words in (found.failure.message, found.failure.kind, found.failure.where, *found.residue):
        words.encode("utf-8")
        assert words.isprintable()
        assert words.endswith("ok")


def test_long_text_is_cut() -> None:
    told = unpack(Told, json.dumps({"words": "x" * 10**6}).encode(), b"")
    assert len(told.words) < wire.MOST_TEXT + 100
    assert printable("abc", 3) == "abc"


def test_answers_that_were_tampered_with_are_refused_or_typed() -> None:
    """Whatever is accepted has the declared types, wherever it was changed."""
    plain, body = _parts(WHOLE)
    seeded = random.Random(0)
    values = [None, -1, 0, 2**40, 1.5, True, "", "t0", [], {}, [[]], [None], ["\x1b"], {"a": 1}]
    refused = 0
    for _ in range(500):
        changed = json.loads(json.dumps(plain))
        place: Any = changed
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            key = seeded.choice(keys)
            if not isinstance(place[key], (dict, list)) or not place[key] or seeded.random() < 0.3:
                place[key] = seeded.choice(values)
                break
            place = place[key]
        try:
            found = _read(changed, body)
        except Garbled:
            refused += 1
            continue
        assert isinstance(found, WholePerformed)
        assert found.whole.output is None or isinstance(found.whole.output, torch.Tensor)
    assert refused > 200


def test_facts_of_another_kind_are_refused() -> None:
    with pytest.raises(Garbled):
        _read({"modes": ["exact", "perfect"], "apart": True}, kind=HookFacts)
