"""A judge that is asked, case by case, by a front whose own process may hold hooks."""

from __future__ import annotations

import hashlib
import json
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from vae_compat.errors import StoppedError, UsageError
from vae_compat.front.run import workers
from vae_compat.front.run.running import header_of
from vae_compat.front.run.session import Item, Run
from vae_compat.front.selection.cases import left_out_of
from vae_compat.front.selection.options import Options
from vae_compat.front.selection.subjects import facts_to_json, restored
from vae_compat.front.selection.validation import validate
from vae_compat.measure.sealing import Seal
from vae_compat.reports.pictures.exhibit import clear
from vae_compat.reports.results import jsonable


@dataclass
class Judge:
    """Answers requests: which tests there are, and what they find.

    ``folder`` is shared by judges that work for the same tests: what one has found out the others
    read. ``key`` is theirs alone, so that no hook can forge it. ``controller`` is the process that
    they work for. ``scratch`` is a path for reports of which none are written; without one,
    pictures are kept where the options say.
    """

    folder: Path
    key: bytes
    controller: int
    scratch: Path | None
    began: float = 0.0
    """When the session did that they work for, before any hook was loaded, in seconds since the
    epoch: what is in a cache since then is not read."""

    def __post_init__(self) -> None:
        self._runs: dict[str, _Asked] = {}
        self._last: Run | None = None

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to a request: for ``options`` the tests, with ``hook`` and ``case`` records.

        ``refused`` holds a sentence about wrong use, ``broken`` how the harness failed.
        """
        try:
            asked = self._asked(request["options"])
            if "case" not in request:
                return asked.described
            return {"records": self._records(asked, request["hook"], request["case"])}
        except UsageError as error:
            return {"refused": str(error)}
        except StoppedError as error:
            return {"broken": str(error)}
        except Exception:
            return {"broken": traceback.format_exc()}

    def _asked(self, told: str) -> _Asked:
        """The run of some options, prepared when it is first asked for."""
        if told not in self._runs:
            options = Options.from_json(told)
            if self.scratch is not None:
                options = replace(options, out=self.scratch)
            folder = self.folder / hashlib.sha256(told.encode()).hexdigest()[:16]
            facts = self._shared(folder / "facts", lambda: facts_to_json(validate(options)))
            given = workers.Given(
                folder=str(folder),
                controller=self.controller,
                key=self.key.hex(),
                began=self.began,
                options=options.to_json(),
                facts=facts,
                finished=[],
            )
            hooks = restored(options, facts)
            asked = _Asked(workers.join(given), left_out_of(hooks, options))
            if self.scratch is None:
                self._shared(folder / "cleared", lambda: _cleared(options.out))
                asked.described["header"] = jsonable(asdict(header_of(options, hooks)))
            self._runs[told] = asked
        return self._runs[told]

    def _records(self, asked: _Asked, hook: str, case: str) -> dict[str, Any]:
        """What every check of a case finds, by its name; the case is run once for all judges."""
        run = asked.run
        if self._last is not None and self._last is not run:
            self._last.rest()
        self._last = run
        file = run.folder / "records" / hashlib.sha256(f"{hook}:{case}".encode()).hexdigest()[:32]
        pictured, items = self.scratch is None, asked.items[hook, case]
        text = self._shared(file, lambda: json.dumps(_found(run, items, pictured=pictured)))
        found: dict[str, Any] = json.loads(text)
        return found

    def _shared(self, file: Path, make: Callable[[], str]) -> str:
        """A text that the first judge makes, and that the others read."""
        file.parent.mkdir(parents=True, exist_ok=True)
        seal, name = Seal(self.key), f"{file.relative_to(self.folder)}\n"
        with FileLock(f"{file}.lock"):
            with suppress(FileNotFoundError):
                known = seal.opened(file.read_bytes())
                if known is not None and known.startswith(name.encode()):
                    return known.decode().removeprefix(name)
            text = make()
            draft = file.with_name(f"{file.name}.draft")
            draft.write_bytes(seal.on(f"{name}{text}".encode()))
            draft.replace(file)
        return text


class _Asked:
    """A run, and its tests by hook and case."""

    def __init__(self, run: Run, left_out: tuple[str, ...]) -> None:
        self.run = run
        self.items: dict[tuple[str, str], list[Item]] = {}
        for item in run.all_items():
            self.items.setdefault((item.subject, item.case.id), []).append(item)
        self.described: dict[str, Any] = {
            "items": [
                [item.subject, item.case.id, item.check, item.known and item.known.reason]
                for some in self.items.values()
                for item in some
            ],
            "left_out": left_out,
        }


def _found(run: Run, items: list[Item], *, pictured: bool) -> dict[str, dict[str, Any]]:
    """The record of each check, and the traceback where the harness failed."""
    found: dict[str, dict[str, Any]] = {}
    for item in items:
        told: dict[str, Any] = {}
        try:
            record = run.judged(item)
            if pictured:
                with suppress(Exception):  # a picture decides nothing
                    run.album.consider(record, run.observe(item))
        except Exception:
            told["broken"] = traceback.format_exc()
            record = run.unjudged(item.subject, item.case.id, item.check, told["broken"])
        found[item.check] = told | {"record": jsonable(asdict(record))}
    return found


def _cleared(folder: Path) -> str:
    """Remove the pictures of an earlier session."""
    with suppress(OSError):  # then new ones cannot be written either
        clear(folder)
    return ""
