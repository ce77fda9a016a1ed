"""Planner, offloading and streams, where memory is short."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from vae_compat.suites.mutation.curated.declaring import Topic, nothing, returning
from vae_compat.suites.mutation.curated.places import PICTURE

MEMORY = Topic([])


def mutation(within: str, *fails: str, calls: str | None = None) -> Callable[[Any], Any]:
    """One that a picture shows where memory is short."""
    return MEMORY.mutation(within, PICTURE, *fails, calls=calls, setup="short")


# What is planned.


@mutation("BandPlan.held", "completes")
def half_of_what_is_held_forgotten(right: Any) -> Any:
    return returning(lambda held, *_: held / 2)(right)


@mutation("BandPlan.visit", "completes")
def bands_in_work_forgotten(right: Any) -> Any:
    return returning(lambda *_: 0.0)(right)


@mutation("BandPlan.alive", "completes")
def shortcuts_forgotten(right: Any) -> Any:
    def change(alive: set[int], plan: Any, number: int) -> set[int]:
        return {value for value in alive if value in plan.parts[number].sources}

    return returning(change)(right)


@mutation("free_memory", "completes")
def memory_taken_for_endless(right: Any) -> Any:
    return returning(lambda *_: float("inf"))(right)


@mutation("thinned", "completes")
def nothing_is_offloaded(right: Any) -> Any:
    del right
    return lambda plan: plan


@mutation("BandPlan.find_last_use", "completes")
def planes_given_up_after_their_first_use(right: Any) -> Any:
    def change(found: dict[int, int], plan: Any) -> dict[int, int]:
        for number, part in reversed(list(enumerate(plan.parts))):
            found |= dict.fromkeys(part.sources, number)
        return found

    return returning(change)(right)


# What travels.


@mutation("Arena.take", "parity")
def memory_given_twice(right: Any) -> Any:
    def change(memory: Tensor, arena: Any, nbytes: int) -> Tensor:
        arena.free.append(memory)
        return memory

    return returning(change)(right)


@mutation("Writer.put", "parity")
def band_sent_one_row_off(right: Any) -> Any:
    def wrong(writer: Any, span: Any, band: Tensor) -> None:
        right(writer, span, band.roll(1, 0))

    return wrong


@mutation("BandPlane.send", "parity", calls="put")
def first_band_alone_sent(right: Any) -> Any:
    return lambda span, band: None if span.start else right(span, band)


@mutation("Reader.start", "parity", calls="slice")
def rows_fetched_one_off(right: Any) -> Any:
    return lambda start, stop: right(start - (start > 0), stop - (start > 0))


@mutation("Reader.take", "parity")
def buffer_of_the_band_before(right: Any) -> Any:
    def change(found: Any, reader: Any, number: int) -> Any:
        span = found[0]
        other = reader.buffers[(number + 1) % len(reader.buffers)]
        return span, other[: span.size]

    return returning(change)(right)


# What waits for what.


@mutation("Reader.take", "stream_order", calls="wait_event")
def read_before_it_has_arrived(right: Any) -> Any:
    return nothing(right)


@mutation("Reader.done", "stream_order")
def buffer_filled_while_it_is_read(right: Any) -> Any:
    return nothing(right)


@mutation("Reader.__init__", "stream_order", calls="wait_stream")
def buffers_filled_while_others_use_them(right: Any) -> Any:
    return nothing(right)


@mutation("Reader.start", "stream_order", calls="wait_event")
def fetched_before_it_was_sent(right: Any) -> Any:
    return nothing(right)


@mutation("Writer.put", "stream_order", calls="wait_event")
def sent_before_it_is_computed(right: Any) -> Any:
    return nothing(right)


@mutation("Writer.close", "stream_order", calls="wait_event")
def band_given_up_while_it_is_sent(right: Any) -> Any:
    return nothing(right)
