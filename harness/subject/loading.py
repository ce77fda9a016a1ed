"""Load a hook's entry from a file or a module, as often as a case needs it."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import torch

from vae_compat.errors import UsageError
from vae_compat.subject.guard import ImportsFolder, guarded, silenced
from vae_compat.subject.hook import Hook
from vae_compat.subject.hosts import Host, host_of
from vae_compat.subject.hosts.standing import StandInError
from vae_compat.subject.messages import HookFacts
from vae_compat.subject.profile import Profile

_SYNTHETIC = "_vae_compat_subject"


class Entry:
    """``FILE_OR_MODULE:ATTRIBUTE``, which can be loaded again and again.

    A file is executed anew each time, so that a hook which asks its host for the device at import
    time gets that of the case, and no state of one case reaches the next. Its package's
    ``__init__.py`` is not executed: the file becomes a submodule of an empty package with the same
    search path, in which relative imports work.
    """

    def __init__(self, entry: str, folder: Path, host: Host) -> None:
        target, colon, self.attribute = entry.rpartition(":")
        if not colon or not target or not self.attribute:
            raise UsageError(
                f"the hook {entry!r} is not of the form FILE_OR_MODULE:ATTRIBUTE; "
                f"write for instance tiled_vae.py:VAEHook."
            )
        self.host = host
        self.folder = folder
        self.target = target
        self.file = _file_of(target, folder)
        self._code: CodeType | None = None

    def __str__(self) -> str:
        return str(self.file or self.target)

    @contextmanager
    def loaded(
        self, device: torch.device, dtype: torch.dtype = torch.float32, *, quietly: bool = False
    ) -> Iterator[Any]:
        """The entry's attribute, with all that it needs importable while the context is open.

        Raises ``UsageError`` where it cannot be loaded.
        """
        with guarded(), self.host.modules(device, dtype), ImportsFolder() as folder:
            before = set(sys.modules)
            root = self.folder if self.file is None else self.host.root_of(self.file)
            added = str(root) not in sys.path
            if added:
                sys.path.append(str(root))
            try:
                if quietly:
                    with silenced():
                        found = self._attribute(self._module())
                else:
                    found = self._attribute(self._module())
                folder.settled()
                yield found
            finally:
                for name in set(sys.modules) - before:
                    if self._is_own(name, root if added else None):
                        del sys.modules[name]

    def _is_own(self, name: str, root: Path | None) -> bool:
        top = name.partition(".")[0]
        if top.startswith(_SYNTHETIC):
            return True
        if self.file is None:  # a module without a host has nothing to be loaded anew for
            return self.host.name is not None and top == self.target.partition(".")[0]
        module = sys.modules.get(top)
        # A folder without __init__.py is a package that has a path alone.
        places = [getattr(module, "__file__", None), *(getattr(module, "__path__", None) or ())]
        return root is not None and any(
            place is not None and root in list(Path(place).parents)[:2] for place in places
        )

    def _module(self) -> ModuleType:
        try:
            return self._imported() if self.file is None else self._executed(self.file)
        except (UsageError, KeyboardInterrupt):
            raise
        except SyntaxError as error:
            where = f"{error.filename}:{error.lineno}"
            raise UsageError(f"{self} is not valid Python: {error.msg} ({where}).") from error
        except ImportError as error:
            raise UsageError(self._missing(error)) from error
        except StandInError as error:
            raise UsageError(f"{self} cannot be loaded: {error}.") from error
        except BaseException as error:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            raise UsageError(
                f"{self} cannot be loaded: importing it raised {type(error).__name__}: "
                f"{error} ({frame.filename}:{frame.lineno})."
            ) from error

    def _missing(self, error: ImportError) -> str:
        name = error.name or ""
        top = name.partition(".")[0]
        if self.file is None and name and (self.target + ".").startswith(name + "."):
            return (
                f"there is no module {self.target!r}; give a module that can be imported here, "
                f"or a file with its .py ending."
            )
        program = host_of(top)
        if program is not None and self.host.name is None:
            return f"{self} imports {name!r}, which is not installed; add --host {program}."
        if program is not None and self.host.checkout is None:
            message = str(error)
            if program == "comfyui" and "--comfyui" not in message:
                message += "; the comfyui stand-ins lack it: use --comfyui PATH"
            return f"{self} cannot be loaded: {message}."
        if isinstance(error, ModuleNotFoundError) and name:
            told = f"{self} imports {name!r}, which is not installed; install it"
            if self.host.name is not None:
                return f"{told}."
            return f"{told}, or name the program that the hook is written for with --host."
        return f"{self} cannot be loaded: {error}."

    def _imported(self) -> ModuleType:
        return importlib.import_module(self.target)

    def _executed(self, file: Path) -> ModuleType:
        if self._code is None:
            self._code = compile(file.read_bytes(), str(file), "exec", dont_inherit=True)
        package = _synthetic_package(file.parent)
        search = [str(file.parent)] if file.name == "__init__.py" else None
        spec = importlib.util.spec_from_file_location(
            f"{package}.{file.stem.strip('_') or 'entry'}", file, submodule_search_locations=search
        )
        assert spec is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        exec(self._code, vars(module))
        return sys.modules.get(spec.name, module)

    def _attribute(self, module: ModuleType) -> Any:
        found: Any = module
        for part in self.attribute.split("."):
            names = [name for name in dir(found) if not name.startswith("_")]
            try:
                found = getattr(found, part)
            except AttributeError:
                close = get_close_matches(part, names, n=3, cutoff=0.5)
                hint = f"did you mean {' or '.join(close)}?" if close else "check the name."
                raise UsageError(f"{self} has no attribute {part!r}; {hint}") from None
        return found


def load_hook(profile: Profile, *, comfyui: Path | None = None) -> Hook:
    """The hook that a profile describes, loaded once to see that it can be and what it takes.

    With ``comfyui`` the host's modules come from that checkout. Raises ``UsageError`` for a
    missing file or attribute, for what fails on import, and for an entry that cannot be called
    with the keywords of the contract.

    Only a runner does so: what the import does to its process stays there.
    """
    host = Host(profile.hook.host, comfyui)
    entry = Entry(profile.hook.entry, profile.folder, host)
    with entry.loaded(torch.device("cpu"), quietly=True) as found:
        return Hook.of(profile.hook, entry, found)


def facts_of(hook: Hook) -> HookFacts:
    """What is told of a hook to those who never load it."""
    file = getattr(hook.source, "file", None)
    return HookFacts(
        modes=hook.offered_modes(),
        apart=hook.apart,
        file=None if file is None else str(file),
        parameters=hook.signature.parameters,
    )


def _file_of(target: str, folder: Path) -> Path | None:
    """The file that a target names, or ``None`` for a dotted module name."""
    path = folder / Path(target).expanduser()
    try:
        path.stat()
    except FileNotFoundError:
        pass
    except OSError as error:  # a name that is too long for any file, a folder that is closed
        told = f"{str(path)[:80]}…" if len(str(path)) > 80 else str(path)
        raise UsageError(f"{told} cannot be read: {error.strerror}; check the path.") from None
    if path.is_dir() and (path / "__init__.py").is_file():
        return (path / "__init__.py").resolve()
    if path.is_file():
        return path.resolve()
    looks_like_file = target.endswith(".py") or "/" in target or "\\" in target
    if not looks_like_file and all(part.isidentifier() for part in target.split(".")):
        return None
    raise UsageError(
        f"there is no file {path}; check the path (it is relative to {folder})."
        if not path.is_dir()
        else f"{path} is a folder without __init__.py; give the file in it that holds the hook."
    )


def _synthetic_package(folder: Path) -> str:
    """Register empty packages for a folder and the package folders above it; returns the name.

    One more level than there are packages, so that ``from .. import`` works in loose folders too.
    """
    folders = [folder]
    while (folders[0] / "__init__.py").is_file() and folders[0].parent != folders[0]:
        folders.insert(0, folders[0].parent)
    if len(folders) == 1:
        folders.insert(0, folder.parent)
    name = f"{_SYNTHETIC}_{uuid.uuid4().hex[:8]}"
    for level, place in enumerate(folders):
        if level:
            name = f"{name}.{place.name}"
        package = ModuleType(name)
        package.__path__ = [str(place)]
        package.__package__ = name
        sys.modules[name] = package
    return name
