"""Settings in a program: defaults, one direction, tiles of a pixel, where and how it is called."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from vae_compat.contracts.cases import TIME_TILES, Case, Direction, TimeTiles
from vae_compat.scenarios.comparison import Comparison, same
from vae_compat.scenarios.performed import Called
from vae_compat.scenarios.results import Results
from vae_compat.scenarios.stage import Player
from vae_compat.scenarios.usage import (
    Usage,
    UsageObserved,
    call,
    each_ran,
    observed,
    ran,
    takes,
    units_of,
)
from vae_compat.subject.hook import Hook

TILES = (1, 3, 8)
"""Latent pixels. The first that a hook takes must work; three quarters of eight leave a sliver of
``matrix.TINY_SIZE``, as do three and eight themselves."""
OTHER = "the other direction"
USUAL = "time tiles as in all cases"
SHORTER = "time tiles of another length"
APART = "time tiles that do not overlap"
STEPLESS = "time tiles without a step from one to the next, or with one past its end"


def _play_settings(player: Player) -> None:
    """The hook's own defaults, then other settings, then the defaults again."""
    hook = player.stage.hook
    usual = hook.by_default() if isinstance(hook, Hook) else hook
    smaller = replace(player.case, tile=player.case.tile // 2)
    if isinstance(hook, Hook) and hook.is_default_tile(smaller, player.view.ratio):
        smaller = replace(smaller, tile=smaller.tile + 1)
    call(player, "the hook with its own defaults", hook=usual)
    call(player, "smaller tiles", case=smaller)
    call(player, "the defaults again", hook=usual)


def _compare_settings(results: Results) -> UsageObserved:
    fresh = ran(results, 0)
    if fresh.seen.output is None:
        return observed(results, ran=(fresh,))
    between, again = ran(results, 1), results.call(2)
    what = "its own defaults, after smaller tiles"
    found = same(what, fresh.seen.output, again.output, again.failure)
    if found.holds and again.reading.convolved != fresh.seen.reading.convolved:
        found = Comparison(what, float("inf"), "the same result by other convolutions")
    return observed(results, ran=(fresh, between), comparisons=(found,))


SETTINGS = Usage(_play_settings, _compare_settings)


def _play_switches(player: Player) -> None:
    """While the hook is on for one direction the other runs untiled; once it is off, both do."""
    case, other, hook = player.case, player.case.turned, player.stage.hook
    off: dict[Direction, Any] = {}

    def run_bare() -> None:
        for each in (case, other):
            off[each.direction] = player.view.run(each.direction, player.x(each))

    def act(run: Any) -> Any:
        return run(other.direction, x) if apart else None

    apart, x = getattr(hook, "apart", False), player.x(other)
    watched = replace(hook, taken_off=run_bare) if isinstance(hook, Hook) else hook
    call(player, OTHER if apart else "", x=x, hook=watched, act=act)
    player.calls += [player.kept(off.get(each.direction)) for each in (case, other)]


def _compare_switches(results: Results) -> UsageObserved:
    case, other, hooked = results.case, results.case.turned, results.call(0)

    def untiled(what: str, of: Case, called: Called) -> Comparison:
        right = results.untiled(of)
        return same(f"{of.direction}, {what}", right, called.output, hooked.failure)

    found = []
    if hooked.what == OTHER:
        found.append(untiled(f"with the hook on to {case.direction} alone", other, hooked))
    for number, each in enumerate((case, other), 1):
        found.append(untiled("after the hook was taken off", each, results.call(number)))
    return observed(results, comparisons=tuple(found))


SWITCHES = Usage(_play_switches, _compare_switches)


def _play_tiny_tiles(player: Player) -> None:
    """Tiles as small as a hook accepts, and one tile that holds the plane."""
    for tile in (*TILES, player.case.tile):
        case = replace(player.case, tile=tile)
        told = f"tiles of {tile} latent pixel" + ("s" if tile > 1 else "")
        failure = call(player, told, case=case).failure
        if failure is not None and failure.hung:
            break


TINY_TILES = Usage(_play_tiny_tiles, each_ran)


def _play_on_host(player: Player) -> None:
    """VAE and input on the CPU of a machine whose default is its GPU."""
    x = player.stage.models.make_input(player.case)
    call(player, "the VAE on the CPU beside a GPU", x=x, settings={"to_gpu": False})


def _play_overlaps(player: Player) -> None:
    """No overlap, half a tile, and steps that are none: past the end of a tile, or of no length."""
    tile, units = player.case.tile, units_of(player)
    stepless = -tile // 2 if takes(player, "tile_stride") else tile
    for overlap in (0, tile // 2, stepless):
        told = f"tiles of {tile} latent pixels that overlap by {overlap}"
        call(player, told, settings=units.tiles(tile, overlap))


OVERLAPS = Usage(_play_overlaps, each_ran)


def _play_temporal(player: Player) -> None:
    """A clip in time tiles of two sizes and overlaps, and with steps that are none."""
    sized, strides = takes(player, "temporal_tile_size"), takes(player, "temporal_stride")
    size = TIME_TILES.size // 2 if sized else TIME_TILES.size
    plan = [(USUAL, TIME_TILES)]
    if sized:
        plan.append((SHORTER, TimeTiles(size, TIME_TILES.overlap)))
    if strides or takes(player, "temporal_overlap"):
        plan.append((APART, TimeTiles(size, 0)))
        plan.append((STEPLESS, TimeTiles(size, -1 if strides else size)))
    for what, time in plan:
        call(player, what, settings=units_of(player).time(time))


TEMPORAL = Usage(_play_temporal, each_ran)


def _play_inference_mode(player: Player) -> None:
    call(player, "under torch.inference_mode()")


INFERENCE_MODE = Usage(_play_inference_mode, each_ran, context="inference_mode")


ON_HOST = Usage(_play_on_host, each_ran, on_host=True)
