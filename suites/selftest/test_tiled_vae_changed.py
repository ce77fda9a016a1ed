"""The reference hook on coders that somebody has changed: exact, or said to be untiled."""

import functools
import importlib
import sys
import textwrap
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import (
    Attention,
    AttnProcessor,
    AttnProcessor2_0,
    FusedAttnProcessor2_0,
)
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

from vae_compat.families import FAMILIES
from vae_compat.fixtures.layouts import ldm, view
from vae_compat.fixtures.vaes import build
from vae_compat.scenarios.coders import offloaded
from vae_compat.suites.selftest import sd3_coders
from vae_compat.suites.selftest.coders import latent, shared, tiling
from vae_compat.tiled_vae import VAEHook, tiled
from vae_compat.tiled_vae.nets.modules import is_container, kind
from vae_compat.tiled_vae.nets.provenance import role

pytestmark = pytest.mark.slow


def picture(height: int = 40, width: int = 48) -> Tensor:
    return torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(0))


def same(got: Tensor, plain: Tensor) -> bool:
    return torch.allclose(got, plain, rtol=1e-3, atol=1e-4 * max(1.0, float(plain.abs().max())))


def both(net: nn.Module, x: Tensor, is_decoder: bool = True) -> tuple[Tensor, Tensor, VAEHook]:
    """Untiled, tiled, and the hook."""
    with torch.no_grad():
        plain = net(x)
        with tiling(net, 4 if is_decoder else 32, is_decoder) as hook:
            return plain, net(x), hook


def assert_tiled(net: nn.Module, x: Tensor, is_decoder: bool = True) -> Tensor:
    plain, got, hook = both(net, x, is_decoder)
    assert not hook.reasons
    assert same(got, plain)
    return plain


def assert_untiled(net: nn.Module, x: Tensor, *words: str) -> None:
    plain, got, hook = both(net, x)
    assert torch.equal(got, plain)
    said = " ".join(hook.reasons)
    assert said
    assert all(word in said for word in words), said


def test_the_classes_of_all_layouts_are_known():
    unknown = set()
    for family in ("sd", "flux2", "qwen", "wan21", "wan22"):
        facts = FAMILIES[family]
        for layout, variant in (("diffusers", None), ("ldm", None), ("wan", "comfyui")):
            if layout in ("diffusers", facts.coder_layout):
                seen = view(
                    shared(family), layout, facts, **({"variant": variant} if variant else {})
                )
                modules = [*seen.encoder.modules(), *seen.decoder.modules()]
                unknown |= {
                    type(each) for each in modules if not kind(each) and not is_container(each)
                }
    assert not unknown


def louder(self: nn.Module, x: Tensor, temb: Tensor | None = None) -> Tensor:
    return 2 * x


def test_a_patched_block_class_is_not_undone(monkeypatch):
    plain = ResnetBlock2D.forward
    monkeypatch.setattr(ResnetBlock2D, "forward", lambda self, x, temb: plain(self, x, temb) + 1)
    assert_untiled(shared("sd").decoder, latent(), "ResnetBlock2D", "forward that is replaced by")


def test_a_patch_that_passes_for_the_original_is_noticed(monkeypatch):
    plain = ResnetBlock2D.forward

    @functools.wraps(plain)
    def forward(self, x, temb=None):
        return plain(self, x, temb).roll(1, -1)

    monkeypatch.setattr(ResnetBlock2D, "forward", forward)
    assert_untiled(shared("sd").decoder, latent(), "forward that is replaced by test_a_patch")


def test_code_replaced_inside_of_a_function_is_noticed_and_taken_back():
    code = ResnetBlock2D.forward.__code__
    assert_tiled(shared("sd").decoder, latent())
    try:
        ResnetBlock2D.forward.__code__ = louder.__code__
        assert role(ResnetBlock2D) is None
    finally:
        ResnetBlock2D.forward.__code__ = code
    assert role(ResnetBlock2D) == "ResnetBlock2D"


@pytest.mark.parametrize("name", ["interpolate", "pad"])
def test_a_function_of_torch_that_a_block_calls_and_that_is_replaced_is_noticed(monkeypatch, name):
    from diffusers.models.downsampling import Downsample2D
    from diffusers.models.upsampling import Upsample2D

    kind = Upsample2D if name == "interpolate" else Downsample2D
    assert role(kind) == kind.__name__
    plain = getattr(F, name)

    def patch(*args: Any, **kwargs: Any) -> Any:
        return plain(*args, **kwargs)

    for dressed in (patch, functools.wraps(plain)(patch), torch.no_grad()(patch)):
        monkeypatch.setattr(F, name, dressed)
        assert role(kind) is None
    assert role(ResnetBlock2D) == "ResnetBlock2D"


