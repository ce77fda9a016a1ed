"""The watched cache list behaves like any list and records every read and write."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch.utils._pytree import tree_leaves, tree_map

from vae_compat.measure import caches
from vae_compat.measure.caches import Access, CacheLog, Holds, materialised, sharing, watched_cache
from vae_compat.suites.selftest.measure_fakes import hostile


def watched(*slots):
    log = CacheLog()
    return watched_cache(slots, log), log


def test_to_a_coder_it_is_the_list_that_it_would_get():
    cache, _ = watched(None, "Rep", torch.ones(2))
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
    [copy.copy, copy.deepcopy, list, lambda cache: cache.copy(), lambda cache: cache[:]],
    ids=["copy", "deepcopy", "list", "method", "slice"],
)
def test_copies_are_plain_lists(copied):
    cache, log = watched(None, "Rep")
    other = copied(cache)
    assert type(other) is list
    assert other == [None, "Rep"]
    other[0] = 1
    assert cache[0] is None
    assert not any(access.writes for access in log.accesses)


def test_it_is_pickled_as_a_plain_list():
    again = pickle.loads(pickle.dumps(watched(None, "Rep")[0]))
    assert type(again) is list
    assert again == [None, "Rep"]


def test_every_read_and_write_is_noted_with_its_slot_and_chunk():
    cache, log = watched(*[None] * 4)
    log.chunk = 2
    _ = cache[1]
    cache[-1] = "Rep"
    log.chunk = None
    cache[0:2] = [1, 2]
    assert log.accesses == [
        Access(1, False, 2),
        Access(3, True, 2),
        Access(0, True, None),
        Access(1, True, None),
    ]


@pytest.mark.parametrize(
    ("change", "slots"),
    [
        (lambda cache: cache.append("d"), [3]),
        (lambda cache: cache.extend("de"), [3, 4]),
        (lambda cache: cache.insert(1, "d"), [1, 2, 3]),
        (lambda cache: cache.pop(), [2]),
        (lambda cache: cache.pop(0), [0, 1, 2]),
        (lambda cache: cache.remove("b"), [1, 2]),
        (lambda cache: cache.clear(), [0, 1, 2]),
        (lambda cache: cache.reverse(), [0, 2]),
        (lambda cache: cache.sort(key="bca".index), [0, 1, 2]),
        (lambda cache: cache.__delitem__(1), [1, 2]),
        (lambda cache: cache.__delitem__(slice(1, None)), [1, 2]),
        (lambda cache: cache.__iadd__("d"), [3]),
        (lambda cache: cache.__imul__(2), [3, 4, 5]),
        (lambda cache: cache.__setitem__(slice(1, 2), []), [1, 2]),
        (lambda cache: cache.__setitem__(slice(0, 2), "ab"), [0, 1]),
        (lambda cache: cache.__setitem__(1, "b"), [1]),
    ],
)
def test_whatever_changes_a_list_is_noted(change, slots):
    plain = list("abc")
    cache, log = watched(*plain)
    assert change(cache) == change(plain) or change is None
    assert list.copy(cache) == plain
    assert [access.slot for access in log.accesses] == slots
    assert all(access.writes for access in log.accesses)


def test_a_list_stays_itself_when_it_is_added_to():
    cache, _ = watched("a")
    same = cache
    cache += ["b"]
    assert cache is same


def test_no_attribute_of_the_list_leads_to_the_log():
    cache, log = watched("a")
    cache[0] = "b"
    with pytest.raises(AttributeError):
        cache.log = []
    assert not hasattr(cache, "__dict__")
    assert len(log.accesses) == 1


def test_an_index_that_is_none_is_refused_as_by_a_list():
    cache, log = watched(None)
    with pytest.raises(IndexError):
        cache[1]
    with pytest.raises(IndexError):
        cache[3] = 1
    assert not log.accesses


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
        (hostile(), Holds.FOREIGN, "a Hostile"),
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


def test_to_trees_it_is_a_list_and_what_they_make_of_it_is_not_watched() -> None:
    log = CacheLog()
    cache = watched_cache([1, None, "Rep"], log)
    assert tree_leaves({"cache": cache}) == tree_leaves({"cache": list(cache)})
    made = tree_map(lambda held: held, cache)
    log.accesses.clear()
    made[0] = 2
    type(cache)(cache)[0] = 2
    assert type(made) is list
    assert [access for access in log.accesses if access.writes] == []


def test_log_of_a_list_goes_with_it() -> None:
    cache = watched_cache([1], CacheLog())
    known = id(cache)
    assert known in caches._LOGS
    del cache
    assert known not in caches._LOGS
