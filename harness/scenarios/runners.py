"""Where hooks under test run: in runner processes; the harness's own hooks also in this process."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol, TypeVar

from vae_compat.errors import UsageError
from vae_compat.isolation.client import Ended, Nursery, RunnerClient, shared_nursery
from vae_compat.isolation.limits import IDLE
from vae_compat.measure.attempt import Subject as Hook
from vae_compat.measure.models import ModelFiles, Models, Supplies
from vae_compat.measure.observation import Failure, Origin
from vae_compat.measure.sealing import Seal
from vae_compat.scenarios.asking import Ask
from vae_compat.scenarios.performing import perform
from vae_compat.subject.hook import Hook as LoadedHook
from vae_compat.subject.messages import HookFacts, Loading
from vae_compat.subject.profile import Kind

T = TypeVar("T")

SERVER = "vae_compat.scenarios.serving"
"""The server module of the runners. It is only named, because the judge must not import code that
loads hooks."""
AT_ONCE = 2
"""Runners that one worker keeps: each holds torch, half a GiB."""
MOST_NOTED = 4096
"""Bytes of a note that are read."""
PATIENCE = 3
"""After this many cases that were ended by a limit a hook is not tried again: each takes minutes.
"""
PERFORMING = "performing"
"""Folder of marks of the cases that processes are at, by the name of the hook."""
UNTOUCHED = {
    Kind.FORWARD: "vae_compat.fixtures.specimens.resting:FallbackOnly",
    Kind.VAE: "vae_compat.fixtures.specimens.whole:left_alone",
    Kind.RANKS: "vae_compat.fixtures.specimens.whole:left_alone",
    Kind.FUNCTION: "vae_compat.fixtures.specimens.pieces:untiled_function",
}
"""Hooks that change nothing, by kind: what breaks a runner even with them is no fault of a hook."""


class GaveNone(Exception):  # noqa: N818 (a fact about a hook, not a fault of the run)
    """The hook gave no result; carries the failure."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class BrokenRunnerError(RuntimeError):
    """Code of the harness in a runner fails on a case, with a hook that changes nothing as well."""


class Runners(Protocol):
    """Has cases performed by the hooks under test."""

    def perform(self, name: str, ask: Ask, kind: type[T]) -> T:
        """What a hook does of a case. Raises `GaveNone`."""
        ...

    def printed(self, name: str) -> str:
        """What the hook printed while it performed."""
        ...


