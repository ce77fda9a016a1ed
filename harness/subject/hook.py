"""Put the hook under test on a VAE, and take it off again."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Protocol

import torch
from torch import Tensor

from vae_compat.contracts.cases import Case, Direction, Mode, TimeTiles
from vae_compat.contracts.coders import CoderCall, LayoutVAE
from vae_compat.subject.profile import HookSpec, Kind
from vae_compat.subject.recorder import Recorder, set_plainly
from vae_compat.subject.settings import (
    TUNING,
    ModeNotOffered,
    Signature,
    needed_keywords,
    read_signature,
    settings_for,
)
from vae_compat.subject.state import Change, Snapshot, snapshot_of, untiled_residue

__all__ = ["Fitting", "Hook", "ModeNotOffered"]


class Loadable(Protocol):
    """Where the entry comes from; it is loaded again for each case."""

    def loaded(self, device: torch.device, dtype: torch.dtype = ...) -> AbstractContextManager[Any]:
        """The entry's attribute, while the context is open."""
        ...


@dataclass(frozen=True)
class Hook:
    """A tiled VAE implementation that can be put on a VAE."""

    spec: HookSpec
    signature: Signature
    source: Loadable
    fixed: Mapping[str, Any] = field(default_factory=dict)
    """Settings whose values do not come from the case."""
    time: TimeTiles | None = None
    """How clips are cut in time, where the hook claims to do so."""
    taken_off: Callable[[], None] | None = None
    """Called each time after the hook has taken itself off, before the VAE is restored."""

    @classmethod
    def of(cls, spec: HookSpec, source: Loadable, entry: Any) -> Hook:
        """Raises ``UsageError`` for an entry that cannot be called as its kind is."""
        return cls(spec, read_signature(spec, entry), source)

    @property
    def name(self) -> str:
        """What reports call it."""
        return self.spec.name

    @property
    def kind(self) -> Kind:
        """How it is put on."""
        return self.spec.kind

    @property
    def accepted_settings(self) -> frozenset[str]:
        """The keywords of the contract that it takes."""
        return self.signature.accepted

    @property
    def apart(self) -> bool:
        """Whether it is put on for one direction alone; else it is always on for both.

        A hook of kind ``vae`` says so by taking ``is_decoder``.
        """
        switch = self.kind is Kind.VAE and "is_decoder" in self.accepted_settings
        return self.kind is Kind.FORWARD or switch

    def offers(self, mode: Mode, direction: Direction) -> bool:
        """Whether it has the keywords that switch a mode on."""
        return self.accepted_settings.issuperset(needed_keywords(mode, direction))

    def offered_modes(self) -> tuple[Mode, ...]:
        """Modes that it can be asked for in at least one direction (colour fix: to encode)."""
        directions = {mode: tuple(Direction) for mode in Mode}
        directions[Mode.COLOR_FIX] = (Direction.ENCODE,)
        return tuple(m for m in Mode if any(self.offers(m, d) for d in directions[m]))

    def by_default(self) -> Hook:
        """The same, built with its own tile size and the like where it has defaults for them.

        Of sizes that must fit each other all are given where it has no default for one of them.
        """
        given = self.accepted_settings
        for alike in TUNING:
            if given & alike <= self.signature.own_defaults.keys():
                given -= alike
        return replace(self, signature=replace(self.signature, accepted=given))

    def is_default_tile(self, case: Case, ratio: int) -> bool:
        """Whether the tile size of a case is the one that the hook takes by itself."""
        if not self.offers(case.mode, case.direction):
            return False
        size = settings_for(self.spec, self.signature, case, ratio, None)["tile_size"]
        return bool(self.signature.own_defaults.get("tile_size") == size)

    @contextmanager
    def kept(self) -> Iterator[Hook]:
        """The same hook, loaded once for the whole context, so that its module keeps its state."""
        with _Kept(self.source) as source:
            yield replace(self, source=source)

    def put_on(
        self,
        view: LayoutVAE,
        case: Case,
        *,
        expected: Collection[Change] | None = None,
        before: Snapshot | None = None,
    ) -> Fitting:
        """A context in which the hook is on; its value runs the VAE: ``run(direction, x)``.

        ``expected`` are changes that an untiled run leaves behind as well
        (``untiled_residue``); where they aren't given and something was left behind, they are
        found by a small untiled run once the hook is off. ``before`` is the state of the view, if
        it is known. Raises ``ModeNotOffered`` at once
        where the hook has no keyword for the mode of the case.
        """
        settings = settings_for(self.spec, self.signature, case, view.ratio, None, self.time)
        return Fitting(self, view, case, settings | dict(self.fixed), expected, before)


class _Kept:
    """Loads an entry once, and again only for another device or dtype."""

    def __init__(self, source: Loadable) -> None:
        self._source = source
        self._stack = ExitStack()
        self._place: tuple[torch.device, torch.dtype] | None = None
        self._entry: Any = None
        self.file = getattr(source, "file", None)

    def __enter__(self) -> _Kept:
        return self

    def __exit__(self, *exc: object) -> None:
        self._place = self._entry = None
        self._stack.close()

    @contextmanager
    def loaded(self, device: torch.device, dtype: torch.dtype = torch.float32) -> Iterator[Any]:
        """The entry's attribute."""
        if self._place != (device, dtype):
            self.__exit__()
            self._entry = self._stack.enter_context(self._source.loaded(device, dtype))
            self._place = (device, dtype)
        yield self._entry


