"""A hook is loaded anew for each case, and what cannot be loaded is refused in one sentence."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from pathlib import Path

import pytest
import torch

from vae_compat.contracts.cases import Layout
from vae_compat.errors import UsageError
from vae_compat.subject.hook import Hook
from vae_compat.subject.hosts import Host
from vae_compat.subject.loading import Entry, load_hook
from vae_compat.subject.profile import HookSpec, Kind, Profile

CPU = torch.device("cpu")
GPU = torch.device("cuda", 0)
BODY = "class Hook:\n    def __init__(self, net, tile_size): ...\n"


def load(
    folder: Path, entry: str = "hook.py:Hook", host: str | None = None, kind: str = "forward"
) -> Hook:
    spec = HookSpec("mine", entry, Kind(kind), Layout.LDM, host)
    return load_hook(Profile(spec, folder=folder))


def write(folder: Path, text: str, name: str = "hook.py") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def entry(folder: Path, text: str = "hook.py:Hook", host: str | None = None) -> Entry:
    return Entry(text, folder, Host(host))


def test_a_file_is_loaded_from_the_profiles_folder(tmp_path: Path) -> None:
    write(tmp_path, BODY)
    hook = load(tmp_path)
    assert hook.accepted_settings == {"net", "tile_size"}
    assert hook.name == "mine"


def test_relative_imports_work_and_the_package_is_not_executed(tmp_path: Path) -> None:
    write(tmp_path, "raise RuntimeError('heavy')", "node/__init__.py")
    write(tmp_path, "TILE = 7\n", "node/utils.py")
    write(tmp_path, "from ..utils import TILE\n", "node/deep/more.py")
    write(
        tmp_path,
        "from .utils import TILE\nfrom . import utils\nfrom .deep.more import TILE as T\n"
        f"assert T == TILE == utils.TILE\n{BODY}",
        "node/hook.py",
    )
    assert load(tmp_path, "node/hook.py:Hook").accepted_settings


def test_imports_of_neighbours_work_and_are_forgotten(tmp_path: Path) -> None:
    write(tmp_path, "X = 1\n", "neighbour_of_the_hook.py")
    write(tmp_path, f"import neighbour_of_the_hook\n{BODY}")
    before, path = set(sys.modules), list(sys.path)
    load(tmp_path)
    assert set(sys.modules) == before
    assert sys.path == path


def test_the_folder_that_an_import_changes_comes_back_and_that_of_a_call_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, f"import os\nos.chdir('/')\n{BODY}")
    with entry(tmp_path).loaded(CPU):
        assert Path.cwd() == Path("/")
    assert Path.cwd() == tmp_path
    with entry(tmp_path).loaded(CPU):
        os.chdir("/tmp")
    assert Path.cwd() == Path("/tmp")
    write(tmp_path, "import os\nos.chdir('/')\nraise ValueError\n")
    with pytest.raises(UsageError), entry(tmp_path).loaded(CPU):
        pass
    assert Path.cwd() == Path("/tmp")


def test_late_imports_work_while_the_entry_is_loaded(tmp_path: Path) -> None:
    write(tmp_path, "X = 1\n", "late.py")
    write(tmp_path, "def Hook():\n    from .late import X\n    return X\n")
    with entry(tmp_path).loaded(CPU) as found:
        assert found() == 1


def test_a_package_folder_is_an_entry(tmp_path: Path) -> None:
    write(tmp_path, "from .inner import Hook\n", "node/__init__.py")
    write(tmp_path, BODY, "node/inner.py")
    assert load(tmp_path, "node:Hook").accepted_settings


def test_a_module_is_an_entry(tmp_path: Path) -> None:
    hook = load(tmp_path, "vae_compat.subject.diffusers_tiling:enable", kind="vae")
    assert hook.accepted_settings == {"tile_size"}


def test_a_nested_attribute_is_an_entry(tmp_path: Path) -> None:
    write(tmp_path, "class Outer:\n    class Hook:\n        def __init__(self, net): ...\n")
    assert load(tmp_path, "hook.py:Outer.Hook").accepted_settings == {"net"}


@pytest.mark.parametrize(
    ("text", "told", "words"),
    [
        (BODY, "hook.py", ["FILE_OR_MODULE:ATTRIBUTE"]),
        (BODY, "hook.py:", ["FILE_OR_MODULE:ATTRIBUTE"]),
        (BODY, "hok.py:Hook", ["no file", "hok.py"]),
        (BODY, "no_such_module_here:Hook", ["no module", "no_such_module_here"]),
        (BODY, "hook.py:Hock", ["no attribute 'Hock'", "did you mean Hook"]),
        (BODY, "hook.py:Zebra", ["no attribute 'Zebra'"]),
        ("import comfy.samplers\n" + BODY, "hook.py:Hook", ["comfy", "--host comfyui"]),
        ("import gradio_of_mars\n" + BODY, "hook.py:Hook", ["gradio_of_mars", "--host"]),
        ("from math import nothing\n" + BODY, "hook.py:Hook", ["nothing"]),
        ("def Hook(:\n", "hook.py:Hook", ["not valid Python", ":1"]),
        ("1 / 0\n", "hook.py:Hook", ["ZeroDivisionError", "hook.py:1"]),
        ("raise SystemExit(3)\n", "hook.py:Hook", ["SystemExit"]),
        ("Hook = 3\n", "hook.py:Hook", ["int", "cannot be called"]),
        ("def Hook(net, secret): ...\n", "hook.py:Hook", ["'secret'", "tile_size"]),
        ("def Hook(): ...\n", "hook.py:Hook", ["no coder", "'forward'"]),
    ],
)
def test_what_cannot_be_loaded_gives_one_sentence(
    tmp_path: Path, text: str, told: str, words: list[str]
) -> None:
    write(tmp_path, text)
    before = set(sys.modules)
    with pytest.raises(UsageError) as caught:
        load(tmp_path, told)
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)
    assert set(sys.modules) == before


def test_a_class_is_no_hook_of_kind_vae(tmp_path: Path) -> None:
    write(tmp_path, "class Hook:\n    def __init__(self, vae, tile_size): ...\n")
    with pytest.raises(UsageError, match="is a class, and a hook of kind 'vae' is a function"):
        load(tmp_path, kind="vae")


def test_what_the_stand_ins_lack_points_at_a_checkout(tmp_path: Path) -> None:
    for line in (
        "import comfy.samplers",
        "from comfy.model_management import no_such_thing",
        "import comfy.utils; comfy.utils.no_such_thing()",
    ):
        write(tmp_path, f"{line}\n{BODY}")
        with pytest.raises(UsageError, match="--comfyui PATH"):
            load(tmp_path, host="comfyui")


def test_each_load_starts_afresh_with_the_device_of_the_case(tmp_path: Path) -> None:
    write(
        tmp_path,
        "import comfy.model_management\n"
        "device = comfy.model_management.get_torch_device()\n"
        "seen = []\n"
        "def Hook():\n    seen.append(device)\n    return seen\n",
    )
    loader = entry(tmp_path, host="comfyui")
    for device in (GPU, CPU, GPU):
        with loader.loaded(device) as found:
            assert found() == [device]


def test_noise_and_vandalism_do_not_outlive_loading(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(
        tmp_path,
        "import logging, os, sys, warnings\n"
        "print('hello')\n"
        "warnings.warn('old', DeprecationWarning)\n"
        "warnings.simplefilter('error')\n"
        "logging.basicConfig(level=logging.DEBUG, force=True)\n"
        "logging.getLogger('the_hook').addHandler(logging.StreamHandler())\n"
        "logging.disable(logging.CRITICAL)\n"
        "sys.path.insert(0, '/nowhere')\n"
        "sys.stdout.close()\n"
        "sys.stdout = None\n"
        f"os.chdir('/')\n{BODY}",
    )
    root, filters = list(logging.root.handlers), list(warnings.filters)
    folder, path, out = Path.cwd(), list(sys.path), sys.stdout
    load(tmp_path)
    assert logging.root.handlers == root
    assert logging.root.manager.disable == logging.NOTSET
    assert logging.getLogger("the_hook").handlers == []
    assert warnings.filters == filters
    assert (Path.cwd(), sys.path) == (folder, path)
    assert sys.stdout is out
    assert capsys.readouterr().out == ""
