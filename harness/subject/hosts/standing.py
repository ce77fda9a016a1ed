"""What the stand-ins of all hosts are made of."""

from __future__ import annotations

from types import ModuleType
from typing import Any


class StandInError(AttributeError):
    """A stand-in was asked for something that it does not have."""


def stand_in(name: str, host: str, hint: str = "", **names: Any) -> ModuleType:
    """A module of a host with these names; it refuses all others by an error that says so."""
    module = ModuleType(name, f"Stand-in for {host}'s {name}.")

    def missing(attribute: str) -> Any:
        raise StandInError(f"the stand-in for {host}'s {name!r} has no {attribute!r}{hint}")

    vars(module).update(names, __package__=name.rpartition(".")[0] or name, __getattr__=missing)
    return module


def packaged(*modules: ModuleType) -> dict[str, ModuleType]:
    """The modules by name, each an attribute of the one above it, which is a package."""
    found = {module.__name__: module for module in modules}
    for name, module in found.items():
        package, _, last = name.rpartition(".")
        if package:
            vars(found[package])[last] = module
            found[package].__path__ = []
    return found
