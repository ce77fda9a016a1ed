"""Hooks that do what a test tells them to, in runners of their own, judged as in a run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vae_compat.checks.registry import CHECKS
from vae_compat.contracts.cases import Case, Direction, Layout, Mode, Scale
from vae_compat.contracts.finding import Status
from vae_compat.fixtures.supplies import Fixtures
from vae_compat.isolation.client import Nursery
from vae_compat.isolation.limits import IDLE
from vae_compat.measure.bench import Bench as Untiled
from vae_compat.measure.observation import Observed
from vae_compat.scenarios.case_runner import CaseRunner, Subject
from vae_compat.scenarios.runners import InRunners
from vae_compat.subject.messages import Loading
from vae_compat.subject.profile import profile_from_flags

CASE = Case("sd", Scale.MOCK, Layout.LDM, Direction.DECODE, Mode.EXACT, 6, 9, 6)
NEXT = Case("sd", Scale.MOCK, Layout.LDM, Direction.DECODE, Mode.EXACT, 9, 6, 6)
"""Two that take no time."""
_HOOK = """
import pathlib
from vae_compat.fixtures.specimens.resting import RestingTiler


class Hook(RestingTiler):
    def __call__(self, x, *args, **kwargs):
        act = pathlib.Path(__file__).with_name("act.py")
        if act.exists():
            told = {"hook": self, "net": self.net, "x": x}
            exec(compile(act.read_text(), str(act), "exec"), told)
            if "answer" in told:
                return told["answer"]
        return super().__call__(x, *args, **kwargs)
"""
"""A sound hook that first does whatever the file beside it says."""


def loading(folder: Path, name: str, source: str = _HOOK, *, memory: int = 0) -> Loading:
    """Write a hook's file and tell how it is loaded."""
    (folder / f"{name}.py").write_text(source)
    return Loading(
        name=name,
        entry=f"{name}.py:Hook",
        kind="forward",
        layout="ldm",
        host=None,
        folder=str(folder),
        memory=memory,
    )


class Bench:
    """A judge, and the runners of some hooks; each is in a file of its own."""

    def __init__(
        self,
        folder: Path,
        sources: dict[str, str] | None = None,
        *,
        idle: float = IDLE,
        seconds: float = 20.0,
        memory: int = 0,
        nursery: Nursery,
    ) -> None:
        """Without ``sources`` there is one hook, named ``hook``, that does what it is told to."""
        self.folder, self.seconds = folder, seconds
        sources = sources or {"hook": _HOOK}
        self.loadings = {
            name: loading(folder, name, source, memory=memory) for name, source in sources.items()
        }
        self.untiled = Untiled(Fixtures(), folder / "shared")
        self.runners = InRunners(self.loadings, folder / "shared", idle=idle, nursery=nursery)
        self._subjects = {
            name: Subject(
                profile_from_flags(
                    f"{name}.py:Hook",
                    name=name,
                    families=["sd"],
                    modes=["exact"],
                    grade={"exact": "exact"},
                    folder=folder,
                ),
                (),
            )
            for name in sources
        }

    def observe(self, act: str = "", case: Case = CASE, hook: str = "hook") -> Observed:
        """What a hook gives for a case, after it has done something."""
        told = self.folder / "act.py"
        told.write_text(act) if act else told.unlink(missing_ok=True)
        runner = CaseRunner(self._subjects, self.untiled, self.runners, self.seconds)
        return runner.observation(hook, case, every_way=False)

    def process(self, hook: str = "hook") -> int | None:
        """The process between this one and the runner of a hook."""
        client = self.runners._clients.get(hook)
        return None if client is None else client.process

    def forgive(self) -> None:
        """Let hooks have as many limits as they like: a run gives one up after some."""
        ended = self.folder / "shared" / "ended"
        for file in ended.glob("*/*"):
            file.unlink()

    def close(self) -> None:
        """End all runners; the nursery, which others use as well, stays."""
        self.runners.close_runners()


@contextmanager
def benched(bench: Bench) -> Iterator[Bench]:
    """The bench, closed at the end."""
    try:
        yield bench
    finally:
        bench.close()


def wrong(observed: Observed) -> set[str]:
    """Names of the checks that a case does not pass."""
    return {
        check.name
        for check in CHECKS
        if check.applies(observed.case, observed.promise)
        and check(observed).status is not Status.PASSED
    }


def sound(observed: Observed) -> bool:
    """Whether the hook has passed everything that is judged of the case."""
    return observed.failure is None and not wrong(observed)


def alive(process: int) -> bool:
    """Whether a process runs; one that nobody has taken the end of does not."""
    try:
        text = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] not in "ZX" and process != os.getpid()
