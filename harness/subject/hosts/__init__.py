"""Stand-ins for the programs that hooks are written for, so that their files load outside."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from vae_compat.errors import UsageError
from vae_compat.subject.hosts import a1111
from vae_compat.subject.hosts import comfyui as comfyui_stand_ins
from vae_compat.subject.profile import HOSTS

_STAND_INS: Mapping[str, Any] = {"comfyui": comfyui_stand_ins, "a1111": a1111}


def host_of(module: str) -> str | None:
    """The host whose program has a top-level module of this name."""
    return next((name for name, host in _STAND_INS.items() if module in host.ROOTS), None)


class Host:
    """A host program's modules, importable while a context is open.

    Without a checkout they are stand-ins, built anew each time. With ``comfyui=PATH`` they are the
    real ones; a device's copy is kept for the next time, since importing them takes seconds.
    """

    def __init__(self, name: str | None, comfyui: Path | None = None) -> None:
        if name is None and comfyui is not None:
            name = "comfyui"
        if name is not None and name not in HOSTS:
            raise UsageError(
                f"there are no stand-ins for the host {name!r}; known hosts: {', '.join(HOSTS)}."
            )
        self.name = name
        self.checkout = None if comfyui is None else _checked(comfyui)
        self._kept: dict[str, dict[str, ModuleType]] = {}

    def root_of(self, file: Path) -> Path:
        """The folder on the search path from which the host loads a file.

        The web UI loads ``scripts`` of an extension with the extension's own folder.
        """
        scripts = self.name == "a1111" and file.parent.name == "scripts"
        return file.parent.parent if scripts else file.parent

    @contextmanager
    def modules(
        self, device: torch.device, dtype: torch.dtype = torch.float32
    ) -> Iterator[Mapping[str, ModuleType]]:
        """Modules of the host for a device; what was there before comes back afterwards."""
        if self.name is None:
            yield {}
        elif self.checkout is None:
            with _stand_ins(self.name, device, dtype) as modules:
                yield modules
        else:
            with self._real(self.checkout, device) as modules:
                yield modules

    @contextmanager
    def _real(self, checkout: Path, device: torch.device) -> Iterator[Mapping[str, ModuleType]]:
        kept = self._kept.setdefault(str(device), {})
        path = str(checkout)
        hidden = _take_out(comfyui_stand_ins.ROOTS)
        before = set(sys.modules)
        sys.modules.update(kept)
        sys.path.insert(0, path)
        try:
            _choose_device(device)
            yield kept
        finally:
            if path in sys.path:
                sys.path.remove(path)
            mine = [n for n, m in sys.modules.items() if n not in before and _lies_in(m, checkout)]
            kept.update({name: sys.modules.pop(name) for name in mine})
            sys.modules.update(hidden)


@contextmanager
def host_modules(
    name: str | None,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    *,
    comfyui: Path | None = None,
) -> Iterator[Mapping[str, ModuleType]]:
    """``Host(name, comfyui).modules(device, dtype)``, for a single use."""
    with Host(name, comfyui).modules(device, dtype) as modules:
        yield modules


class _Refuser:
    """Answers imports below a stand-in that it does not have."""

    def __init__(self, host: str) -> None:
        self._host = host

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        del path, target
        if name.partition(".")[0] in _STAND_INS[self._host].ROOTS:
            hint = "; use --comfyui PATH to import it from a ComfyUI checkout"
            raise ModuleNotFoundError(
                f"the {self._host} stand-ins have no module {name!r}"
                f"{hint if self._host == 'comfyui' else ''}",
                name=name,
            )
        return None


@contextmanager
def _stand_ins(
    host: str, device: torch.device, dtype: torch.dtype
) -> Iterator[Mapping[str, ModuleType]]:
    modules, roots = _STAND_INS[host].build(device, dtype), _STAND_INS[host].ROOTS
    hidden = _take_out(roots)
    refuser = _Refuser(host)
    sys.modules.update(modules)
    sys.meta_path.insert(0, refuser)
    try:
        yield modules
    finally:
        sys.meta_path.remove(refuser)
        _take_out(roots)
        sys.modules.update(hidden)


def _take_out(roots: Sequence[str]) -> dict[str, ModuleType]:
    names = [name for name in sys.modules if name.partition(".")[0] in roots]
    return {name: sys.modules.pop(name) for name in names}


def _checked(comfyui: Path) -> Path:
    if not (comfyui / "comfy").is_dir():
        raise UsageError(
            f"{comfyui} is no ComfyUI checkout (it has no folder 'comfy'); "
            f"give the folder that holds ComfyUI's main.py."
        )
    return comfyui.resolve()


def _lies_in(module: ModuleType, folder: Path) -> bool:
    places = [getattr(module, "__file__", None), *(getattr(module, "__path__", None) or ())]
    return any(
        place and Path(place).is_relative_to(folder) and "site-packages" not in Path(place).parts
        for place in places
    )


def _choose_device(device: torch.device) -> None:
    """Tell a real ComfyUI to stay on the CPU: it decides when model_management is imported."""
    try:
        options = importlib.import_module("comfy.cli_args")
    except ModuleNotFoundError:  # an older layout, or no part of the checkout
        return
    options.args.cpu = device.type == "cpu"