def test_attention_that_is_replaced_under_torchs_own_name_is_run(monkeypatch):
    """As SageAttention does, and this project's simulated accelerator."""
    plain, calls = F.scaled_dot_product_attention, []

    def attention(*args: Any, **kwargs: Any) -> Tensor:
        calls.append(args[0].shape[-2])
        return 2 * plain(*args, **kwargs)

    for family in ("sd", "qwen"):
        monkeypatch.setattr(F, "scaled_dot_product_attention", attention)
        assert_tiled(shared(family).decoder, latent(family))
        assert len(calls) > 1
        calls.clear()


def test_a_helper_of_the_module_that_is_replaced_is_noticed(monkeypatch):
    from vae_compat.fixtures.layouts import wan_blocks

    assert role(wan_blocks.ResidualBlock) == "ResidualBlock"
    monkeypatch.setattr(wan_blocks, "through", lambda layers, x, *_: x)
    assert role(wan_blocks.ResidualBlock) is None
    monkeypatch.undo()
    assert role(wan_blocks.ResidualBlock) == "ResidualBlock"


def test_a_function_of_an_attention_that_is_replaced_is_called():
    net = view(shared("sd"), "ldm", FAMILIES["sd"]).decoder
    net.mid.attn_1.optimized_attention = lambda q, k, v: v + q
    assert_tiled(net, latent())


def test_a_method_that_a_subclass_replaces_is_noticed():
    from vae_compat.fixtures.layouts.wan_blocks import Resample

    class Turned(Resample):
        def resample_plane(self, x: Tensor) -> Tensor:
            return super().resample_plane(x).flip(-1)

    assert role(Resample) == "Resample"
    assert role(Turned) is None


def test_a_subclass_of_the_same_name_is_not_taken_for_the_class():
    class Other(ResnetBlock2D):
        def forward(self, x: Tensor, temb: Tensor | None = None) -> Tensor:
            return super().forward(x, temb).flip(-1)

    Other.__name__, Other.__module__ = "ResnetBlock2D", ResnetBlock2D.__module__
    vae = build("sd", "mock")
    vae.decoder.up_blocks[0].resnets[0].__class__ = Other
    assert_untiled(vae.decoder, latent(), "ResnetBlock2D")


def test_a_subclass_that_changes_nothing_is_tiled():
    vae = build("sd", "mock")
    vae.decoder.up_blocks[0].resnets[0].__class__ = type("Renamed", (ResnetBlock2D,), {})
    assert_tiled(vae.decoder, latent())


def test_a_class_of_another_package_is_named():
    class Decoder(type(shared("sd").decoder)):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + 1

    vae = build("sd", "mock")
    vae.decoder.__class__ = Decoder
    assert_untiled(vae.decoder, latent(), f"Decoder is code of {__name__}", "does not know")


