"""Sequences of calls of the whole VAE: what a hook carries over from one to the next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from vae_compat.contracts.cases import Case
from vae_compat.scenarios.stage import Player


@dataclass(frozen=True)
class Call:
    """The whole VAE on one input."""

    case: Case
    x: Tensor
    """The input, on the plain CPU."""
    right: str
    """Identifies the right result of the call."""


def prepare(player: Player, call: Call) -> None:
    """Record what an inexact hook gives for a call with no other call before it."""
    if player.exact:
        return
    player.doing = f"{call.case.direction} by itself"

    def act(run: Any) -> None:
        result = run(call.case.direction, player.device.put(call.x))
        player.alone.append(player.kept(result, what=player.doing, right=call.right))

    player.hooked(act, call.case)


def _make(player: Player, name: str, run: Any, call: Call, *, bare: bool = False) -> None:
    player.doing = name
    result = run(call.case.direction, player.device.put(call.x))
    player.calls.append(player.kept(result, what=name, right=call.right, bare=bare))


def twice(player: Player, call: Call) -> None:
    """The same call again."""

    def act(run: Any) -> None:
        _make(player, "call 1", run, call)
        _make(player, "call 2, the same again", run, call)

    player.hooked(act)


def sizes(player: Player, call: Call, other: Call) -> None:
    """A call of another size between two of one."""
    size = f"{other.case.height}x{other.case.width}"

    def act(run: Any) -> None:
        _make(player, "call 1", run, call)
        _make(player, f"call 2, of {size} latent pixels", run, other)
        _make(player, "call 3, of the first size again", run, call)

    player.hooked(act)


def off_and_on(player: Player, call: Call) -> None:
    """A call with the hook taken off between two with it on."""
    off = "call 2, with the hook taken off"
    player.hooked(lambda run: _make(player, "call 1", run, call))
    player.bare(lambda run: _make(player, off, run, call, bare=True))
    player.hooked(lambda run: _make(player, "call 3, with the hook on again", run, call))


def interrupted(player: Player, call: Call, other: Call) -> None:
    """A call that is interrupted in the middle of its work, and a fresh one."""

    def act(run: Any) -> None:
        with Interrupting() as counted:
            _make(player, "call 1", run, call)
        with Interrupting(counted.count // 2) as interrupting:
            try:
                _make(player, "call 2, interrupted in the middle", run, call)
            except Exception:
                if not interrupting.done:
                    raise
        if not interrupting.done:
            player.empty = "call 2 ended before it could be interrupted"
        _make(player, "call 3, another input after the interruption", run, other)

    player.hooked(act)


def in_turn(player: Player, one: Call, other: Call) -> None:
    """Encode and decode in turn, both with the hook on."""

    def act(run: Any) -> None:
        for number, call in enumerate((one, other, one, other), 1):
            _make(player, f"call {number}, {call.case.direction}", run, call)

    player.hooked_both(act)


class Interrupting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts operations, and raises `Interruption` in the place of one of them."""

    def __init__(self, at: int | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.at = at
        self.count = 0

    @property
    def done(self) -> bool:
        """Whether that operation was reached."""
        return self.at is not None and 0 < self.at <= self.count

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        self.count += 1
        if self.count == self.at:
            raise Interruption("the work was interrupted")
        return func(*args, **(kwargs or {}))


class Interruption(RuntimeError):  # noqa: N818 (no error: a request to stop)
    """Raised inside a hook in the middle of its work, as when a user stops a job."""
