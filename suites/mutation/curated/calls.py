"""Calls of a coder and of a VAE: feature caches, settings, what is left behind, whole clips."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vae_compat.suites.mutation.curated.declaring import Topic, nothing, returning
from vae_compat.suites.mutation.curated.places import (
    CLIP,
    ENCODED_CLIP,
    INTERRUPTED,
    LONG_CLIP,
    PICTURE,
    ROWS_OF_A_CLIP,
    SETTINGS,
    STREAMS,
    TILED_FRAME,
    TURNS,
    WAN22,
    WHOLE_CLIP,
    WHOLE_ENCODED_CLIP,
)

CALLS = Topic([])
mutation = CALLS.mutation

# Feature caches.


@mutation("ItemCaches.past", LONG_CLIP, "coherence")
def cache_of_a_neighbour(right: Any) -> Any:
    return returning(lambda past, *_: past if past is None else past.roll(1, -1))(right)


@mutation("ItemCaches.past", LONG_CLIP, "coherence")
def cache_never_read(right: Any) -> Any:
    return nothing(right)


@mutation("ParkedCaches.past", ROWS_OF_A_CLIP, "parity")
def parked_cache_of_a_neighbour(right: Any) -> Any:
    return cache_of_a_neighbour(right)


@mutation("ParkedCaches.past", ROWS_OF_A_CLIP, "parity")
def parked_cache_never_read(right: Any) -> Any:
    return nothing(right)


@mutation("Job.kept", LONG_CLIP, "coherence")
def lone_frame_forgets_the_one_before(right: Any) -> Any:
    def change(kept: Tensor, job: Any, slot: int, x: Tensor, *_: Any) -> Tensor:
        return kept[:, :, -1:] if x.shape[2] == 1 else kept

    return returning(change)(right)


@mutation("Job.kept", LONG_CLIP, "coherence")
def first_frames_remembered(right: Any) -> Any:
    return lambda job, slot, x, *rest: right(job, slot, x[:, :, :2], *rest)


@mutation("Job.remember", CLIP, "cache_sentinels", calls="keep")
def sentinel_lost(right: Any) -> Any:
    return lambda slot, value: right(slot, None)


@mutation("Job.kept", LONG_CLIP, "coherence", calls="zeros_like")
def sentinel_without_its_frame(right: Any) -> Any:
    del right
    return lambda tail: tail


@mutation("VAEHook.tiled", LONG_CLIP, "output_shape", calls="commit")
def cache_not_committed(right: Any) -> Any:
    return nothing(right)


@mutation("call_protocol", ENCODED_CLIP, "cache_index")
def cache_index_stays(right: Any) -> Any:
    def change(found: Any, *_: Any) -> Any:
        return type(found)(found.program, 0, found.answer)

    return returning(change)(right)


@mutation("Job.remember", TURNS, "sequence", calls="store_at")
def slot_left_on_the_host(right: Any) -> Any:
    return lambda *args: right(*args[:-1], torch.device("cpu"))


@mutation("VAEHook.tiled", STREAMS, "sequence")
def cache_of_the_first_clip_for_all(right: Any) -> Any:
    def wrong(hook: Any, program: Any, call: Any) -> Any:
        call.feat_cache = vars(hook).setdefault("first", call.feat_cache)
        return right(hook, program, call)

    return wrong


@mutation("Caches.keep", INTERRUPTED, "sequence")
def sentinel_written_at_once(right: Any) -> Any:
    def wrong(caches: Any, slot: int, value: Any) -> None:
        right(caches, slot, value)
        caches.commit()

    return wrong


@mutation("translate", WAN22, "tiles_ran", "peak_vram")
def first_chunk_ignored(right: Any) -> Any:
    return lambda net, is_decoder, first_chunk=False: right(net, is_decoder, False)


@mutation("VAEHook.__call__", LONG_CLIP, "completes")
def cache_argument_not_taken(right: Any) -> Any:
    return lambda hook, x: right(hook, x)


# Whether it tiles, and what it leaves behind.


@mutation("VAEHook.one_tile_is_enough", PICTURE, "tiles_ran", "peak_vram")
def never_tiles(right: Any) -> Any:
    return returning(lambda *_: True)(right)


@mutation("original_program", TILED_FRAME, "tiles_ran", "peak_vram")
def clips_fall_back(right: Any) -> Any:
    def wrong(*args: Any) -> Any:
        raise ValueError("no such layout")

    return wrong


@mutation("VAEHook.__init__", SETTINGS, "settings")
def first_tile_size_for_all(right: Any) -> Any:
    def wrong(hook: Any, net: Any, tile_size: int = 64, *args: Any, **kwargs: Any) -> None:
        right(hook, net, tile_size, *args, **kwargs)
        kept = getattr(type(hook), "kept", tile_size)
        hook.tile_size = type(hook).kept = kept

    return wrong


@mutation("VAEHook.__init__", PICTURE, "left_behind")
def marks_the_coder(right: Any) -> Any:
    def wrong(hook: Any, net: Any, *args: Any, **kwargs: Any) -> None:
        right(hook, net, *args, **kwargs)
        net.tile_size = hook.tile_size

    return wrong


# Clips as a whole, above the loop over frames.


@mutation("Clip.whole", WHOLE_CLIP, "coherence", setup="whole")
def chunks_out_of_order(right: Any) -> Any:
    return returning(lambda clip, *_: clip.roll(1, 2))(right)


@mutation("Clip.whole", WHOLE_CLIP, "completes", setup="whole")
def last_chunk_lost(right: Any) -> Any:
    return returning(lambda clip, *_: clip[:, :, :-1])(right)


@mutation("Job.clip_up", WHOLE_CLIP, "coherence", setup="whole")
def last_two_frames_swapped(right: Any) -> Any:
    def change(y: Tensor, *_: Any) -> Tensor:
        if y.shape[2] < 2:
            return y
        return torch.cat([y[:, :, :-2], y[:, :, -1:], y[:, :, -2:-1]], dim=2)

    return returning(change)(right)


@mutation("Job.time_down", WHOLE_ENCODED_CLIP, "coherence", setup="whole", calls="over_time")
def frames_of_a_clip_one_late(right: Any) -> Any:
    return lambda module, x, past: right(module, x.roll(1, 2), past)


@mutation("FrameLoop.__call__", WHOLE_ENCODED_CLIP, "completes", setup="whole", calls="expecting")
def waits_for_a_frame_too_many(right: Any) -> Any:
    return lambda frames: right(frames + 1)


@mutation("Replacement.leave", WHOLE_CLIP, "left_behind", setup="whole")
def left_on_the_vae(right: Any) -> Any:
    return returning(lambda *_: False)(nothing(right))


@mutation("VAEHook.next_chunk", WHOLE_CLIP, "output_device", setup="whole")
def clip_left_on_the_host(right: Any) -> Any:
    return returning(lambda out, *_: out.cpu())(right)
