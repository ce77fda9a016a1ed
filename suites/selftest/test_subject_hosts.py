"""Stand-ins for a host's modules answer what hooks ask, and are gone afterwards."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

from vae_compat.errors import UsageError
from vae_compat.subject.hosts import Host, host_modules
from vae_compat.subject.loading import load_hook
from vae_compat.subject.profile import profile_from_flags

CPU = torch.device("cpu")
GPU = torch.device("cuda", 0)


def test_stand_ins_answer_what_nodes_ask() -> None:
    with host_modules("comfyui", GPU, torch.float16):
        comfy = importlib.import_module("comfy")
        management = importlib.import_module("comfy.model_management")
        assert comfy.model_management is management
        assert management.get_torch_device() == management.vae_device() == GPU
        assert management.vae_offload_device() == management.intermediate_device() == CPU
        assert management.vae_dtype() is management.unet_dtype(CPU) is torch.float16
        assert management.get_autocast_device(GPU) == "cuda"
        assert management.is_device_cpu(CPU)
        assert not management.is_device_cpu(GPU)
        assert management.load_models_gpu([], memory_required=1) is None
        assert management.cast_to(torch.ones(1), torch.float64).dtype is torch.float64
        bar = comfy.utils.ProgressBar(10)
        bar.update(3)
        bar.update_absolute(9)
        assert bar.current == 9
    with host_modules("comfyui", CPU) as modules:
        management = modules["comfy.model_management"]
        assert management.get_free_memory() > 0
        assert management.get_total_memory(CPU) >= management.get_free_memory(CPU)
        management.soft_empty_cache()


def test_an_interrupt_is_raised_once() -> None:
    with host_modules("comfyui", CPU) as modules:
        management = modules["comfy.model_management"]
        assert not management.processing_interrupted()
        management.interrupt_current_processing()
        assert management.processing_interrupted()
        with pytest.raises(management.InterruptProcessingException):
            management.throw_exception_if_processing_interrupted()
        assert not management.processing_interrupted()


def test_the_nodes_call_the_vae() -> None:
    vae = SimpleNamespace(encode=lambda x: x * 2, decode=lambda x: x + 1)
    with host_modules("comfyui", CPU) as modules:
        nodes = modules["nodes"]
        (latent,) = nodes.VAEEncode().encode(vae, torch.ones(1, 2, 2, 4))
        assert latent["samples"].shape == (1, 2, 2, 3)
        (image,) = nodes.VAEDecode().decode(vae, latent)
        assert image.eq(3).all()


def test_what_a_stand_in_lacks_is_an_error_that_says_so() -> None:
    with host_modules("comfyui", CPU) as modules:
        with pytest.raises(AttributeError, match=r"comfy\.utils.*'lanczos'.*--comfyui PATH"):
            _ = modules["comfy.utils"].lanczos
        with pytest.raises(ModuleNotFoundError, match=r"comfy\.samplers.*--comfyui PATH"):
            importlib.import_module("comfy.samplers")
        assert not hasattr(modules["nodes"], "KSampler")


def test_stand_ins_go_and_what_was_there_returns(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = ModuleType("nodes")
    monkeypatch.setitem(sys.modules, "nodes", mine)
    finders = list(sys.meta_path)
    with pytest.raises(KeyboardInterrupt), host_modules("comfyui", CPU) as modules:
        raise KeyboardInterrupt if modules["nodes"] is sys.modules["nodes"] else AssertionError
    assert sys.modules["nodes"] is mine
    assert "comfy" not in sys.modules
    assert sys.meta_path == finders


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    files = {
        "comfy/__init__.py": "",
        "comfy/cli_args.py": "class args:\n    cpu = False\n",
        "comfy/model_management.py": (
            "from comfy.cli_args import args\nimport utils\nCPU = args.cpu\n"
        ),
        "nodes.py": "import comfy.model_management\nREAL = True\n",
        "utils/__init__.py": "",
    }
    for name, text in files.items():
        path = tmp_path / "ComfyUI" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "ComfyUI"


def test_a_checkout_takes_the_place_of_the_stand_ins(checkout: Path) -> None:
    host = Host(None, checkout)
    before, path = set(sys.modules), list(sys.path)
    seen = []
    for device in (CPU, GPU, CPU):
        with host.modules(device):
            nodes = importlib.import_module("nodes")
            assert nodes.REAL
            seen.append(nodes)
            assert nodes.comfy.model_management.CPU is (device == CPU)
        assert set(sys.modules) == before
        assert sys.path == path
    assert seen[0] is seen[2]  # importing ComfyUI takes seconds
    assert seen[0] is not seen[1]


def test_wrong_hosts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"'forge'.*comfyui"):
        Host("forge")
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(UsageError, match="no ComfyUI checkout"):
            Host("comfyui", path)


def test_tiles_of_a_local_function_are_blended_without_a_trace() -> None:
    with host_modules("comfyui", CPU) as modules:
        utils = modules["comfy.utils"]
        x = torch.rand(2, 3, 21, 33, generator=torch.Generator().manual_seed(0))
        bar = utils.ProgressBar(2 * utils.get_tiled_scale_steps(33, 21, 16, 12, 4))
        twice = utils.tiled_scale(
            x, lambda tile: tile.repeat_interleave(2, -1).repeat_interleave(2, -2),
            tile_x=16, tile_y=12, overlap=4, upscale_amount=2, pbar=bar,
        )  # fmt: skip
    expected = x.repeat_interleave(2, -1).repeat_interleave(2, -2)
    torch.testing.assert_close(twice, expected)
    assert bar.current == bar.total


def test_tiles_have_a_weight_that_falls_towards_their_ends() -> None:
    numbers = iter([0.0, 1.0])
    with host_modules("comfyui", CPU) as modules:
        out = modules["comfy.utils"].tiled_scale_multidim(
            torch.zeros(1, 1, 12), lambda tile: torch.full_like(tile, next(numbers)),
            tile=(8,), overlap=4, upscale_amount=1, out_channels=1,
        )  # fmt: skip
    assert torch.equal(out[0, 0], torch.tensor([0, 0, 0, 0, 0.2, 0.4, 0.6, 0.8, 1, 1, 1, 1]))


def test_time_is_scaled_by_functions_and_downscaling_divides() -> None:
    with host_modules("comfyui", CPU) as modules:
        multidim = modules["comfy.utils"].tiled_scale_multidim
        clip = torch.rand(1, 2, 5, 8, 8)
        out = multidim(
            clip, lambda tile: tile[:, :, :1].expand(-1, -1, tile.shape[2] * 4 - 3, -1, -1),
            tile=(9, 4, 8), overlap=(0, 2, 2), upscale_amount=(lambda t: max(0, t * 4 - 3), 1, 1),
            out_channels=2,
        )  # fmt: skip
        assert torch.allclose(out, clip[:, :, :1].expand(-1, -1, 17, -1, -1))
        half = multidim(clip[:, :, 0], lambda tile: tile[..., ::2, ::2], (4, 4), 2, 2, 2,
                        downscale=True)  # fmt: skip
        assert torch.allclose(half, clip[:, :, 0, ::2, ::2])


class Model(torch.nn.Module):
    """Repeats latent pixels and frames, and takes every eighth pixel and fourth frame."""

    def __init__(self, *, video: bool, most: int = 10**9) -> None:
        super().__init__()
        self.decoder = torch.nn.Module()
        self.decoder.conv_in = self.conv2 = torch.nn.Conv2d(3, 3, 1)
        self.most, self.planes = most, []
        if video:
            self.clear_cache = lambda: None
        else:
            del self.conv2

    def noted(self, x: torch.Tensor) -> torch.Tensor:
        self.planes.append(tuple(x.shape[-2:]))
        if x.shape[-1] * x.shape[-2] > self.most:
            raise torch.OutOfMemoryError
        return x

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        x = self.noted(z).repeat_interleave(8, -1).repeat_interleave(8, -2)
        return x if z.ndim == 4 else x.repeat_interleave(4, 2)[:, :, 3:]

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        z = torch.cat([self.noted(x)[..., ::8, ::8]] * 2, 1)
        return z if x.ndim == 4 else z[:, :, ::4]


def of_comfy(model: Model) -> SimpleNamespace:
    with host_modules("comfyui", CPU):
        return importlib.import_module("comfy.sd").VAE(first_stage_model=model)


def latents(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_the_vae_of_comfyui_takes_and_gives_pictures() -> None:
    vae, z = of_comfy(Model(video=False)), latents(2, 3, 6, 5)
    image = vae.decode(z)
    assert image.shape == (2, 48, 40, 3)
    assert 0 <= image.min() <= image.max() <= 1
    torch.testing.assert_close(image[:, ::8, ::8].movedim(-1, 1), (z + 1) / 2)
    moments = vae.encode(torch.nn.functional.pad(image, (0, 0, 3, 3)))  # cropped to whole latents
    torch.testing.assert_close(moments, torch.cat([z, z], 1))
    assert vae.memory_used_decode(z.shape, torch.float32) == 2178 * 6 * 5 * 64 * 4
    with pytest.raises(NotImplementedError, match="first_stage_model"):
        type(vae)({"weight": z})


@pytest.mark.parametrize("video", [False, True])
def test_its_tiles_are_blended_in_latent_pixels_to_decode_and_in_image_pixels_to_encode(
    video: bool,
) -> None:
    model = Model(video=video)
    vae, z = of_comfy(model), latents(1, 3, *([9] if video else []), 20, 12)
    time = {"tile_t": 4, "overlap_t": 2} if video else {}
    image = vae.decode_tiled(z, tile_x=8, tile_y=8, overlap=2, **time)
    torch.testing.assert_close(image, vae.decode(z))
    assert max(max(plane) for plane in model.planes[:-1]) == (8 if video else 16)
    time = {"tile_t": 16, "overlap_t": 8} if video else {}
    del model.planes[:]
    moments = vae.encode_tiled(image, tile_x=64, tile_y=64, overlap=16, **time)
    torch.testing.assert_close(moments, torch.cat([z, z], 1))
    assert max(max(plane) for plane in model.planes) == (64 if video else 128)


@pytest.mark.parametrize("video", [False, True])
def test_it_falls_back_to_tiles_where_memory_runs_out(video: bool) -> None:
    model = Model(video=video, most=64 * 64)
    vae, z = of_comfy(model), latents(1, 3, *([2] if video else []), 70, 80)
    image = vae.decode(z)
    assert model.planes[0] == (70, 80)
    assert len(model.planes) > 2
    model.most = 10**9
    torch.testing.assert_close(image, vae.decode(z))


EXTENSION = """
import gradio as gr
import modules.scripts as scripts
import modules.devices as devices
from modules.shared import state, opts
from ldm.modules.diffusionmodules.model import AttnBlock
from tile_utils.attn import attention

