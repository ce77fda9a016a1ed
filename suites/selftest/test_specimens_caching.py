"""The sound base keeps causal caches right, and each known-bad hook breaks them in its own way."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from vae_compat.contracts.cases import Direction
from vae_compat.contracts.coders import coder_of
from vae_compat.contracts.finding import Status
from vae_compat.device import open_device
from vae_compat.families import FAMILIES
from vae_compat.fixtures.layouts import VARIANTS, view
from vae_compat.fixtures.specimens import SPECIMENS
from vae_compat.fixtures.specimens.caching import CachingTiler
from vae_compat.fixtures.vaes import build
from vae_compat.measure.placing import placed
from vae_compat.scenarios.performed import Sent
from vae_compat.scenarios.streams import Stream
from vae_compat.suites.selftest.playing import TILE, Stand
from vae_compat.suites.selftest.running import shared

pytestmark = pytest.mark.slow

TOLD = {
    "index-stays": "feat_idx at 0 (slot 0, decoder.conv1) after chunk 0",
    "index-per-tile": "feat_idx at 96 after chunk 0; should be 24",
    "crossed-tiles": "slot 0 (decoder.conv1) after chunk 1",
    "shared-cache": "slot 0 (decoder.conv1) after chunk 0",
    "no-halo-in-cache": "slot 1 (decoder.middle.0.residual.2) after chunk 1",
    "loses-sentinel": "slot 9 (decoder.upsamples.2) after chunk 0: nothing",
    "first-chunk-always": "must match the size",
    "first-chunk-never": "must match the size",
    "own-state": "slot 0 (decoder.conv1) after chunk 0: nothing",
    "replaces-entries": "slot 0 (decoder.conv1) that was written after the call for chunk 0",
    "drops-last-chunk": "None for chunk 2",
    "stays-on-device": "left on the device after chunk 0",
    "own-dtype": "slot 0 (decoder.conv1) after chunk 0: 1x16x1x6x7 float16",
}


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Stand:
    return Stand(tmp_path_factory.mktemp("stand"), shared(tmp_path_factory) / "stand")


def same(ours: Sent, untiled: Sent) -> bool:
    """Whether two calls for a chunk returned the same and left the same index and slots."""
    if (ours.returned, ours.index) != (untiled.returned, untiled.index):
        return False
    frames = [(a.frames, b.frames) for a, b in zip(ours.slots, untiled.slots, strict=True)]
    frames += zip(ours.parts, untiled.parts, strict=True)
    return [slot.told for slot in ours.slots] == [slot.told for slot in untiled.slots] and all(
        one is other or torch.allclose(one, other, atol=1e-4)
        for one, other in frames
        if one is not None
    )


@pytest.mark.parametrize("direction", Direction)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("family", ["qwen", "wan22"])
@torch.no_grad()
def test_sound_base_keeps_every_slot_in_every_way_of_the_field(
    family: str, variant: str, direction: Direction
) -> None:
    facts = FAMILIES[family]
    seen: Any = view(build(family, "mock"), "wan", facts, variant=variant)
    net, decoding = coder_of(seen, direction), direction is Direction.DECODE
    shape = (1, facts.latent_channels, 4, 4, 5)
    if not decoding:
        shape = (1, 3, 13, 4 * facts.ratio, 5 * facts.ratio)
    x = seen.coder_input(direction, torch.rand(shape, generator=torch.Generator().manual_seed(1)))
    ways = {c.chunked.split: c.chunked for c in seen.conventions(direction) if c.chunked}
    for split, chunked in ways.items():
        untiled = Stream(net, chunked, x).run()
        net.original_forward = net.forward
        net.forward = CachingTiler(net, 3 if decoding else 3 * facts.ratio, decoding)
        try:
            ours = Stream(net, chunked, x).run()
        finally:
            del net.forward, net.original_forward
        assert len(ours) == len(untiled) > 2
        assert all(map(same, ours, untiled)), split


@torch.no_grad()
def test_sound_base_parks_its_caches_and_cuts_the_plane() -> None:
    seen: Any = view(build("wan21", "mock"), "wan", FAMILIES["wan21"])
    with open_device("sim") as device, placed(seen, device):
        x = device.put(torch.zeros(1, 16, 2, 6, 11))
        chunked = seen.conventions(Direction.DECODE)[0].chunked
        with device.metered() as untiled:
            Stream(seen.decoder, chunked, x).run()
        seen.decoder.original_forward = seen.decoder.forward
        seen.decoder.forward = CachingTiler(seen.decoder, TILE, True)
        with device.metered() as tiled:
            sent = Stream(seen.decoder, chunked, x).run()
        del seen.decoder.forward, seen.decoder.original_forward
    assert {slot.device for slot in sent[-1].slots if slot.device} == {"cpu"}
    largest = [max(ran.plane for ran in reading.convolutions) for reading in (tiled, untiled)]
    assert largest == [(32, 32), (48, 88)]


@pytest.mark.parametrize("direction", Direction)
def test_sound_base_passes_every_check_of_a_clip(stand: Stand, direction: Direction) -> None:
    findings = stand.findings("caching", "clip", direction=direction)
    assert len(findings) > 7
    assert {f.check: f.message for f in findings.values() if f.status != Status.PASSED} == {}


@pytest.mark.parametrize("name", TOLD)
def test_lost_cache_is_told_by_its_check(stand: Stand, name: str) -> None:
    specimen = SPECIMENS[name]
    direction, frames = Direction.DECODE, 1 if "-f1-" in specimen.shows_on else 3
    if name == "drops-last-chunk":
        direction, frames = Direction.ENCODE, 2
    finding = stand.findings(name, "clip", direction=direction, frames=frames)[specimen.killed_by]
    assert finding.status == Status.FAILED
    assert TOLD[name] in finding.message


CLIPS: dict[str, dict[str, Any]] = {
    "fades-chunks": {},
    "brightens-chunks": {},
    "keeps-views": {},
    "gives-clips-up": {},
    "keeps-chunks": {"direction": Direction.ENCODE, "frames": 9, "height": 1, "width": 9},
}
"""Whatever else goes wrong from chunk to chunk; some need a plane or clip of their own."""


@pytest.mark.parametrize("name", CLIPS)
def test_wrong_clip_is_told_by_its_check(stand: Stand, name: str) -> None:
    findings = stand.findings(name, "clip", **CLIPS[name])
    assert findings[SPECIMENS[name].killed_by].status == Status.FAILED


def test_every_lost_cache_is_tried() -> None:
    lost = {n for n, s in SPECIMENS.items() if ".caches:" in s.entry and ".clip-" in s.shows_on}
    assert lost == TOLD.keys()
