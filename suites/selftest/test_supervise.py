"""The command believes what it was told, not how a process with a hook in it happened to end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CASE = "sd-mock-ldm-decode-exact-17x17t16-b1-f1-float32-sim"
USELESS = """
class Hook:
    def __init__(self, net, tile_size, is_decoder):
        pass

    def __call__(self, x):
        raise NotImplementedError
"""


def start(folder: Path, hook: str) -> subprocess.Popen[str]:
    """The command for a hook with this source, in a process group of its own."""
    (folder / "mine.py").write_text(hook)
    narrow = ["--case", CASE, "-k", "completes", "-n", "0", "--out", str(folder / "out")]
    return subprocess.Popen(
        [sys.executable, "-m", "vae_compat", "run", "--hook", "mine.py:Hook", *narrow],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell has its background jobs ignore interrupts, and what they start inherits that.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )


@pytest.mark.parametrize(
    ("hook", "code", "match"),
    [
        ("import os\nos._exit(0)", 2, "the hook mine.py:Hook ended the process while it was being"),
        ("import os, atexit\natexit.register(lambda: os._exit(0))" + USELESS, 1, ""),
        (USELESS.replace("raise NotImplementedError", "import os; os._exit(0)"), 1, "no verdict"),
        ("import os, sys\nos._exit = lambda _: sys.exit(0)" + USELESS, 1, ""),
        (
            "import os, vae_compat as v\nif hasattr(v, 'seen'): os._exit(0)\nv.seen = 1" + USELESS,
            2,
            "mine",
        ),
    ],
    ids=["at-import", "at-exit", "in-the-run", "without-exit", "at-the-second-import"],
)
def test_no_hook_sets_the_exit_code(tmp_path: Path, hook: str, code: int, match: str) -> None:
    process = start(tmp_path, hook)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    match = match.replace("no verdict", "before there was a verdict")
    assert match in err
    assert len(err.splitlines()) == bool(match)


def test_a_request_to_terminate_reaches_the_process_that_runs(tmp_path: Path) -> None:
    hook = "import os, time\nopen('at', 'w').write(str(os.getpid()))\ntime.sleep(50)"
    process = start(tmp_path, hook)
    while not (tmp_path / "at").exists() or not (tmp_path / "at").read_text():
        time.sleep(0.05)
        assert process.poll() is None
    process.terminate()
    process.communicate(timeout=10)
    assert process.returncode == 3
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "at").read_text()), 0)


@pytest.mark.parametrize("everyone", [True, False], ids=["terminal", "parent-alone"])
def test_an_interrupt_is_no_verdict(tmp_path: Path, everyone: bool) -> None:
    process = start(tmp_path, "open('loading', 'w').close()\nimport time\ntime.sleep(50)")
    while not (tmp_path / "loading").exists():
        time.sleep(0.05)
        assert process.poll() is None
    (os.killpg if everyone else os.kill)(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 3
    assert err == "vae-compat: interrupted\n"
