"""The watched cache list: a list to everyone, and it forgets nothing."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

from harness.measure.caches import Access, CacheList, Holds, materialised, sharing


def test_to_a_coder_it_is_the_list_that_it_would_get():
    cache = CacheList([None, "Rep", torch.ones(2)])
    assert isinstance(cache, list)
    assert len(cache) == 3
    assert cache[0] is None
    assert cache[1] == "Rep"
    assert isinstance(cache[1], str)
    assert cache[-1] is cache[2]
    assert cache[:2] == [None, "Rep"]
    assert next(iter(cache)) is None
    cache[0] = 5
    cache[1:] = [6, 7]
    assert list(cache) == [5, 6, 7]


@pytest.mark.parametrize(
    "copied",
    [copy.copy, copy.deepcopy, list, CacheList.copy, lambda cache: cache[:]],
    ids=["copy", "deepcopy", "list", "method", "slice"],
)
def test_copies_are_plain_lists(copied):
    cache = CacheList([None, "Rep"])
    cache.chunk = 4
    other = copied(cache)
    assert type(other) is list
    assert other == [None, "Rep"]
    other[0] = 1
    assert cache[0] is None
    assert not any(access.writes for access in cache.log)


def test_it_is_pickled_as_a_plain_list():
    again = pickle.loads(pickle.dumps(CacheList([None, "Rep"])))
    assert type(again) is list
    assert again == [None, "Rep"]


def test_every_read_and_write_is_noted_with_its_slot_and_chunk():
    cache = CacheList([None] * 4)
    cache.chunk = 2
    _ = cache[1]
    cache[-1] = "Rep"
    cache.chunk = None
    cache[0:2] = [1, 2]
    assert cache.log == [
        Access(1, False, 2),
        Access(3, True, 2),
        Access(0, True, None),
        Access(1, True, None),
    ]


def test_a_list_that_is_filled_anew_counts_as_written():
    cache = CacheList([None, None])
    cache.clear()
    cache.extend([1, 2])
    cache.append(3)
    assert [access.slot for access in cache.log if access.writes] == [0, 1, 0, 1, 2]


def test_an_index_that_is_none_is_refused_as_by_a_list():
    cache = CacheList([None])
    with pytest.raises(IndexError):
        cache[1]
    with pytest.raises(IndexError):
        cache[3] = 1
    assert not cache.log


class Tiles:
    """What a hook might store."""


class Sly(torch.Tensor):
    """A tensor that may run code when it is read."""


@pytest.mark.parametrize(
    ("entry", "holds", "word"),
    [
        (None, Holds.NOTHING, "nothing"),
        ("Rep", Holds.WORD, "'Rep'"),
        (torch.ones(1, 2), Holds.FRAMES, "1x2 float32"),
        (Tiles(), Holds.FOREIGN, "a Tiles"),
        (torch.ones(1).as_subclass(Sly), Holds.FOREIGN, "a Sly"),
    ],
)
def test_slots_are_told_apart(entry, holds, word):
    slot = materialised(entry, None)
    assert (slot.holds, slot.told) == (holds, word)


def test_what_was_in_a_slot_stays_what_it_was():
    held = torch.ones(2)
    slot = materialised(held, None)
    held.zero_()
    assert slot.frames is not None
    assert slot.frames.tolist() == [1, 1]


def test_slots_share_memory_only_where_elements_meet():
    clip = torch.zeros(1, 2, 4, 3, 3)
    early, late = clip[:, :, :2], clip[:, :, 2:]
    assert sharing([early, late], {}) == frozenset()
    assert sharing([early, None, clip[:, :, 1:3]], {}) == {(0, 2)}
    assert sharing([early, "Rep"], {"input": clip}) == {(0, "input")}
    assert sharing([early.clone()], {"input": clip, "output": clip}) == frozenset()
