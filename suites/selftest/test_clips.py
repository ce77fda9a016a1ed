"""Each check of clips accepts a sound hook, and says which slot, chunk or frame is wrong."""

from __future__ import annotations

from dataclasses import replace
from weakref import finalize

import pytest
import torch

from vae_compat.checks.caches import (
    check_cache_aliases,
    check_cache_index,
    check_cache_sentinels,
    check_cache_slots,
)
from vae_compat.checks.clips import check_clip_completes, check_flicker, check_video_parity
from vae_compat.checks.phases import (
    check_cache_parked,
    check_cache_phase,
    check_memory_growth,
    clip_ratio,
)
from vae_compat.checks.registry import CHECKS
from vae_compat.contracts.cases import Direction, Layout, Mechanism, Scale, Scenario
from vae_compat.contracts.finding import Phase, Status
from vae_compat.contracts.promise import Promise
from vae_compat.device.meter import Convolution
from vae_compat.fixtures.supplies import Fixtures
from vae_compat.measure.bench import Bench
from vae_compat.scenarios.scenes import SCENES
from vae_compat.suites.selftest.clip_fakes import CLIP, after, plain, played, told
from vae_compat.suites.selftest.measure_fakes import FakeHook
from vae_compat.tiled_vae import VAEHook

pytestmark = pytest.mark.slow

CACHE_CHECKS = (
    check_cache_slots,
    check_cache_sentinels,
    check_cache_index,
    check_cache_aliases,
    check_cache_parked,
)
ALL = (*CACHE_CHECKS, check_clip_completes, check_video_parity, check_flicker, check_cache_phase)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """Makes VAEs and baselines, and keeps them for all tests of this module."""
    folder = tmp_path_factory.mktemp("clips")
    return Bench(Fixtures(), folder)


@pytest.fixture(scope="module")
def sound(bench):
    return played(bench, plain())


def test_every_scenario_is_played_by_something():
    assert set(SCENES) == set(Scenario)


def test_all_checks_accept_a_hook_that_falls_back(sound):
    for check in ALL:
        finding = check(sound)
        assert finding.status == "passed", finding


def test_every_convention_with_a_cache_is_played_chunk_by_chunk(bench):
    seen = played(bench, plain(), frames=2)
    assert [way.convention for way in seen.ways] == ["by keyword", "by position"]
    assert [[chunk.number for chunk in way.chunks] for way in seen.ways] == [[0, 1]] * 2
    assert [way.own for way in seen.ways] == [True, False]


def test_chunks_begin_where_the_coder_puts_their_frames(sound):
    assert sound.ways[0].borders == (1, 5)


def test_long_clips_are_played_once_for_each_way_of_cutting(bench):
    seen = played(bench, plain(), frames=3, layout=Layout.WAN, direction=Direction.ENCODE)
    assert [way.convention for way in seen.ways] == [
        "original, by keyword",
        "comfyui, final by keyword",
        "comfyui, final, four frames a chunk",
    ]
    for check in ALL:
        assert check(seen).status == "passed", check(seen)


def test_slots_are_named_after_the_convolution_that_keeps_its_frames_there(sound):
    names = [slot.name for slot in sound.ways[0].chunks[-1].slots]
    assert names[0] == "decoder.conv_in"
    assert names[1] == "decoder.mid_block.resnets.0.conv1"
    assert "decoder.up_blocks.0.upsamplers.0.time_conv" in names
    used = [name for name in names if name != "of no convolution"]
    assert used[-1] == "decoder.conv_out"
    assert len(set(used)) == len(used)


def test_the_reference_hook_splits(bench):
    hook = FakeHook(lambda original, *args, **kwargs: tiled(original.__self__)(*args, **kwargs))

    def tiled(net):
        net.original_forward = type(net).forward.__get__(net)
        return VAEHook(net, tile_size=8, is_decoder=True)

    # Of a plane of few rows those that are on their way to the host are the most.
    seen = played(bench, hook, cache="split", frames=2, height=24, width=12, tile=8)
    for check in ALL:
        assert check(seen).status == "passed", check(seen)
    assert check_cache_phase(seen).metrics["phase"] == Phase.SPLIT
    assert clip_ratio(seen) < 0.5