@dataclass
class InRunners:
    """A runner for each hook, started when it is first asked and again when it has ended.

    ``folder`` is shared by the workers of a run, so that all of them give up a hook
    that was ended by a limit too often.
    """

    loadings: Mapping[str, Loading]
    folder: Path
    idle: float = IDLE
    """Seconds of the clock after which a runner that uses no CPU is ended."""
    nursery: Nursery = field(default_factory=shared_nursery)
    """Where the runners come from; closed with them."""
    seal: Seal = field(default_factory=Seal)
    """Tells the workers' own notes in ``folder`` from what a hook writes there."""
    _clients: OrderedDict[str, RunnerClient[HookFacts]] = field(default_factory=OrderedDict)
    _printed: dict[str, str] = field(default_factory=dict)

    def perform(self, name: str, ask: Ask, kind: type[T]) -> T:
        """What a hook does of a case. Raises `GaveNone`."""
        if self._ended_for_limits(name) >= PATIENCE:
            told = (
                f"{PATIENCE} cases of this hook were ended for what they took, so no more were "
                "tried"
            )
            raise GaveNone(Failure("NotRun", told, "", "", "run", Origin.NOT_RUN))
        self._printed.pop(name, None)
        try:
            try:
                answer = self._asked(name, ask, kind)
            except Ended as ended:
                if ended.begun and not ended.stopped:
                    raise
                # An earlier case was the cause, or the sender of the signal is not known; a hook
                # that kills itself will do so again.
                answer = self._asked(name, ask, kind)
        except Ended as ended:
            if ended.broken:
                self._blame(name, ask, kind)
            origin = Origin.LIMIT if ended.by_limit else Origin.DEATH
            if ended.by_limit:
                self._note_limit(name, ask.case.id)
            raise GaveNone(_failure(ended, origin)) from None
        except UsageError as error:  # it could be loaded before
            failure = Failure("CannotLoad", str(error), "", "", "load")
            raise GaveNone(failure) from None
        return answer

    def _asked(self, name: str, ask: Ask, kind: type[T]) -> T:
        client = self._client(name)
        try:
            answer = client.ask(ask, kind, ask.seconds)
        except Ended:
            del self._clients[name]
            raise
        self._printed[name] = client.printed
        if not client.fresh:  # what it has left running must not go on beside the next case
            self._clients.pop(name).close()
        return answer

    def _blame(self, name: str, ask: Ask, kind: type[T]) -> None:
        """Raise `BrokenRunnerError` where a runner breaks on a case whatever the hook does."""
        loading = self.loadings[name]
        untouched = replace(loading, entry=UNTOUCHED[Kind(loading.kind)], host=None, settings={})
        try:
            client = RunnerClient(SERVER, untouched, HookFacts, self.nursery, idle=self.idle)
            with closing(client):
                client.ask(ask, kind, ask.seconds)
        except Ended as ended:
            if ended.broken:
                raise BrokenRunnerError(f"{ended.told}\n{ended.detail}") from None

    def printed(self, name: str) -> str:
        """What the hook has printed during its last case."""
        return self._printed.get(name, "")

    def close_runners(self) -> None:
        """End all runners that there are; others are started when they are needed."""
        while self._clients:
            self._clients.popitem()[1].close()

    def close(self) -> None:
        """End all runners, and what they come from."""
        self.close_runners()
        self.nursery.close()

    def _client(self, name: str) -> RunnerClient[HookFacts]:
        client = self._clients.pop(name, None)
        if client is not None and not client.fresh:
            client.close()
            client = None
        if client is None:
            while len(self._clients) >= AT_ONCE:
                self._clients.popitem(last=False)[1].close()
            loading = self.loadings[name]
            client = RunnerClient(
                SERVER, loading, HookFacts, self.nursery, idle=self.idle, memory=loading.memory
            )
        self._clients[name] = client
        return client

    def _note_limit(self, name: str, case: str) -> None:
        folder = self._folder_of(name)
        with suppress(OSError):  # a hook may have put something in the way
            folder.mkdir(parents=True, exist_ok=True)
            (folder / case).write_bytes(self.seal.on(f"{name}:{case}".encode()))

    def _ended_for_limits(self, name: str) -> int:
        folder = self._folder_of(name)
        with suppress(OSError):
            return sum(self._is_noted(name, file) for file in folder.iterdir())
        return 0

    def _is_noted(self, name: str, file: Path) -> bool:
        if not file.is_file():
            return False
        with file.open("rb") as noted:
            return self.seal.opened(noted.read(MOST_NOTED)) == f"{name}:{file.name}".encode()

    def _folder_of(self, name: str) -> Path:
        return self.folder / "ended" / name


def _failure(ended: Ended, origin: Origin) -> Failure:
    kind = "Limit" if ended.by_limit else "ProcessDied"
    return Failure(kind, ended.told, "", ended.detail, "run", origin, lost=True)


@dataclass
class InProcess:
    """Performs the project's own hooks in the judge's process: fast, and unguarded.

    With ``folder``, a case that killed its process is not tried again by the next process.
    """

    hooks: dict[str, Hook]
    supplies: Supplies
    folder: Path | None = None
    _files: ModelFiles = field(default_factory=ModelFiles)

    def __post_init__(self) -> None:
        self._models = Models(self.supplies, self._files)

    def perform(self, name: str, ask: Ask, kind: type[T]) -> T:
        """What a hook does of a case."""
        with self._marked(name, ask.case.id):
            self._files.paths = ask.weights
            self._models.age()
            hook = self.hooks[name]
            with hook.kept() if isinstance(hook, LoadedHook) else nullcontext(hook) as once:
                performed = perform(ask, once, self._models)
        assert isinstance(performed, kind)
        return performed

    @contextmanager
    def _marked(self, name: str, case: str) -> Iterator[None]:
        """Leave a mark while the case is performed, which stays only if the process ends."""
        if self.folder is None:
            yield
            return
        mark = self.folder / PERFORMING / name / case
        if mark.exists():
            told = "the process that ran this case died"
            raise GaveNone(Failure("ProcessDied", told, "", "", "run", Origin.DEATH))
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()
        try:
            yield
        finally:
            mark.unlink(missing_ok=True)

    def forget(self, name: str) -> None:
        """Try again what has killed a process, or was under way when somebody else ended it."""
        if self.folder is not None:
            for mark in (self.folder / PERFORMING / name).glob("*"):
                mark.unlink(missing_ok=True)

    def printed(self, name: str) -> str:
        """Nothing is kept."""
        del name
        return ""