class Fitting:
    """A hook on a VAE, for one case.

    Whatever happens inside, the VAE is restored afterwards. What the hook itself would have left
    behind is kept in ``residue``, in words.
    """

    def __init__(
        self,
        hook: Hook,
        view: LayoutVAE,
        case: Case,
        settings: dict[str, Any],
        expected: Collection[Change] | None,
        before: Snapshot | None = None,
    ) -> None:
        self.phase = "load"
        """``load``, ``put_on``, ``run`` or ``take_off``: where an exception came from."""
        self.residue: tuple[str, ...] = ()
        """What the hook left in the VAE, known when the context is closed."""
        self.beyond_repair: tuple[str, ...] = ()
        """The part of it that could not be undone, so that the VAE must be rebuilt."""
        self.restored = False
        """Whether the VAE is as it was before, but for what is beyond repair."""
        self.placed: Any = None
        """The object that replaces a forward: what it holds is live while the hook is on."""
        self._hook, self._view, self._case = hook, view, case
        self._settings, self._expected, self._before = settings, expected, before
        self._stack = ExitStack()
        self._recorder: Recorder | None = None
        self._run: Callable[[Direction, Tensor], Tensor] | None = None

    @property
    def calls(self) -> tuple[CoderCall, ...]:
        """Calls that reached the coders, in order."""
        return () if self._recorder is None else tuple(self._recorder.calls)

    def __call__(self, direction: Direction, x: Tensor) -> Tensor:
        """Run the whole direction with the hook on."""
        if self._run is None:
            raise RuntimeError("the hook is not on: call inside the context")
        self.phase = "run"
        return self._run(direction, x)

    def __enter__(self) -> Fitting:
        with ExitStack() as stack:
            entry = stack.enter_context(self._hook.source.loaded(*_place(self._case)))
            self.phase = "put_on"
            before, self._before = self._before or snapshot_of(self._view), None
            stack.callback(self._compare_and_restore, before)
            if self._hook.taken_off is not None:
                stack.callback(self._hook.taken_off)
            put_on = {
                Kind.FORWARD: self._forward,
                Kind.VAE: self._whole_vae,
                Kind.FUNCTION: self._function,
                Kind.RANKS: self._whole_vae,
            }[self._hook.kind]
            self._run = put_on(entry, stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._run = None
        phase, self.phase = self.phase, "take_off"
        try:
            self._stack.__exit__(kind, error, trace)
        except BaseException as second:
            if error is None:
                raise
            if second is not error:
                word = f"{type(second).__name__}: {second}"
                error.add_note(f"taking the hook off raised as well: {word}")
        self.phase = phase

    def _compare_and_restore(self, before: Snapshot) -> None:
        changes = before.changes()
        if changes:
            before.restore()
            self.beyond_repair = before.differences()
            expected = self._expected
            if expected is None:
                expected = untiled_residue(self._view, self._case)
            self.residue = tuple(str(change) for change in changes if change not in expected)
        self.restored = True

    def _build(self, entry: Callable[..., Any], *leading: Any, **more: Any) -> Any:
        return self._hook.signature.call(entry, *leading, **self._settings | more)

    def _forward(self, entry: Any, stack: ExitStack) -> Callable[[Direction, Tensor], Tensor]:
        name = "decoder" if self._case.direction is Direction.DECODE else "encoder"
        net = getattr(self._view, name)
        recorder = self._listen({name: net}, stack)
        stack.enter_context(_attributes_kept(net, "forward", "original_forward"))
        set_plainly(net, "original_forward", recorder.originals[name])
        hook = self._build(entry, net=net)
        if not callable(hook):
            raise TypeError(f"{self._hook.name} made {_named(hook)}, which cannot be called")
        set_plainly(net, "forward", hook)
        self.placed = hook
        return self._view.run

    def _whole_vae(self, entry: Any, stack: ExitStack) -> Callable[[Direction, Tensor], Tensor]:
        recorder = self._listen(self._coders(), stack)
        recorder.listen_to_forward()
        undo = self._build(entry, self._view.vae)
        if isinstance(undo, AbstractContextManager):
            stack.enter_context(undo)
        elif callable(undo):
            stack.callback(undo)
        else:
            raise TypeError(
                f"{self._hook.name} returned {_named(undo)} where an undo belongs: a function "
                f"without arguments, or a context manager"
            )
        return self._view.run

    def _function(self, entry: Any, stack: ExitStack) -> Callable[[Direction, Tensor], Tensor]:
        self._listen(self._coders(), stack).listen_to_forward()
        vae = self._view.vae

        def run(direction: Direction, x: Tensor) -> Tensor:
            decoding = direction is Direction.DECODE
            result: Tensor = self._build(entry, vae, x, direction, is_decoder=decoding)
            return result

        return run

    def _coders(self) -> dict[str, Any]:
        return {"encoder": self._view.encoder, "decoder": self._view.decoder}

    def _listen(self, coders: dict[str, Any], stack: ExitStack) -> Recorder:
        self._recorder = recorder = Recorder(coders)
        stack.callback(recorder.close)
        return recorder


class _attributes_kept(AbstractContextManager[None]):  # noqa: N801 (reads as a function)
    """Restores instance attributes of an object, even deleted ones."""

    def __init__(self, owner: object, *names: str) -> None:
        self._owner = vars(owner)
        self._saved = {name: self._owner[name] for name in names if name in self._owner}
        self._names = names

    def __exit__(self, *exc: object) -> None:
        for name in self._names:
            self._owner.pop(name, None)
        self._owner.update(self._saved)


def _place(case: Case) -> tuple[torch.device, torch.dtype]:
    """Where a host program would say that a case runs, and in which dtype."""
    device = torch.device("cpu") if case.device == "cpu" else torch.device("cuda", 0)
    return device, getattr(torch, case.dtype)


def _named(value: object) -> str:
    return "None" if value is None else f"a {type(value).__name__}"