def test_a_chunk_of_another_size_is_the_hooks_failure(bench):
    seen = played(bench, after(lambda out, _cache, _index, n: out[..., :-1] if n == 1 else None))
    assert check_cache_phase(seen).metrics["phase"] in (Phase.CRASHES, Phase.INCOHERENT)
    assert check_video_parity(seen).status != "passed"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda out: out[:, :, :-1], "got 1x3x3x32x48 for chunk 1 (by keyword)"),
        (lambda out: out[..., :-8], "got 1x3x4x32x40 for chunk 1 (by keyword)"),
    ],
)
def test_every_chunk_has_the_shape_that_it_has_untiled(bench, change, words):
    seen = played(bench, after(lambda out, _cache, _index, n: change(out) if n == 1 else None))
    fine = replace(seen.whole, failure=None, output=seen.whole.baseline.output)
    message = told(check_clip_completes(replace(seen, whole=fine)))
    assert words in message
    assert "should be 1x3x4x32x48, as untiled" in message


def test_a_clip_that_is_cut_short_in_the_whole_vae_alone_does_not_complete(bench, sound):
    short = replace(sound.whole, output=sound.whole.baseline.output[:, :, 1:])
    message = told(check_clip_completes(replace(sound, whole=short)))
    assert "got 1x3x8x32x48 (the whole VAE); should be 1x3x9x32x48" in message
    other = check_video_parity(replace(sound, whole=short))
    assert other.blocked_by == "clip_completes"


# -- caches ----------------------------------------------------------------------------------------


def test_an_index_that_is_not_advanced_is_seen(bench):
    def back(_result, _cache, index, _count):
        index[0] = 0

    message = told(check_cache_index(played(bench, after(back))))
    assert "feat_idx at 0 (slot 0, decoder.conv_in) after chunk 0" in message


def test_a_sentinel_that_is_lost_is_seen(bench):
    def forget(_result, cache, _index, count):
        if count == 0:
            for slot, held in enumerate(list(cache)):
                if isinstance(held, str):
                    cache[slot] = torch.zeros(1)

    message = told(check_cache_sentinels(played(bench, after(forget), frames=1)))
    assert "slot 9 (decoder.up_blocks.0.upsamplers.0) after chunk 0: 1 float32" in message
    assert "should be 'Rep'" in message
    assert "(written 2 times during the call, untiled 1)" in message


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda held: held * 1.001, "frames with rms error"),
        (lambda held: held.double(), "float64"),
        (lambda held: held[:, :, -1:], "1x16x1x4x6 float32"),
        (lambda held: {"tile": held}, "a dict, which no coder can read"),
        (lambda held: held * torch.nan, "rms error nan"),
    ],
)
def test_a_slot_that_is_wrong_is_named_with_its_chunk(bench, spoil, words):
    def spoilt(_result, cache, _index, count):
        if count == 2:
            cache[2] = spoil(cache[2])

    seen = played(bench, after(spoilt))
    message = told(check_cache_slots(seen))
    assert "slot 2 (decoder.mid_block.resnets.0.conv2) after chunk 2: " in message
    assert words in message
    assert told(check_cache_phase(seen)).startswith("decode got a hook that breaks coherence")


def test_a_slot_that_was_never_written_is_said_to_be_the_old_one(bench):
    def hook(original, x, feat_cache=None, feat_idx=None):
        before = None if feat_cache is None else list.copy(feat_cache)
        copied = None if before is None else list(before)
        result = original(x, feat_cache=copied, feat_idx=feat_idx)
        if copied is not None:
            for slot, held in enumerate(copied):
                if slot != 3 or before[3] is None:
                    feat_cache[slot] = held
        return result

    message = told(check_cache_slots(played(bench, FakeHook(hook))))
    assert "slot 3 (" in message
    assert "after chunk 1" in message
    assert "never written during the call" in message


@pytest.mark.parametrize("direction", Direction)
def test_in_the_probe_the_mechanism_and_its_one_slot_are_named(bench, direction):
    def forgetful(original, x, feat_cache=None, feat_idx=None):
        for slot, held in enumerate(list.copy(feat_cache or [])):
            if isinstance(held, torch.Tensor):
                feat_cache[slot] = torch.zeros_like(held)
        return original(x, feat_cache=feat_cache, feat_idx=feat_idx)

    probe = {"scale": Scale.PROBE, "mechanism": Mechanism.CAUSAL_CACHE, "direction": direction}
    seen = played(bench, FakeHook(forgetful), **probe)
    for check in (check_video_parity, check_cache_slots):
        message = told(check(seen))
        assert "causal caches are not carried from chunk to chunk for every tile" in message
        assert f", of which this probe shows slot {LOOKS_BACK[direction]} alone" in message


