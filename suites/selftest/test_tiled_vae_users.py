"""The reference hook in users' hands: what they do to a VAE before, and inside."""

import copy
import logging
import threading
import warnings
from contextlib import contextmanager
from functools import cache
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
from vae_compat.fixtures.layouts import view
from vae_compat.fixtures.vaes import build
from vae_compat.subject.hosts import host_modules
from vae_compat.tiled_vae import VAEHook, comfyui, tiled


@cache
def shared(family: str) -> nn.Module:
    """For tests that leave it as it was."""
    return build(family, "mock")


def latent(family: str, height: int = 7, width: int = 6, batch: int = 1, frames: int = 1) -> Tensor:
    facts = FAMILIES[family]
    time = (frames,) if facts.causal else ()
    shape = (batch, facts.latent_channels, *time, height, width)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def picture(height: int = 56, width: int = 48) -> Tensor:
    return torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(0))


@contextmanager
def tiling(net: nn.Module, tile: int = 4, is_decoder: bool = True, **settings: Any):
    net.original_forward = net.forward
    net.forward = VAEHook(net, tile_size=tile, is_decoder=is_decoder, **settings)
    try:
        yield net.forward
    finally:
        del net.forward, net.original_forward


def same(got: Tensor, plain: Tensor) -> bool:
    return torch.allclose(got, plain, rtol=1e-3, atol=1e-4)


def both(net: nn.Module, x: Tensor, is_decoder: bool = True) -> tuple[Tensor, Tensor, VAEHook]:
    """Untiled, tiled, and the hook."""
    with torch.no_grad():
        plain = net(x)
        with tiling(net, 4 if is_decoder else 32, is_decoder) as hook:
            return plain, net(x), hook


# Code that is not the published one: run through exactly, or said to be run untiled.


def twice(self: Any, x: Tensor, *_: Any) -> Tensor:
    return 2 * F.conv2d(x, self.weight, self.bias, self.stride, self.padding)


def test_a_patched_block_class_is_not_undone(monkeypatch):
    plain_forward = ResnetBlock2D.forward
    monkeypatch.setattr(
        ResnetBlock2D, "forward", lambda self, x, temb=None: plain_forward(self, x, temb) + 1
    )
    plain, got, hook = both(shared("sd").decoder, latent("sd"))
    assert torch.equal(got, plain)
    assert "ResnetBlock2D: its code is none that this hook knows" in " ".join(hook.reasons)


def test_a_patch_that_passes_for_the_original_is_noticed(monkeypatch):
    import functools

    plain_forward = ResnetBlock2D.forward

    @functools.wraps(plain_forward)
    def forward(self, x, temb=None):
        return plain_forward(self, x, temb).roll(1, -1)

    monkeypatch.setattr(ResnetBlock2D, "forward", forward)
    plain, got, hook = both(shared("sd").decoder, latent("sd"))
    assert torch.equal(got, plain)
    assert hook.reasons


def test_a_subclass_of_the_same_name_is_not_taken_for_the_class():
    class Other(ResnetBlock2D):
        def forward(self, x: Tensor, temb: Tensor | None = None) -> Tensor:
            return super().forward(x, temb).flip(-1)

    Other.__name__ = "ResnetBlock2D"
    vae = build("sd", "mock")
    vae.decoder.up_blocks[0].resnets[0].__class__ = Other
    plain, got, hook = both(vae.decoder, latent("sd"))
    assert torch.equal(got, plain)
    assert hook.reasons


def test_a_subclass_of_another_name_that_changes_nothing_is_tiled():
    class Renamed(ResnetBlock2D):
        pass

    vae = build("sd", "mock")
    vae.decoder.up_blocks[0].resnets[0].__class__ = Renamed
    plain, got, hook = both(vae.decoder, latent("sd"))
    assert same(got, plain)
    assert not hook.reasons


