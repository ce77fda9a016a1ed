"""VAEs, views of them and inputs: made once, kept while needed, their weights handed on."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from vae_compat.contracts.cases import Case, Layout, Scale
from vae_compat.contracts.coders import LayoutVAE
from vae_compat.families import Family
from vae_compat.importing import imported
from vae_compat.measure.sealing import SealedMemory

KEPT = 24
"""Small VAEs kept for later cases, of 4 MB each: the mocks in all dtypes."""

Key = tuple[str, ...]
K = TypeVar("K")
T = TypeVar("T")


class Supplies(Protocol):
    """Where VAEs, views of them and inputs come from."""

    def build(self, case: Case) -> nn.Module:
        """The VAE of a case, float32, on the plain CPU."""
        ...

    def truth(self, vae: nn.Module) -> nn.Module:
        """Its float64 twin."""
        ...

    def views(self, vae: nn.Module, layout: Layout, family: Family) -> Sequence[LayoutVAE]:
        """The VAE seen through a layout, in every variant of it that the field has.

        Cases run on the first; the others are called in their own ways for the call contract. Each
        is made when it is first looked at.
        """
        ...

    def make_input(self, case: Case) -> Tensor:
        """What the direction of the case is given, in its dtype, on the plain CPU."""
        ...

    def shapes(self, case: Case) -> nn.Module:
        """The VAE of a case in its dtype, to be made under a ``FakeTensorMode``."""
        ...


def key_of(case: Case) -> str:
    """What the weights of a case depend on, beside the seed."""
    return "-".join(filter(None, (case.family, case.scale, case.mechanism)))


class Models:
    """The VAEs of cases: a few small ones, or one large one."""

    def __init__(self, supplies: Supplies, files: ModelFiles | None = None) -> None:
        """With ``files``, VAEs are built from files, and get fresh weights after each `age`."""
        self._supplies = supplies
        self._files = files
        self._build = supplies.build if files is None else files.build
        self._vaes: OrderedDict[Key, nn.Module] = OrderedDict()
        self._aged: set[Key] = set()
        self._twins: OrderedDict[Key, nn.Module] = OrderedDict()
        self._seen: OrderedDict[tuple[nn.Module, Layout], Sequence[LayoutVAE]] = OrderedDict()

    def make_input(self, case: Case) -> Tensor:
        """What the direction of a case is given, on the plain CPU."""
        return self._supplies.make_input(case)

    def shapes(self, case: Case) -> LayoutVAE:
        """The VAE of a case without data, in its layout: under a ``FakeTensorMode``, not kept."""
        return self._supplies.views(self._supplies.shapes(case), case.layout, case.facts)[0]

    def view(self, case: Case) -> LayoutVAE:
        """The VAE of a case in its layout, on the plain CPU."""
        return self.views(case)[0]

    def twin(self, case: Case) -> LayoutVAE:
        """Its float64 twin in the same layout."""
        return self.twins(case)[0]

    def views(self, case: Case) -> Sequence[LayoutVAE]:
        """The VAE of a case in every variant of its layout."""
        return self._views(self.vae(case), case)

    def twins(self, case: Case) -> Sequence[LayoutVAE]:
        """The float64 twins of ``views``."""
        return self._views(self.truth(case), case)

    def _views(self, vae: nn.Module, case: Case) -> Sequence[LayoutVAE]:
        """Views are kept as VAEs are, but not where hooks are put on them."""
        if case.scale is Scale.REAL or self._files is not None:
            return self._supplies.views(vae, case.layout, case.facts)
        key = vae, case.layout
        views = self._seen.pop(key, None)
        if views is None:
            views = self._supplies.views(vae, case.layout, case.facts)
        _keep(self._seen, key, views)
        return views

    def truth(self, case: Case) -> nn.Module:
        """The float64 twin of the VAE of a case; small ones are kept.

        Call it while the VAE is on the plain CPU, because a copy is made where the VAE is.
        """
        key = _key(case)
        twin = self._twins.pop(key, None)
        if twin is None:
            if case.scale is Scale.REAL:  # never two of them
                self._twins.clear()
            twin = self._supplies.truth(self.vae(case))
        _keep(self._twins, key, twin)
        return twin

    def vae(self, case: Case) -> nn.Module:
        """The VAE of a case in its dtype, on the plain CPU."""
        key = _key(case)
        vae = self._vaes.pop(key, None)
        if vae is not None and key in self._aged and self._files is not None:
            self._aged.discard(key)
            vae = vae if self._files.refresh(vae, case) else None
        if vae is None:
            if case.scale is Scale.REAL:  # gigabytes: never two of them
                self._vaes.clear()
            vae = self._build(case).to(getattr(torch, case.dtype))
            if case.scale is not Scale.REAL:
                _tell_training(vae)
        _keep(self._vaes, key, vae)
        return vae

    def age(self) -> None:
        """The kept VAEs were used with a hook: their weights are no longer trusted."""
        self._aged = set(self._vaes)
        self._twins.clear()

    def forget(self) -> None:
        """Drop everything."""
        self._vaes.clear()
        self._twins.clear()
        self._seen.clear()


def _key(case: Case) -> Key:
    return key_of(case), case.dtype


def _keep(kept: OrderedDict[K, T], key: K, value: T) -> None:
    """Put a value last, and let go of what was not asked for in a long time."""
    kept[key] = value
    while len(kept) > KEPT:
        kept.popitem(last=False)


def _tell_training(vae: nn.Module) -> None:
    """Give dropouts a rate, which published VAEs do not have: whatever trains draws other results.

    In evaluation a dropout does nothing at any rate.
    """
    for part in vae.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.9


class Weights:
    """Weights of VAEs as safetensors in memory that runners can read and nobody can change.

    They come with all that is needed to build the modules again.
    """

    def __init__(self, serialize: Callable[[Case], bytes]) -> None:
        self._serialize = serialize
        self._sealed: OrderedDict[str, SealedMemory] = OrderedDict()

    def of(self, cases: Iterable[Case]) -> Mapping[str, str]:
        """Where the weights of the VAEs of cases, float32, can be read until the next call."""
        cases = tuple(cases)
        most = len(cases) if any(case.scale is Scale.REAL for case in cases) else KEPT
        for case in cases:
            key = key_of(case)
            known = self._sealed.pop(key, None)
            self._sealed[key] = known or SealedMemory(self._serialize(case))
        while len(self._sealed) > max(most, len(cases)):
            self._sealed.popitem(last=False)
        return {key_of(case): str(self._sealed[key_of(case)].path) for case in cases}


def serialized(vae: nn.Module) -> bytes:
    """The weights of one of diffusers' VAEs as safetensors, with its class and configuration."""
    known: Any = vae.config
    config = {name: value for name, value in known.items() if not name.startswith("_")}
    facts = {"class": type(vae).__name__, "config": json.dumps(config, default=list)}
    return save({name: tensor.contiguous() for name, tensor in vae.state_dict().items()}, facts)