if hasattr(opts, "not_there"):
    from modules.ui_components import nothing

class Hook:
    def __init__(self, net, tile_size):
        self.net, self.place = net, devices.get_optimal_device()
    def __call__(self, x):
        return self.net.original_forward(x)

class Panel(scripts.Script):
    def ui(self, tab):
        return gr.Row()
"""


def test_an_extension_of_the_web_ui_loads_with_its_own_folder(tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    (tmp_path / "tile_utils").mkdir()
    (tmp_path / "scripts" / "tiles.py").write_text(EXTENSION)
    (tmp_path / "tile_utils" / "attn.py").write_text("from modules import shared\nattention = 1\n")
    entry = f"{tmp_path / 'scripts' / 'tiles.py'}:Hook"
    with pytest.raises(UsageError, match=r"'gradio'.*--host a1111"):
        load_hook(profile_from_flags(entry, modes=["exact"]))
    profile = profile_from_flags(entry, host="a1111", modes=["exact"])
    assert profile.claims.context == "no_grad"
    hook = load_hook(profile)
    with hook.source.loaded(GPU) as kind:
        assert kind(None, 1).place == GPU
    assert "modules" not in sys.modules
    assert "tile_utils" not in sys.modules


@pytest.mark.parametrize("channels", [4, 16, 3])
def test_the_web_ui_previews_latents_and_no_images(channels: int) -> None:
    with Host("a1111", None).modules(GPU):
        from modules.sd_vae_approx import cheap_approximation

        if channels == 3:  # hooks that encode catch it, and hold no preview as large as 64 images
            with pytest.raises(RuntimeError, match="3 channels"):
                cheap_approximation(torch.zeros(channels, 2, 5))
        else:
            assert cheap_approximation(torch.zeros(channels, 2, 5)).shape == (3, 2, 5)