class Mirrored:
    """Attention with something added."""

    def __call__(self, attn: Attention, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return AttnProcessor2_0()(attn, x, *args, **kwargs).flip(-1)


Namesake = type("AttnProcessor2_0", (Mirrored,), {})


class Subclassed(AttnProcessor2_0):
    """Plain, but nobody can tell from its name."""


@pytest.mark.parametrize(
    "processor", [Mirrored, Namesake, Subclassed, AttnProcessor, FusedAttnProcessor2_0]
)
def test_any_attention_processor_is_run_as_it_is(processor):
    vae = build("sd", "mock")
    attention = vae.decoder.mid_block.attentions[0]
    if processor is FusedAttnProcessor2_0:
        attention.fuse_projections()
    attention.set_processor(processor())
    plain, got, hook = both(vae.decoder, latent("sd"))
    assert same(got, plain)
    assert not hook.reasons


def test_a_patched_processor_class_is_run_as_it_is(monkeypatch):
    call = AttnProcessor2_0.__call__
    monkeypatch.setattr(AttnProcessor2_0, "__call__", lambda *a, **k: call(*a, **k) * 3)
    plain, got, hook = both(shared("sd").decoder, latent("sd"))
    assert same(got, plain)
    assert not hook.reasons


def test_fused_projections_are_tiled():
    vae = build("sd", "mock")
    vae.fuse_qkv_projections()
    plain, got, hook = both(vae.decoder, latent("sd"))
    assert same(got, plain)
    assert not hook.reasons


def test_linear_layers_in_eight_bits_see_the_whole_plane():
    vae = build("sd", "mock")
    for net in (vae.encoder, vae.decoder):
        attention = net.mid_block.attentions[0]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecated, and used
            whole = torch.ao.quantization.quantize_dynamic(
                nn.ModuleDict({"a": attention}), {nn.Linear}, dtype=torch.qint8
            )
        net.mid_block.attentions[0] = whole["a"]
    for net, x, is_decoder in ((vae.decoder, latent("sd"), True), (vae.encoder, picture(), False)):
        plain, got, hook = both(net, x, is_decoder)
        # Eight bits round what differs in the last place to another step.
        assert torch.allclose(got, plain, rtol=1e-2, atol=1e-3)
        assert not hook.reasons


class Lora(nn.Module):
    """A layer with an adapter beside it, as peft has it."""

    def __init__(self, base: nn.Conv2d) -> None:
        super().__init__()
        self.base_layer = base
        geometry = base.kernel_size, base.stride, base.padding
        self.lora_A = nn.ModuleDict({"a": nn.Conv2d(base.in_channels, 2, *geometry, bias=False)})
        self.lora_B = nn.ModuleDict({"a": nn.Conv2d(2, base.out_channels, 1, bias=False)})
        self.lora_dropout = nn.ModuleDict({"a": nn.Dropout(0.1)})
        self.scaling = 0.7

    def forward(self, x: Tensor) -> Tensor:
        result = self.base_layer(x)
        x = self.lora_dropout["a"](x.to(self.lora_A["a"].weight.dtype))
        return result + self.lora_B["a"](self.lora_A["a"](x)) * self.scaling


def with_adapters(net: nn.Module) -> None:
    for module in list(net.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Conv2d:
                setattr(module, name, Lora(child).eval())


@pytest.mark.parametrize("is_decoder", [True, False])
def test_adapters_beside_convolutions_are_tiled(is_decoder):
    torch.manual_seed(0)
    vae = build("sd", "mock")
    net = vae.decoder if is_decoder else vae.encoder
    with_adapters(net)
    plain, got, hook = both(net, latent("sd") if is_decoder else picture(), is_decoder)
    assert same(got, plain)
    assert not hook.reasons


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
    plain, got, hook = both(vae.decoder.eval(), latent("sd"))
    assert same(got, plain)
    assert not hook.reasons


def test_group_offloading_by_blocks_is_tiled():
    from diffusers.hooks import apply_group_offloading

    vae = build("sd", "mock")
    with torch.no_grad():
        plain = vae.decoder(latent("sd"))
    cpu = torch.device("cpu")
    apply_group_offloading(vae.decoder, cpu, cpu, "block_level", num_blocks_per_group=1)
    with torch.no_grad(), tiling(vae.decoder) as hook:
        got = vae.decoder(latent("sd"))
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


@pytest.mark.parametrize("is_decoder", [True, False])
@pytest.mark.parametrize(("x", "y"), [(True, True), (True, False), (False, True), (False, False)])
def test_seamless_pictures_are_exact(x, y, is_decoder):
    vae = build("sd", "mock")
    net = vae.decoder if is_decoder else vae.encoder
    plainly = net(latent("sd") if is_decoder else picture()).detach()
    make_seamless(net, x, y)
    plain, got, hook = both(net, latent("sd") if is_decoder else picture(), is_decoder)
    assert same(got, plain)
    assert not hook.reasons
    assert torch.equal(plain, plainly) == (not x and not y)


@pytest.mark.parametrize("layout", ["diffusers", "ldm"])
def test_convolutions_told_to_be_circular_are_exact(layout):
    vae = build("sd", "mock")
    for module in vae.modules():
        if isinstance(module, nn.Conv2d):
            module.padding_mode = "circular"
    net = view(vae, layout, FAMILIES["sd"]).decoder
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            module.padding_mode = "circular"
    plain, got, hook = both(net, latent("sd"))
    assert same(got, plain)
    assert not hook.reasons


@pytest.mark.parametrize("mode", ["reflect", "replicate"])
def test_other_padding_runs_untiled(mode):
    vae = build("sd", "mock")
    vae.decoder.conv_out.padding_mode = mode
    plain, got, hook = both(vae.decoder, latent("sd"))
    assert torch.equal(got, plain)
    assert mode in " ".join(hook.reasons)


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
    plain, got, hook = both(vae.decoder, latent("sd"))
    assert torch.equal(got, plain)
    assert hook.reasons


def test_a_class_of_convolutions_that_is_patched_is_not_undone(monkeypatch):
    monkeypatch.setattr(nn.Conv2d, "forward", twice)
    plain, got, hook = both(shared("sd").decoder, latent("sd"))
    assert torch.allclose(got, plain, rtol=1e-3, atol=1e-4 * float(plain.abs().max()))
    assert not hook.reasons


def test_hooks_on_all_modules_are_not_bypassed():
    def louder(module: nn.Module, args: Any, out: Any) -> Any:
        return out * 1.5 if isinstance(module, ResnetBlock2D) else None

    handle = nn.modules.module.register_module_forward_hook(louder)
    try:
        plain, got, hook = both(shared("sd").decoder, latent("sd"))
    finally:
        handle.remove()
    assert torch.equal(got, plain)
    assert "hooks on the forward of all modules" in " ".join(hook.reasons)


def test_hooks_on_a_convolution_that_change_its_result_are_heeded():
    vae = build("sd", "mock")
    vae.decoder.conv_in.register_forward_hook(lambda module, args, out: out * 2)
    vae.decoder.up_blocks[1].resnets[0].conv1.register_forward_pre_hook(
        lambda module, args: (args[0] + 1,)
    )
    plain, got, hook = both(vae.decoder, latent("sd"))
    assert same(got, plain)
    assert not hook.reasons
    vae.decoder.conv_in.register_forward_hook(lambda module, args, out: out - out.mean())
    plain, got, hook = both(vae.decoder, latent("sd"))
    assert torch.equal(got, plain)
    assert "mean" in " ".join(hook.reasons)


def test_a_forward_that_was_replaced_before_is_not_undone():
    vae = build("sd", "mock")
    forward = vae.decoder.forward
    vae.decoder.forward = lambda *args, **kwargs: forward(*args, **kwargs) + 1
    with torch.no_grad():
        plain = vae.decode(latent("sd")).sample
        with tiled(vae, 32) as hooks:
            got = vae.decode(latent("sd")).sample
    assert torch.equal(got, plain)
    assert "replaced" in " ".join(hooks[1].reasons)


def test_code_that_is_not_known_is_called_what_it_is():
    vae = build("qwen", "mock")
    first = vae.decoder.conv_in
    kind = type(first)
    first.__class__ = type(
        "QwenImage21CausalConv3d", (kind,), {"forward": lambda self, x, *a: kind.forward(self, x)}
    )
    _, _, hook = both(vae.decoder, latent("qwen"))
    said = " ".join(hook.reasons)
    assert "QwenImage21CausalConv3d: its code is none that this hook knows" in said


# What users do with a VAE inside of the context.


def test_the_vaes_own_tiling_is_off_inside_and_on_again_afterwards():
    vae = build("sd", "mock")
    with torch.no_grad():
        plain = vae.decode(latent("sd", batch=2)).sample
        vae.enable_tiling()
        vae.enable_slicing()
        vae.tile_latent_min_size, vae.tile_sample_min_size = 4, 32
        tiles: list[tuple[int, int]] = []
        with tiled(vae, 32, progress=lambda *at: tiles.append(at)) as hooks:
            assert same(vae.decode(latent("sd", batch=2)).sample, plain)
            vae.enable_tiling()
            assert same(vae.decode(latent("sd", batch=2)).sample, plain)
        assert not hooks[1].reasons
    assert tiles
    assert vae.use_tiling
    assert vae.use_slicing


def test_gradients_run_untiled_with_a_word_and_reach_everything(caplog):
    vae = build("sd", "mock").requires_grad_(True)
    z = latent("sd").requires_grad_()
    with tiled(vae, 32):
        vae.decode(z).sample.sum().backward()
        moments = vae.encode(picture()).latent_dist.parameters
    assert z.grad is not None
    assert all(part.grad is not None for part in vae.decoder.parameters())
    assert moments.requires_grad
    assert caplog.text.count("gradients are on and wanted") == 2
    vae.requires_grad_(False)
    with tiled(vae, 32) as hooks:
        vae.decode(latent("sd"))
    assert not hooks[1].reasons


def test_compiled_coders_are_kept_out_of_the_graph():
    vae = build("sd", "mock")
    z = latent("sd")
    with torch.no_grad():
        plain = vae.decode(z).sample
        vae.decoder = torch.compile(vae.decoder, backend="eager")
        torch._dynamo.reset()
        counts: list[int] = []
        with tiled(vae, 32, progress=lambda done, total: counts.append(total)) as hooks:
            assert same(vae.decode(z).sample, plain)
        assert not hooks[1].reasons
        frames = sum(torch._dynamo.utils.counters["frames"].values())
        with tiled(vae, 32) as hooks:
            assert same(vae.decode(z).sample, plain)
        assert not hooks[1].reasons
        assert counts
        assert frames < 20
        torch._dynamo.reset()


def test_a_copy_made_inside_is_not_tiled_and_its_own():
    vae = build("sd", "mock")
    with torch.no_grad(), tiled(vae, 32):
        other = copy.deepcopy(vae)
    with torch.no_grad():
        z = latent("sd")
        plain = vae.decode(z).sample
        assert torch.equal(other.decode(z).sample, plain)
        other.decoder.conv_out.bias.add_(1)
        assert torch.allclose(other.decode(z).sample, plain + 1, atol=1e-5)
        assert not torch.allclose(vae.decode(z).sample, plain + 1, atol=1e-5)
        with tiled(other, 32) as hooks:
            assert torch.allclose(other.decode(z).sample, plain + 1, atol=1e-4)
        assert not hooks[1].reasons


def test_a_decoder_put_in_inside_is_tiled_too():
    vae, z = build("sd", "mock"), latent("sd")
    tiles: list[int] = []
    with torch.no_grad(), tiled(vae, 32, progress=lambda done, total: tiles.append(done)):
        old, vae.decoder = vae.decoder, copy.deepcopy(vae.decoder)
        vae.decoder.conv_out.bias.add_(1)
        got = vae.decode(z).sample
    assert tiles
    with torch.no_grad():
        assert same(got, vae.decode(z).sample)
    for net in (old, vae.decoder):
        assert net.forward == type(net).forward.__get__(net)


def test_threads_with_a_context_each_do_not_mix():
    vae, z = shared("sd"), latent("sd")
    sides = {32: 4, 16: 2}
    inside = threading.Barrier(2)
    results: dict[int, tuple[Tensor, int]] = {}

    def work(tile: int) -> None:
        totals: list[int] = []
        with torch.no_grad(), tiled(vae, tile, progress=lambda done, total: totals.append(total)):
            inside.wait(60)
            got = vae.decode(z).sample
            inside.wait(60)
        results[tile] = got, totals[-1]

    threads = [threading.Thread(target=work, args=(tile,)) for tile in sides]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    with torch.no_grad():
        plain = vae.decode(z).sample
    assert all(same(results[tile][0], plain) for tile in sides)
    assert results[16][1] > results[32][1]
    assert not {"decode", "encode"} & set(vae.__dict__)
    assert not {"forward", "original_forward"} & set(vae.decoder.__dict__)


def test_a_thread_without_a_context_takes_part_in_the_one_that_is_open():
    vae = shared("sd")
    tiles: list[int] = []
    with torch.no_grad(), tiled(vae, 32, progress=lambda done, total: tiles.append(done)):

        def work() -> None:
            with torch.no_grad():
                vae.decode(latent("sd"))

        thread = threading.Thread(target=work)
        thread.start()
        thread.join(60)
    assert tiles


class Pipeline:
    """Something that holds a VAE."""

    def __init__(self, vae: nn.Module) -> None:
        self.vae = vae


@pytest.mark.parametrize("wrap", [Pipeline, nn.DataParallel])
def test_a_vae_is_found_inside_of_what_holds_it(wrap):
    vae, tiles = shared("sd"), []
    with torch.no_grad():
        with tiled(wrap(vae), 32, progress=lambda done, total: tiles.append(done)):
            got = vae.decode(latent("sd")).sample
        assert same(got, vae.decode(latent("sd")).sample)
    assert tiles


def test_a_vae_without_a_known_decoder_is_said_to_be_untiled(caplog):
    class ConsistencyDecoderVAE(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = shared("sd").encoder
            self.decoder_unet = nn.Conv2d(1, 1, 1)

        def encode(self, x: Tensor) -> Tensor:
            return self.encoder(x)

        def decode(self, z: Tensor) -> Tensor:
            return z

    with tiled(ConsistencyDecoderVAE(), 32) as hooks:
        assert len(hooks) == 1
    assert "ConsistencyDecoderVAE.decode runs untiled" in caplog.text


@pytest.mark.parametrize(("family", "batch", "frames"), [("sd", 3, 1), ("qwen", 1, 4)])
def test_progress_runs_over_the_whole_call(family, batch, frames):
    vae, at = shared(family), []
    z = latent(family, batch=batch, frames=frames)
    with torch.no_grad(), tiled(vae, 32, progress=lambda *now: at.append(now)):
        vae.decode(z)
    assert at == [(number + 1, len(at)) for number in range(len(at))]
    assert len(at) > 4 * max(batch, frames)


def test_a_bar_is_shown_where_asked_for(capsys):
    with torch.no_grad(), tiled(shared("sd"), 32, progress=True):
        shared("sd").decode(latent("sd"))
    assert "100%" in capsys.readouterr().err


@pytest.mark.parametrize("budget", ["6MiB", "6 mib", 6 * 2**20])
def test_a_budget_may_be_given_in_words(budget):
    with tiled(shared("sd"), max_vram=budget) as hooks:
        assert hooks[1].max_vram == 6 * 2**20


def test_nothing_is_said_where_all_is_well(caplog):
    with caplog.at_level(logging.WARNING), torch.no_grad(), tiled(shared("sd"), 32):
        shared("sd").decode(latent("sd"))
    assert not caplog.records


class ComfyVae:
    """A VAE as ComfyUI hands it to nodes: channels last, the model inside."""

    def __init__(self, vae: nn.Module) -> None:
        self.first_stage_model = vae

    def decode(self, samples: Tensor) -> Tensor:
        return self.first_stage_model.decode(samples).sample.movedim(1, -1)

    def encode(self, pixels: Tensor) -> Tensor:
        return self.first_stage_model.encode(pixels.movedim(-1, 1)).latent_dist.mean


def test_the_nodes_for_comfyui_decode_and_encode_as_untiled():
    vae, z = ComfyVae(shared("sd")), latent("sd")
    with torch.no_grad():
        image = vae.decode(z)
        mean = vae.encode(image)
        with host_modules("comfyui", torch.device("cpu")):
            decode, encode = (node() for node in comfyui.NODE_CLASS_MAPPINGS.values())
            assert same(decode.run({"samples": z}, vae, 32, "")[0], image)
            assert same(decode.run({"samples": z}, vae, 0, "20 MiB")[0], image)
            assert same(encode.run(image, vae, 32, "")[0]["samples"], mean)
    assert set(decode.INPUT_TYPES()["required"]) == {"samples", "vae", "tile_size", "max_vram"}