LOOKS_BACK = {
    Direction.ENCODE: "6 (encoder.down_blocks.4.conv1)",
    Direction.DECODE: "15 (decoder.up_blocks.2.resnets.0.conv1)",
}


def test_slots_that_share_memory_are_seen(bench):
    def alias(_result, cache, _index, _count):
        cache[2] = cache[1]

    message = told(check_cache_aliases(played(bench, after(alias))))
    assert "slot 1 (decoder.mid_block.resnets.0.conv1) and slot 2 (" in message
    assert "in the same memory after chunk 0" in message


def test_a_slot_that_is_the_output_is_seen(bench):
    def alias(result, cache, _index, _count):
        cache[2] = result[:, :, -2:]

    message = told(check_cache_aliases(played(bench, after(alias))))
    assert "slot 2 (decoder.mid_block.resnets.0.conv2) and output 0 in the same memory" in message


def test_a_list_that_grows_is_seen(bench):
    def longer(_result, cache, _index, _count):
        cache.append(None)

    assert "slots after chunk 0" in told(check_cache_slots(played(bench, after(longer))))


def test_a_slot_written_between_two_calls_is_seen(bench):
    def late(result, cache, _index, _count):
        if cache is not None:
            finalize(result, cache.__setitem__, 1, cache[1]).atexit = False

    message = told(check_cache_slots(played(bench, after(late))))
    assert "slot 1 (" in message
    assert "had returned" in message


def test_a_cache_in_which_nothing_was_kept_is_no_pass(sound):
    empty = replace(sound, ways=())
    for check in CACHE_CHECKS:
        assert check(empty).status is Status.NOT_JUDGED


# -- memory ----------------------------------------------------------------------------------------


def test_caches_left_on_the_device_are_seen_where_splitting_is_claimed(bench):
    message = told(check_cache_parked(played(bench, plain(), cache="split")))
    assert "left on the device after chunk 0, with " in message
    assert "the first slot 0 (decoder.conv_in)" in message


def test_a_second_copy_of_the_cache_on_the_device_is_seen(bench):
    kept = []

    def keep(_result, cache, _index, count):
        kept[:] = [held.clone() for held in list(cache) if isinstance(held, torch.Tensor)]

    assert "left on the device" in told(check_cache_parked(played(bench, after(keep))))


def test_slots_of_their_own_are_no_leak_where_those_of_untiled_are_views(bench):
    seen = played(bench, plain())
    bare = [replace(chunk, live_bytes=(2**20, 0), slot_bytes=0) for chunk in whole(seen)]
    views = [replace(chunk, slot_bytes=2**20) for chunk in bare]

    assert "left on the device" in told(check_cache_parked(with_chunks(seen, bare)))
    assert check_cache_parked(with_chunks(seen, views)).status == "passed"


def test_memory_that_differs_from_chunk_to_chunk_in_turn_does_not_grow(bench):
    seen = played(bench, plain(), frames=9, height=1, width=2)
    turns = [replace(chunk, live_bytes=(chunk.number % 3 * 2**20, 5)) for chunk in whole(seen)]
    assert check_memory_growth(with_chunks(seen, turns)).status == "passed"


def test_memory_that_grows_with_the_chunks_is_seen(bench):
    seen = played(bench, plain(), frames=9, height=1, width=2)
    finding = check_memory_growth(seen)
    assert finding.status == "passed"
    assert len(str(finding.metrics["live_bytes"]).split()) == 9

    for name in ("live_bytes", "peak_bytes"):
        grown = [replace(chunk, **{name: (chunk.number * 2**20, 5)}) for chunk in whole(seen)]
        message = told(check_memory_growth(with_chunks(seen, grown)))
        assert f"{name[:4]} memory that grows by 3 MiB over the last 3 chunks" in message


def whole(seen):
    return seen.ways[0].chunks


def with_chunks(seen, chunks):
    return replace(seen, ways=(replace(seen.ways[0], chunks=tuple(chunks)),))


# -- frames ----------------------------------------------------------------------------------------


def test_one_frame_that_is_wrong_is_named(bench):
    def spoil(result, _cache, _index, count):
        if count == 2:
            result = result.clone()
            result[:, :, 1] += 0.01
            return result
        return None

    seen = played(bench, after(spoil))
    assert "frame 6 with rms error" in told(check_video_parity(seen))
    assert "chunk 2" in told(check_video_parity(seen))
    assert "between frames 5 and 6 (" in told(check_flicker(seen))