class ModelFiles:
    """Builds VAEs from files, and gives them fresh weights.

    The files are mapped privately and copied, so nothing that a hook does to weights reaches them.
    """

    def __init__(self) -> None:
        self.paths: Mapping[str, str] = {}
        """Files of weights by `key_of`."""

    def build(self, case: Case) -> nn.Module:
        """The VAE of a case, float32, on the plain CPU."""
        facts, weights = self._read(case)
        with torch.device("meta"):
            model_class = getattr(imported("diffusers"), facts["class"])
            vae: nn.Module = model_class.from_config(json.loads(facts["config"]))
        vae.load_state_dict(weights, assign=True)
        return vae.eval().requires_grad_(False)

    def refresh(self, vae: nn.Module, case: Case) -> bool:
        """Put the weights of the file into a VAE again; whether they fit.

        Each parameter gets new memory, so that whatever still refers to the old memory is
        unaffected.
        """
        weights = self._read(case)[1]
        held = {**dict(vae.named_parameters()), **dict(vae.named_buffers())}
        if held.keys() != weights.keys():
            return False
        for name, tensor in held.items():
            tensor.data = weights[name].to(tensor.dtype)
        return True

    def _read(self, case: Case) -> tuple[Mapping[str, str], dict[str, Tensor]]:
        with safe_open(self.paths[key_of(case)], framework="pt") as opened:
            names = list(opened.keys())
            return opened.metadata(), {name: opened.get_tensor(name).clone() for name in names}
