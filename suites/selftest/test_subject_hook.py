"""A hook of each kind is put on, called with its keywords and taken off, and residue is found."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vae_compat.contracts.cases import (
    TIME_TILES,
    Case,
    Direction,
    Layout,
    Mechanism,
    Mode,
    Scale,
    TimeTiles,
)
from vae_compat.errors import UsageError
from vae_compat.families import FAMILIES
from vae_compat.fixtures.layouts import view as view_of
from vae_compat.fixtures.vaes import build
from vae_compat.subject.hook import Hook, ModeNotOffered
from vae_compat.subject.loading import load_hook
from vae_compat.subject.profile import HookSpec, Kind, Profile, load_embedded
from vae_compat.subject.settings import KEYWORDS, NAMED
from vae_compat.subject.state import snapshot, snapshot_of

CASE = Case(
    "sd", Scale.MOCK, Layout.LDM, Direction.DECODE, Mode.EXACT, 40, 40, tile=16, device="cpu"
)
DECODE, ENCODE = Direction.DECODE, Direction.ENCODE


class Coder(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 1)
        self.factor = factor

    def forward(self, x: Tensor, feat_cache: Any = None, feat_idx: Any = None) -> Tensor:
        del feat_cache, feat_idx
        return x * self.factor


class VAE(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = Coder(0.5), Coder(2.0)


@dataclass
class View:
    vae: Any
    layout: str = "ldm"
    ratio: int = 8
    arguments: tuple[Any, ...] = ()

    @property
    def encoder(self) -> nn.Module:
        return self.vae.encoder

    @property
    def decoder(self) -> nn.Module:
        return self.vae.decoder

    def run(self, direction: Direction, x: Tensor) -> Tensor:
        coder = self.decoder if direction is DECODE else self.encoder
        return coder(x, *self.arguments) + 1

    def conventions(self, direction: Direction) -> tuple[Any, ...]:
        raise NotImplementedError

    def coder_input(self, direction: Direction, x: Tensor) -> Tensor:
        raise NotImplementedError


class Source:
    def __init__(self, found: Any) -> None:
        self.found, self.devices = found, []

    @contextmanager
    def loaded(self, device: torch.device, dtype: torch.dtype = torch.float32) -> Iterator[Any]:
        assert dtype is torch.float32
        self.devices.append(str(device))
        yield self.found


def hook_of(entry: Any, kind: str = "forward") -> Hook:
    return Hook.of(HookSpec("mine", "mine.py:entry", Kind(kind), Layout.LDM), Source(entry), entry)


@pytest.fixture
def view() -> View:
    return View(VAE())


def settings_seen(entry_of: Any, case: Case, kind: str = "forward") -> dict[str, Any]:
    seen: dict[str, Any] = {}
    with hook_of(entry_of(seen), kind).put_on(View(VAE()), case) as run:
        if kind == "function":
            run(case.direction, torch.ones(1))
    return seen


def taking_all(seen: dict[str, Any]) -> Any:
    def entry(*_args: Any, **settings: Any) -> Any:
        seen.update(settings)
        return lambda *_: None

    return entry


@pytest.mark.parametrize("direction", Direction)
def test_by_default_a_hook_is_still_told_what_to_do(direction: Direction) -> None:
    seen: dict[str, Any] = {}

    def entry(
        net: Any, tile_size: int = 512, is_decoder: bool = True, use_quadtree: bool = False
    ) -> Any:
        seen.update(tile=tile_size, decoder=is_decoder, quadtree=use_quadtree)
        return net.original_forward

    case = replace(CASE, direction=direction, mode=Mode.QUADTREE)
    with hook_of(entry).by_default().put_on(View(VAE()), case):
        assert seen == {"tile": 512, "decoder": direction is DECODE, "quadtree": True}


def test_a_default_stays_only_where_all_that_must_fit_it_has_one() -> None:
    seen: dict[str, Any] = {}

    def entry(
        vae: Any,
        x: Any,
        direction: str,
        tile_size: int,
        tile_stride: int = 100,
        temporal_overlap: int = 4,
    ) -> Any:
        seen.update(size=tile_size, stride=tile_stride, frames=temporal_overlap)

    with hook_of(entry, "function").by_default().put_on(View(VAE()), CASE) as run:
        run(DECODE, torch.ones(1))
    assert seen == {"size": 128, "stride": 96, "frames": 4}


def test_a_forward_hook_takes_the_coders_place_and_may_call_the_original(view: View) -> None:
    class Tiler:
        def __init__(self, net: nn.Module, tile_size: int) -> None:
            self.net, self.tile_size = net, tile_size

        def __call__(self, x: Tensor, *more: Any) -> Tensor:
            assert self.net.forward is self
            return self.net.original_forward(x, *more) * self.tile_size

    with hook_of(Tiler).put_on(view, CASE) as run:
        assert run(DECODE, torch.ones(1, 1, 2, 2)).eq(2 * 16 + 1).all()
        assert run.phase == "run"
        view.arguments = (None, [0])
        run(DECODE, torch.ones(1, 1, 2, 2))
    assert view.run(DECODE, torch.ones(1)).item() == 3
    assert "forward" not in vars(view.decoder)
    assert not hasattr(view.decoder, "original_forward")
    assert [(c.coder, c.original, c.shape) for c in run.calls[:2]] == [
        ("decoder", False, (1, 1, 2, 2)),
        ("decoder", True, (1, 1, 2, 2)),
    ]
    assert run.calls[2].arguments == {"feat_cache": "None", "feat_idx": "[0]"}
    assert run.residue == ()


def test_what_was_before_may_be_known_already(view: View) -> None:
    def leaving(net: nn.Module) -> Any:
        view.vae.left = 1
        return net.original_forward

    before = snapshot_of(view)
    view.vae.known = 0
    fitting = hook_of(leaving).put_on(view, CASE, expected=(), before=before)
    with fitting:
        assert not fitting.restored
    assert fitting.restored
    assert fitting.residue == ("known was added", "left was added")
    assert not hasattr(view.vae, "left")
    assert not hasattr(view.vae, "known")


@pytest.mark.parametrize("calls", ["the class", "what the coder had"])
def test_a_hook_may_take_the_place_of_a_forward_in_the_class(view: View, calls: str) -> None:
    def entry(vae: Any, tile_size: int) -> Any:
        kind, had = type(vae.decoder), vae.decoder.forward

        def forward(coder: nn.Module, x: Tensor, *more: Any) -> Tensor:
            result: Tensor = had(x) if calls == "what the coder had" else kind.forward(coder, x)
            return result * tile_size

        vae.decoder.__class__ = type("Tiled", (kind,), {"forward": forward})
        return lambda: setattr(vae.decoder, "__class__", kind)

    with hook_of(entry, "vae").put_on(view, CASE) as run:
        for _ in range(2):
            made = run(DECODE, torch.ones(1, 1, 2, 2))
            assert made.eq(made[0, 0, 0, 0]).all()
            assert made.max() > 16
    assert [call.original for call in run.calls] == (
        [False] * 2 if calls == "the class" else [False, True] * 2
    )
    assert view.run(DECODE, torch.ones(1)).item() == 3
    assert run.residue == ()


def test_the_original_forward_keeps_its_signature(view: View) -> None:
    def entry(net: nn.Module) -> Any:
        assert list(inspect.signature(net.original_forward).parameters) == [
            "x",
            "feat_cache",
            "feat_idx",
        ]
        assert net.original_forward.__self__ is net
        return net.original_forward

    with hook_of(entry).put_on(view, CASE) as run:
        run(DECODE, torch.ones(1))
    assert [call.original for call in run.calls] == [True]


def test_a_hook_that_is_a_module_is_on_and_is_no_submodule(view: View) -> None:
    class Tiler(nn.Module):
        def __init__(self, net: nn.Module) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor) -> Tensor:
            return self.net.original_forward(x) * 10

    names = set(view.vae.state_dict())
    with hook_of(Tiler).put_on(view, CASE) as run:
        assert run(DECODE, torch.ones(1)).item() == 21
        assert set(view.vae.state_dict()) == names
    assert dict(view.decoder.named_children()).keys() == {"conv"}
    assert view.run(DECODE, torch.ones(1)).item() == 3


def test_a_forward_that_was_there_before_comes_back(view: View) -> None:
    mine = lambda x: x * 7  # noqa: E731
    view.decoder.forward = mine
    with hook_of(lambda net: net.original_forward).put_on(view, CASE) as run:
        assert run(DECODE, torch.ones(1)).item() == 8
    assert vars(view.decoder)["forward"] is mine


@pytest.mark.parametrize("kind", ["forward", "vae", "function"])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("phase", ["put_on", "run"])
def test_exceptions_come_out_and_the_vae_is_as_before(
    view: View, kind: str, error: type[BaseException], phase: str
) -> None:
    def vandalise(coder: Any) -> None:
        coder.leftover = [1]
        coder.factor = 99.0
        coder.eval()

    def raising(*_args: Any, **_kwargs: Any) -> Any:
        vandalise(view.decoder)
        raise error("stop")

    def entry(net: Any, tile_size: int) -> Any:
        del tile_size
        if kind == "function" or phase == "put_on":
            raising()
        if kind == "vae":
            net.decoder.forward = raising
        return raising

    def function(vae: Any, x: Tensor, direction: str) -> Any:
        raising(vae, x, direction)

    fitting = hook_of(function if kind == "function" else entry, kind).put_on(view, CASE)
    before = snapshot(view.vae)
    with pytest.raises(error, match="stop"), fitting as run:
        run(DECODE, torch.ones(1))
    assert before.differences() == ()
    assert fitting.phase == ("run" if kind == "function" else phase)
    assert "decoder.leftover was added" in fitting.residue
    assert "decoder.factor was changed from 2.0 to 99.0" in fitting.residue
    assert fitting.beyond_repair == ()


def test_a_vae_hook_is_undone_by_its_function_or_context(view: View) -> None:
    done = []

    def by_function(vae: Any, *, tile_size: int) -> Any:
        old = vae.decoder.forward
        vae.decoder.forward = lambda x: old(x) * tile_size

        def undo() -> None:
            vae.decoder.forward = old
            done.append("undo")

        return undo

    @contextmanager
    def by_context(vae: Any, *, tile_size: int) -> Iterator[None]:
        undo = by_function(vae, tile_size=tile_size)
        yield
        undo()

    for entry in (by_function, by_context):
        with hook_of(entry, "vae").put_on(view, CASE) as run:
            assert run(DECODE, torch.ones(1)).item() == 2 * 128 + 1
        assert [c.original for c in run.calls] == [False, True]
        assert run.residue == ()
        assert vars(view.decoder).keys().isdisjoint({"forward"})
    assert done == ["undo", "undo"]


def test_a_vae_hook_without_undo_is_told_so(view: View) -> None:
    fitting = hook_of(lambda _vae: None, "vae").put_on(view, CASE)
    with pytest.raises(TypeError, match="mine returned None where an undo belongs"), fitting:
        pass
    assert fitting.phase == "put_on"
    assert vars(view.decoder).keys().isdisjoint({"forward"})


def test_a_vae_hook_that_stays_on_is_seen_and_removed(view: View) -> None:
    def entry(vae: Any) -> Any:
        vae.decoder.forward = lambda x: x
        return lambda: None

    with hook_of(entry, "vae").put_on(view, CASE) as run:
        run(DECODE, torch.ones(1))
    assert run.residue == ("decoder.forward was added",)
    assert view.run(DECODE, torch.ones(1)).item() == 3


def test_an_undo_that_raises_is_a_failure_of_taking_off(view: View) -> None:
    def entry(vae: Any) -> Any:
        vae.decoder.factor = 5.0
        return lambda: 1 / 0

    fitting = hook_of(entry, "vae").put_on(view, CASE)
    with pytest.raises(ZeroDivisionError), fitting:
        pass
    assert fitting.phase == "take_off"
    assert view.decoder.factor == 2.0
    with (
        pytest.raises(ValueError, match="first") as caught,
        hook_of(entry, "vae").put_on(view, CASE),
    ):
        raise ValueError("first")
    assert "ZeroDivisionError" in caught.value.__notes__[0]


def test_a_function_hook_is_given_vae_input_and_direction(view: View) -> None:
    def entry(vae: Any, x: Tensor, direction: str, *, tile_size: int) -> Tensor:
        assert direction == "decode"
        return vae.decoder(x) + tile_size

    with hook_of(entry, "function").put_on(view, CASE) as run:
        assert run(DECODE, torch.ones(1)).item() == 2 + 128
    assert [c.original for c in run.calls] == [True]


def test_forward_hooks_get_sizes_in_units_of_the_direction() -> None:
    decode = settings_seen(taking_all, CASE)
    encode = settings_seen(taking_all, replace(CASE, direction=ENCODE))
    assert decode.keys() == set(KEYWORDS) - NAMED - {"group"}
    assert (decode["tile_size"], encode["tile_size"]) == (16, 128)
    assert (decode["min_tile_size"], encode["min_tile_size"]) == (8, 64)
    assert (decode["is_decoder"], encode["is_decoder"]) == (True, False)
    assert isinstance(decode["net"], Coder)
    assert decode["to_gpu"] is False
    assert settings_seen(taking_all, replace(CASE, device="sim"))["to_gpu"] is True


@pytest.mark.parametrize("kind", ["vae", "function"])
def test_the_other_kinds_get_sizes_in_image_pixels(kind: str) -> None:
    for direction in Direction:
        seen = settings_seen(taking_all, replace(CASE, direction=direction), kind)
        assert seen["tile_size"] == 128
        assert "net" not in seen


@pytest.mark.parametrize(("default", "given"), [(64, 64), (65, 32), (0.25, 0.25), (None, None)])
def test_a_default_overlap_of_more_than_half_a_tile_is_not_left_to_the_hook(
    default: Any, given: Any
) -> None:
    def entry(vae: Any, x: Tensor, direction: Any, tile_overlap: Any = default) -> Tensor:
        del vae, direction
        assert tile_overlap == given
        return x

    with hook_of(entry, "function").put_on(View(VAE()), CASE) as run:
        run(DECODE, torch.ones(1))


def test_a_hook_is_given_keywords_by_the_names_that_its_profile_tells() -> None:
    def entry(vae: Any, x: Tensor, direction: Any, side: int, shared: int) -> Tensor:
        del vae, direction
        return x * 0 + side + shared

    names = {"tile_size": "side", "tile_overlap": "shared"}
    spec = HookSpec("mine", "mine.py:entry", Kind.FUNCTION, Layout.LDM, settings=names)
    with Hook.of(spec, Source(entry), entry).put_on(View(VAE()), CASE) as run:
        assert run(DECODE, torch.ones(1)).item() == 128 + 32
    spec = replace(spec, settings={"max_depth": "levels"})
    with pytest.raises(UsageError, match=r"'max_depth' 'levels'.*it takes side, shared"):
        Hook.of(spec, Source(entry), entry)


def taking_sizes(
    net: Any,
    tile_height: int,
    tile_width: int,
    tile_stride: int,
    temporal_tile_size: int = 9,
    temporal_overlap: int = 5,
) -> Any:
    """What it was given."""
    del net
    given = (tile_height, tile_width, tile_stride, temporal_tile_size, temporal_overlap)
    return lambda x: given


CLIP = replace(CASE, family="qwen", layout=Layout.WAN)


@pytest.mark.parametrize(
    ("case", "time", "given"),
    [
        (CASE, None, (16, 16, 12, 9, 5)),
        (replace(CASE, direction=ENCODE), None, (128, 128, 96, 9, 5)),
        (CLIP, TIME_TILES, (16, 16, 12, 8, 2)),
        (replace(CLIP, direction=ENCODE), TIME_TILES, (128, 128, 96, 32, 8)),
        (replace(CLIP, direction=ENCODE), TimeTiles(4, 1), (128, 128, 96, 16, 4)),
    ],
)
def test_sides_strides_and_time_tiles_are_given_in_units_of_the_direction(
    case: Case, time: TimeTiles | None, given: tuple[int, ...], view: View
) -> None:
    hook = replace(hook_of(taking_sizes), time=time)
    with hook.put_on(view, case) as run:
        coder = view.decoder if case.direction is DECODE else view.encoder
        assert coder.forward(torch.ones(1)) == given
        del run


def test_where_places_alone_differ_tiles_are_not_square(view: View) -> None:
    stub = replace(CASE, scale=Scale.PROBE, mechanism=Mechanism.STUB)
    with hook_of(taking_sizes).put_on(view, stub):
        height, width, stride, *_ = view.decoder.forward(torch.ones(1))
    assert (height, width, stride) == (16, 12, 9)


@pytest.mark.parametrize(
    ("mode", "on"),
    [
        (Mode.EXACT, set()),
        (Mode.FAST, {"fast_decoder", "fast_encoder"}),
        (Mode.COLOR_FIX, {"fast_decoder", "fast_encoder", "color_fix"}),
        (Mode.QUADTREE, {"use_quadtree"}),
    ],
)
def test_a_mode_is_a_set_of_flags(mode: Mode, on: set[str]) -> None:
    seen = settings_seen(taking_all, replace(CASE, mode=mode))
    flags = {"fast_decoder", "fast_encoder", "color_fix", "use_quadtree"}
    assert {flag for flag in flags if seen[flag]} == on


def test_a_mode_without_its_keyword_is_not_offered(view: View) -> None:
    def entry(net: Any, fast_decoder: bool) -> Any:
        raise NotImplementedError(net, fast_decoder)

    hook = hook_of(entry)
    assert hook.offered_modes() == (Mode.EXACT, Mode.FAST)
    with pytest.raises(ModeNotOffered, match=r"'quadtree'.*'use_quadtree'.*mine"):
        hook.put_on(view, replace(CASE, mode=Mode.QUADTREE))
    with pytest.raises(ModeNotOffered, match="'fast_encoder'"):
        hook.put_on(view, replace(CASE, mode=Mode.FAST, direction=ENCODE))


def test_only_what_the_signature_takes_is_given_whatever_its_form(view: View) -> None:
    def only_positional(network: Any, tile_size: int, /, max_depth: int = 9) -> Any:
        assert (tile_size, max_depth) == (16, 9)
        return network.original_forward

    def mixed(tile_size: int, net: Any, *, is_decoder: bool, extra: int = 3) -> Any:
        assert (tile_size, is_decoder, extra) == (16, True, 3)
        return net.original_forward

    for entry in (only_positional, mixed):
        with hook_of(entry).put_on(view, CASE) as run:
            assert run(DECODE, torch.ones(1)).item() == 3


def test_the_entry_is_loaded_for_the_device_of_each_case(view: View) -> None:
    hook = hook_of(lambda net: net.original_forward)
    for device in ("cpu", "sim", "cuda"):
        with hook.put_on(view, replace(CASE, device=device)):
            pass
    assert isinstance(hook.source, Source)
    assert hook.source.devices == ["cpu", "cuda:0", "cuda:0"]


def test_what_an_untiled_run_leaves_too_is_not_held_against_the_hook(view: View) -> None:
    class Caching(Coder):
        def forward(self, x: Tensor, *_: Any) -> Tensor:
            self.last_cache = [x]
            return x

    view.vae.decoder = Caching(1.0)

    def entry(net: Any) -> Any:
        def forward(x: Tensor) -> Tensor:
            net.mine = x
            return net.original_forward(x)

        return forward

    with hook_of(entry).put_on(view, CASE) as run:
        run(DECODE, torch.ones(1))
    assert run.residue == ("decoder.mine was added",)
    assert not hasattr(view.decoder, "last_cache")


def test_a_hook_file_runs_with_the_host_at_hand(tmp_path: Path, view: View) -> None:
    (tmp_path / "hook.py").write_text(
        "import comfy.model_management\n"
        "device = comfy.model_management.get_torch_device()\n"
        "def Hook(net, tile_size):\n"
        "    def forward(x):\n"
        "        import comfy.utils\n"
        "        comfy.utils.ProgressBar(1).update(1)\n"
        "        return x + (device.type == 'cuda')\n"
        "    return forward\n"
    )
    spec = HookSpec("mine", "hook.py:Hook", Kind.FORWARD, Layout.LDM, "comfyui")
    hook = load_hook(Profile(spec, folder=tmp_path))
    for device, value in (("cpu", 1), ("sim", 2), ("cpu", 1)):
        with hook.put_on(view, replace(CASE, device=device)) as run:
            assert run(DECODE, torch.zeros(1)).item() == value


@pytest.mark.parametrize("direction", Direction)
@pytest.mark.parametrize("family", ["sd", "flux2", "wan21", "wan22"])
def test_diffusers_own_tiling_tiles_and_leaves_no_trace(family: str, direction: Direction) -> None:
    facts = FAMILIES[family]
    view = view_of(build(family, Scale.MOCK), Layout.DIFFUSERS, facts)
    case = Case(family, Scale.MOCK, Layout.DIFFUSERS, direction, Mode.EXACT, 8, 24, 8, device="cpu")
    x = torch.randn(case.input_shape, generator=torch.Generator().manual_seed(0))
    hook = load_hook(load_embedded("diffusers"))
    with torch.no_grad():
        before = snapshot(view.vae)
        with hook.put_on(view, case) as run:
            tiled = run(direction, x)
        assert before.differences() == ()
        untiled = view.run(direction, x)
    assert run.residue == ()
    assert tiled.shape == untiled.shape
    assert not torch.equal(tiled, untiled)
    assert len(run.calls) >= 2
    planes = {call.shape[-2:] for call in run.calls}
    assert x.shape[-2:] not in planes