def test_a_level_that_jumps_with_a_chunk_is_flicker_even_where_less_is_promised(bench):
    def brighter(result, _cache, _index, count):
        return result + 0.05 if count == 1 else None

    seen = played(bench, after(brighter), grade="degraded")
    assert check_video_parity(seen).status == "passed"
    assert "between frames 0 and 1, where chunk 1 begins" in told(check_flicker(seen))
    steady = played(bench, after(lambda result, *_: result + 0.05), grade="degraded")
    assert check_flicker(steady).status == "passed"


def test_a_frame_that_has_nothing_to_do_with_the_clip_is_seen_where_little_is_promised(bench):
    def blank(result, _cache, _index, count):
        return torch.zeros_like(result) if count == 2 else None

    seen = played(bench, after(blank), grade="degraded")
    assert "frame 5" in told(check_video_parity(seen))


# -- phases ----------------------------------------------------------------------------------------


def test_a_crash_in_the_middle_is_told_with_its_chunk(bench):
    def crash(_result, _cache, _index, count):
        if count == 1:
            raise ValueError("no room")

    seen = played(bench, after(crash))
    assert "ValueError: no room" in told(check_clip_completes(seen))
    assert check_cache_phase(seen).metrics["phase"] == Phase.CRASHES
    way = replace(seen.whole, failure=None)
    assert "at chunk 1 (by keyword)" in told(check_clip_completes(replace(seen, whole=way)))
    for check in CACHE_CHECKS[:4]:
        assert check(seen).status is Status.NOT_JUDGED


def test_a_chunk_that_is_dropped_is_told(bench):
    def drop(result, _cache, _index, count):
        return [] if count == 2 else None

    seen = played(bench, after(drop))
    whole = replace(seen.whole, failure=None)
    message = told(check_clip_completes(replace(seen, whole=whole)))
    assert "list of 0 nothing for chunk 2" in message
    assert check_cache_phase(seen).metrics["phase"] == Phase.CRASHES


def test_a_call_that_no_vae_makes_leaves_the_phase_as_it_is(bench):
    def strict(original, x, *, feat_cache=None, feat_idx=None):
        return original(x, feat_cache=feat_cache, feat_idx=feat_idx)

    seen = played(bench, FakeHook(strict), frames=2)
    assert "at chunk 0 (by position)" in told(check_clip_completes(seen))
    assert check_cache_phase(seen).metrics["phase"] == Phase.FALLBACK
    for check in ALL[:-1]:
        assert (check(seen).status == "passed") is (check is not check_clip_completes)


@pytest.mark.parametrize(
    ("claim", "status"), [("none", "passed"), ("fallback", "passed"), ("split", "failed")]
)
def test_a_fallback_passes_unless_splitting_is_claimed(bench, sound, claim, status):
    seen = replace(sound, promise=replace(sound.promise, cache=claim))
    finding = check_cache_phase(seen)
    assert finding.metrics["phase"] == Phase.FALLBACK
    assert finding.status == status
    assert clip_ratio(seen) == pytest.approx(1, abs=0.05)


def test_tiles_that_save_nothing_are_no_fallback(bench, sound):
    planes = {Convolution((4, 4, 3, 3), (9, 9)): 8}
    whole = replace(sound.whole, reading=replace(sound.whole.reading, convolutions=planes))
    finding = check_cache_phase(replace(sound, whole=whole))
    assert finding.metrics["phase"] == Phase.UNSAVING
    assert finding.status == "passed"


def test_hooks_on_a_whole_vae_are_judged_by_what_comes_out(bench):
    hook = plain()
    hook.kind = "vae"
    seen = played(bench, hook)
    assert seen.ways == ()
    assert check_video_parity(seen).status == "passed"
    assert check_cache_phase(seen).metrics["phase"] == Phase.FALLBACK


def test_cases_meet_the_checks_that_are_for_them():
    promise = Promise(cache="split")

    def applying(case, promise=promise):
        return {check.name: check.tier for check in CHECKS if check.applies(case, promise)}

    assert set(applying(CLIP).values()) == {"advanced"}
    assert {"cache_slots", "video_parity", "cache_phase", "flicker"} <= applying(CLIP).keys()
    assert "memory_growth" not in applying(CLIP)
    assert "memory_growth" in applying(replace(CLIP, frames=9))
    assert "cache_slots" not in applying(CLIP, replace(promise, kind="vae"))
    assert "cache_parked" not in applying(replace(CLIP, device="cpu"))
    assert "advanced" not in applying(replace(CLIP, scenario=None)).values()