class Mirrored:
    """Attention with something added."""

    def __call__(self, attn: Attention, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return AttnProcessor2_0()(attn, x, *args, **kwargs).flip(-1)


class Subclassed(AttnProcessor2_0):
    """Computes plain attention."""


@pytest.mark.parametrize(
    "processor",
    [type("AttnProcessor2_0", (Mirrored,), {}), Subclassed, AttnProcessor, FusedAttnProcessor2_0],
    ids=["namesake", "subclass", "plain", "fused"],
)
def test_any_attention_processor_is_run_as_it_is(processor):
    vae = build("sd", "mock")
    attention = vae.decoder.mid_block.attentions[0]
    if processor is FusedAttnProcessor2_0:
        vae.fuse_qkv_projections()
    else:
        attention.set_processor(processor())
    assert_tiled(vae.decoder, latent())


def test_a_patched_processor_class_is_run_as_it_is(monkeypatch):
    call = AttnProcessor2_0.__call__
    monkeypatch.setattr(AttnProcessor2_0, "__call__", lambda *a, **k: call(*a, **k) * 3)
    assert_tiled(shared("sd").decoder, latent())


def test_linear_layers_in_eight_bits_see_the_whole_plane():
    vae = build("sd", "mock")
    middle = vae.decoder.mid_block
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated, and used
        whole = torch.ao.quantization.quantize_dynamic(
            nn.ModuleDict({"a": middle.attentions[0]}), {nn.Linear}, dtype=torch.qint8
        )
    middle.attentions[0] = whole["a"]
    plain, got, hook = both(vae.decoder, latent())
    # Eight bits round what differs in the last place to another step.
    assert torch.allclose(got, plain, rtol=1e-2, atol=1e-3)
    assert not hook.reasons


class Lora(nn.Module):
    """A layer with an adapter beside it, as peft has it (peft/tuners/lora/layer.py)."""

    def __init__(self, base: nn.Conv2d) -> None:
        super().__init__()
        self.base_layer = base
        geometry = base.kernel_size, base.stride, base.padding
        self.lora_A = nn.ModuleDict({"a": nn.Conv2d(base.in_channels, 2, *geometry, bias=False)})
        self.lora_B = nn.ModuleDict({"a": nn.Conv2d(2, base.out_channels, 1, bias=False)})
        self.lora_dropout = nn.ModuleDict({"a": nn.Dropout(0.1)})

    def forward(self, x: Tensor) -> Tensor:
        result = self.base_layer(x)
        x = self.lora_dropout["a"](x.to(self.lora_A["a"].weight.dtype))
        return result + self.lora_B["a"](self.lora_A["a"](x)) * 0.7


@pytest.mark.parametrize("is_decoder", [True, False])
def test_adapters_beside_convolutions_are_tiled(is_decoder):
    torch.manual_seed(0)
    vae = build("sd", "mock")
    net = vae.decoder if is_decoder else vae.encoder
    for module in list(net.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Conv2d:
                setattr(module, name, Lora(child).eval())
    assert_tiled(net, latent() if is_decoder else picture(), is_decoder)


@pytest.mark.parametrize("kind", ["weight", "spectral", "old weight"])
def test_parametrised_weights_are_tiled(kind):
    vae = build("sd", "mock")
    for module in list(vae.decoder.modules()):
        if type(module) is nn.Conv2d:
            if kind == "weight":
                torch.nn.utils.parametrizations.weight_norm(module)
            elif kind == "spectral":
                torch.nn.utils.parametrizations.spectral_norm(module)
            else:
                with pytest.warns(FutureWarning):
                    torch.nn.utils.weight_norm(module)
    assert_tiled(vae.decoder.eval(), latent())
    if kind == "spectral":
        with torch.no_grad(), tiling(vae.decoder.train()) as hook:
            vae.decoder(latent())
        assert "changes at each call" in " ".join(hook.reasons)


def test_group_offloading_by_blocks_is_tiled():
    from diffusers.hooks import apply_group_offloading

    vae = build("sd", "mock")
    with torch.no_grad():
        plain = vae.decoder(latent())
    cpu = torch.device("cpu")
    apply_group_offloading(vae.decoder, cpu, cpu, "block_level", num_blocks_per_group=1)
    with torch.no_grad(), tiling(vae.decoder) as hook:
        got = vae.decoder(latent())
    assert same(got, plain)
    assert not hook.reasons


def circular(self: nn.Conv2d, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """As nodes for seamless pictures put it on every convolution."""
    x = F.pad(x, self.pad_x, mode=self.mode_x)
    x = F.pad(x, self.pad_y, mode=self.mode_y)
    return F.conv2d(x, weight, bias, self.stride, (0, 0), self.dilation, self.groups)


def make_seamless(net: nn.Module, x: bool, y: bool) -> None:
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            rows, cols = module.padding
            module.pad_x, module.pad_y = (cols, cols, 0, 0), (0, 0, rows, rows)
            module.mode_x = "circular" if x else "constant"
            module.mode_y = "circular" if y else "constant"
            module._conv_forward = circular.__get__(module, nn.Conv2d)


@pytest.mark.parametrize(
    ("is_decoder", "x", "y"),
    [(True, True, True), (True, True, False), (True, False, True), (False, True, True)],
)
def test_seamless_pictures_are_exact(x, y, is_decoder):
    vae = build("sd", "mock")
    net, given = (vae.decoder, latent()) if is_decoder else (vae.encoder, picture())
    with torch.no_grad():
        bordered = net(given)
    make_seamless(net, x, y)
    assert not same(assert_tiled(net, given, is_decoder), bordered)


def test_convolutions_told_to_be_circular_are_exact():
    net = view(build("sd", "mock"), "ldm", FAMILIES["sd"]).decoder
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            module.padding_mode = "circular"
    assert_tiled(net, latent())


def test_other_padding_runs_untiled():
    vae = build("sd", "mock")
    vae.decoder.conv_out.padding_mode = "reflect"
    assert_untiled(vae.decoder, latent(), "reflect")


def centred(self: nn.Conv2d, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.conv2d(x - x.mean((2, 3), keepdim=True), weight, bias, self.stride, self.padding)


@pytest.mark.parametrize(
    "forward",
    [
        centred,
        lambda self, x, w, b: F.conv2d(x.roll(1, -1), w, b, self.stride, self.padding),
        lambda self, x, w, b: F.conv2d(F.conv2d(x, w, b, 1, 1), w, b, 1, 1),
        lambda self, x, w, b: F.conv2d(F.pad(x, (1, 1, 1, 1), value=0.5), w, b, self.stride),
        lambda self, x, w, b: F.conv2d(x, w, b, 1, 1) * float(x.max()),
        lambda self, x, w, b: torch.from_numpy(F.conv2d(x, w, b, 1, 1).numpy()[..., ::-1].copy()),
    ],
    ids=["mean", "roll", "twice", "constant", "maximum", "numpy"],
)
def test_convolutions_that_do_something_else_run_untiled(forward):
    vae = build("sd", "mock")
    module = vae.decoder.mid_block.resnets[0].conv1
    module._conv_forward = forward.__get__(module, nn.Conv2d)
    assert_untiled(vae.decoder, latent())


def test_a_class_of_convolutions_that_is_patched_is_not_undone(monkeypatch):
    monkeypatch.setattr(
        nn.Conv2d,
        "forward",
        lambda self, x: 2 * F.conv2d(x, self.weight, self.bias, self.stride, self.padding),
    )
    assert_tiled(shared("sd").decoder, latent())


def test_convolutions_that_cudnn_is_asked_for_by_name_are_tiled(monkeypatch):
    from vae_compat.tiled_vae.nets import following

    def cudnn(x, weight, padding, stride, dilation, groups, *switches):
        assert switches == (True, False, False)
        return F.conv2d(x, weight, None, stride, padding, dilation, groups)

    def forward(self: nn.Conv2d, x: Tensor) -> Tensor:
        out = convolution(
            x,
            self.weight,
            self.padding,
            self.stride,
            self.dilation,
            self.groups,
            True,
            False,
            False,
        )
        return out + self.bias.reshape(1, -1, 1, 1)

    def convolution(*args: Any) -> Tensor:
        if torch.overrides.has_torch_function(args):
            return torch.overrides.handle_torch_function(convolution, args, *args)
        return cudnn(*args)

    names = following.CONVOLUTIONS[torch.cudnn_convolution]
    monkeypatch.setitem(following.CONVOLUTIONS, convolution, names)
    monkeypatch.setattr(nn.Conv2d, "forward", forward)
    assert_tiled(shared("sd").decoder, latent())


def test_hooks_on_all_modules_are_not_bypassed():
    def louder(module: nn.Module, args: Any, out: Any) -> Any:
        return out * 1.5 if isinstance(module, ResnetBlock2D) else None

    handle = nn.modules.module.register_module_forward_hook(louder)
    try:
        assert_untiled(shared("sd").decoder, latent(), "hooks on the forward of all modules")
    finally:
        handle.remove()


def test_hooks_on_a_convolution_that_change_its_result_are_heeded():
    vae = build("sd", "mock")
    vae.decoder.conv_in.register_forward_hook(lambda module, args, out: out * 2)
    vae.decoder.up_blocks[1].resnets[0].conv1.register_forward_pre_hook(
        lambda module, args: (args[0] + 1,)
    )
    assert_tiled(vae.decoder, latent())
    vae.decoder.conv_in.register_forward_hook(lambda module, args, out: out - out.mean())
    assert_untiled(vae.decoder, latent(), "mean")


def test_a_forward_that_was_replaced_before_is_not_undone():
    vae = build("sd", "mock")
    forward = vae.decoder.forward
    vae.decoder.forward = functools.wraps(forward)(lambda *args: forward(*args) + 1)
    with torch.no_grad():
        plain = vae.decode(latent()).sample
        with tiled(vae, 32) as hooks:
            got = vae.decode(latent()).sample
    assert torch.equal(got, plain)
    assert "its forward was replaced" in " ".join(hooks[1].reasons)


def test_a_causal_convolution_of_another_make_is_called_or_named():
    vae = build("qwen", "mock")
    first = vae.decoder.conv_in
    kind = type(first)
    first.__class__ = type(
        "QwenImage21CausalConv3d",
        (kind,),
        {"forward": lambda self, x, *past: kind.forward(self, x, *past) + 1},
    )
    assert_tiled(vae.decoder, latent("qwen"))
    vae.decoder.conv_in = nn.Conv3d(16, first.out_channels, 3, padding=1)
    with torch.no_grad(), tiling(vae.decoder) as hook:
        vae.decoder(latent("qwen"))
    assert "Conv3d extends no causal convolution that this hook knows" in " ".join(hook.reasons)


COMFY = {
    "comfy/__init__.py": "",
    "comfy/ldm/__init__.py": "",
    "comfy/ldm/wan/__init__.py": "",
    "comfy/management.py": """
        import functools
        def logged(function):
            @functools.wraps(function)
            def call(*args):
                return function(*args)
            return call
        @logged
        def interrupted():
            pass
        """,
    "comfy/ops.py": """
        import torch
        import comfy.management
        class Conv3d(torch.nn.Conv3d):
            def forward(self, x):
                comfy.management.interrupted()
                return self._conv_forward(x, self.weight, self.bias)
            def _conv_forward(self, x, weight, bias, autopad=None):
                return super()._conv_forward(x, weight, bias)
        """,
    "comfy/ldm/wan/vae.py": """
        import comfy.management
        from comfy import ops
        class CausalConv3d(ops.Conv3d):
            def forward(self, x, cache_x=None):
                comfy.management.interrupted()
                return super().forward(x)
        """,
}
"""The shape of ComfyUI's own layers: a subclass of its operations, helpers that are decorated."""


def test_layers_that_extend_their_packages_operations_are_known(tmp_path, monkeypatch):
    for name, text in COMFY.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(textwrap.dedent(text))
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    try:
        vae = importlib.import_module("comfy.ldm.wan.vae")
        ops = importlib.import_module("comfy.ops")
        assert role(vae.CausalConv3d) == "CausalConv3d"
        monkeypatch.setattr(ops.Conv3d, "_conv_forward", lambda self, x, w, b: x)
        monkeypatch.setattr(ops.Conv3d, "forward", lambda self, x: x)
        assert role(vae.CausalConv3d) is None
    finally:
        for name in set(sys.modules) - before:
            del sys.modules[name]


WEB_UIS = ("backend.nn.vae", "ldm_patched.ldm.modules.diffusionmodules.model")
"""Modules in which forks of the web UI keep latent-diffusion's coders."""


@pytest.mark.parametrize("name", WEB_UIS)
def test_coders_of_forks_of_the_web_ui_are_tiled(name, tmp_path, monkeypatch):
    """By what they are: the same code in a module that nobody has read runs untiled."""
    source = Path(ldm.__file__).read_text()
    for module in (name, "somewhere.else"):
        file = tmp_path.joinpath(*module.split(".")).with_suffix(".py")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    try:
        vae = shared("sd")
        for is_decoder, x in ((True, latent()), (False, picture())):
            kind, part = ("Decoder", "decoder") if is_decoder else ("Encoder", "encoder")
            coder = getattr(importlib.import_module(name), kind)(getattr(vae, part), 64)
            assert_tiled(coder, x, is_decoder)
        other = importlib.import_module("somewhere.else").Decoder(vae.decoder, 64)
        assert_untiled(other, latent(), "somewhere.else", "does not know")
    finally:
        for module in set(sys.modules) - before:
            del sys.modules[module]


def test_coders_of_the_web_uis_sd3_are_tiled(tmp_path, monkeypatch):
    file = tmp_path / "modules" / "models" / "sd3" / "sd3_impls.py"
    file.parent.mkdir(parents=True)
    file.write_text(Path(sd3_coders.__file__).read_text())
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    try:
        made = importlib.import_module("modules.models.sd3.sd3_impls")
        assert_tiled(made.seeded(made.VAEDecoder), latent("sd3", 9, 10), True)
        assert_tiled(made.seeded(made.VAEEncoder), picture(), False)
        other = sd3_coders.seeded(sd3_coders.VAEDecoder)
        assert_untiled(other, latent("sd3", 9, 10), "sd3_coders", "does not know")
    finally:
        for module in set(sys.modules) - before:
            del sys.modules[module]


@pytest.mark.parametrize(
    ("family", "layout"), [("sd", "diffusers"), ("sd", "ldm"), ("qwen", "wan"), ("wan22", "wan")]
)
def test_layers_that_bring_in_their_weights_as_hosts_do_are_tiled(family, layout):
    seen = view(shared(family), layout, FAMILIES[family])
    x, first = latent(family), {"first_chunk": True} if family == "wan22" else {}
    with torch.no_grad():
        plain = seen.decoder(x, **first)
        with offloaded(seen), tiling(seen.decoder) as hook:
            got = seen.decoder(x, **first)
    assert not hook.reasons
    assert same(got, plain)
