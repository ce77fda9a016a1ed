"""What a hook's file does on import can cost only that hook its run."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

import pytest

from vae_compat.errors import UsageError
from vae_compat.isolation import client
from vae_compat.isolation.client import Ended, Nursery, RunnerClient, shared_nursery
from vae_compat.subject.describing import SERVER, describe
from vae_compat.subject.messages import HookFacts
from vae_compat.suites.selftest.hostile import alive, loading

pytestmark = pytest.mark.slow

SOUND = """
class Hook:
    def __init__(self, net, tile_size, is_decoder):
        pass

    def __call__(self, x):
        return x
"""


def _loaded(nursery: Nursery, folder: Path, source: str, *, idle: float = 2) -> HookFacts:
    told = loading(folder, "hook", source)
    found = RunnerClient(SERVER, told, HookFacts, nursery, idle=idle)
    found.close()
    return found.facts


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("import os; os._exit(4)", "status 4"),
        ("import os; os.abort()", "SIGABRT"),
        ("import os; os.closerange(3, 256)", "status 1"),
        ("import time; time.sleep(1000)", "waiting for 2 s"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSTOP)", "waiting for 2 s"),
        ("import os\nif os.fork() == 0:\n  while True: pass\nos._exit(0)", "status 0"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
    ],
)
def test_an_import_that_ends_or_waits_is_told(
    nursery: Nursery, tmp_path: Path, source: str, words: str
) -> None:
    with pytest.raises(Ended) as ended:
        _loaded(nursery, tmp_path, source)
    assert words in ended.value.told
    assert _loaded(nursery, tmp_path, SOUND).apart


def test_an_import_that_computes_without_end_has_a_limit(
    nursery: Nursery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "LOADING", 0.0)  # of the watch from outside
    monkeypatch.setattr("vae_compat.isolation.watching.LOADING", 0.1)
    monkeypatch.setattr("vae_compat.isolation.watching.GRACE", 1.0)
    with pytest.raises(Ended, match="still running") as ended:
        _loaded(nursery, tmp_path, "while True: pass")
    assert ended.value.by_limit


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("raise SystemExit(0)", "SystemExit"),
        ("raise GeneratorExit", "GeneratorExit"),
        ("raise TimeoutError('x')", "TimeoutError"),
        ("raise ValueError('a\\ud800\\x1b[2Jb')", "a\\ud800\\x1b[2Jb"),
        ("Hook = 3", "called"),
    ],
)
def test_an_import_that_raises_is_wrong_use(
    nursery: Nursery, tmp_path: Path, source: str, words: str
) -> None:
    with pytest.raises(UsageError) as told:
        _loaded(nursery, tmp_path, source)
    assert words in str(told.value)
    assert "\x1b" not in str(told.value)
    str(told.value).encode()


@pytest.mark.parametrize(
    "written",
    [
        "b'garbage' * 100",
        "b'VAEC' + b'A' + b'\\xff' * 16",
        "b'VAEC' + b'A' + (2).to_bytes(8, 'little') + bytes(8) + b'{}'",
        "b'VAEC' + b'Q' + bytes(16)",
        "b'VAEC' + b'B' + (2).to_bytes(8, 'little') + bytes(8) + b'[]'",
    ],
)
def test_garbage_among_the_answers_ends_the_runner(
    nursery: Nursery, tmp_path: Path, written: str
) -> None:
    source = (
        "import os, stat\n"
        "for fd in range(3, 30):\n"
        "  try:\n"
        f"    stat.S_ISFIFO(os.fstat(fd).st_mode) and os.write(fd, {written})\n"
        "  except OSError: pass\n"
    )
    with pytest.raises(Ended, match="no answer"):
        _loaded(nursery, tmp_path, source + SOUND)
    assert _loaded(nursery, tmp_path, SOUND).apart


def test_a_flood_of_answers_is_no_memory_of_the_judge(nursery: Nursery, tmp_path: Path) -> None:
    source = (
        "import os, stat, struct\n"
        "fds = [fd for fd in range(3, 30) if os.path.exists(f'/proc/self/fd/{fd}')]\n"
        "out = [fd for fd in fds if stat.S_ISFIFO(os.fstat(fd).st_mode)][-1]\n"
        "text = b'{\"seconds\": 1e300}'\n"
        "beat = b'VAEC' + b'B' + struct.pack('<QQ', len(text), 0) + text\n"
        "while True:\n  for fd in fds:\n    try: os.write(fd, beat * 1000)\n"
        "    except OSError: pass\n"
    )
    with pytest.raises(Ended, match="again and again"):
        _loaded(nursery, tmp_path, source)


def test_a_flood_of_output_is_kept_to_its_last(nursery: Nursery, tmp_path: Path) -> None:
    source = "import os\nfor _ in range(500): os.write(1, b'y' * 65536)\nos._exit(1)"
    with pytest.raises(Ended) as ended:
        _loaded(nursery, tmp_path, source)
    assert 0 < len(ended.value.detail) < 20_000


def test_a_command_says_in_one_sentence_what_became_of_the_import(tmp_path: Path) -> None:
    told = loading(tmp_path, "hook", "import os; os._exit(9)")
    with pytest.raises(UsageError, match=r"hook\.py:Hook cannot be loaded: .* status 9"):
        describe(told)


def test_nothing_of_the_file_is_in_this_process(nursery: Nursery, tmp_path: Path) -> None:
    mark = "import sys, builtins\nsys.modules['mark_of_the_hook'] = sys\nbuiltins.mark = 1\n"
    _loaded(nursery, tmp_path, mark + SOUND)
    assert "mark_of_the_hook" not in sys.modules
    assert not hasattr(sys.modules["builtins"], "mark")


def test_runners_come_from_one_process_while_they_inherit_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(client, "_SHARED", {})
    first = shared_nursery()
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "anywhere")  # as torch does by itself
    assert shared_nursery() is first
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    assert shared_nursery() is not first


def test_a_nursery_that_was_killed_is_replaced(nursery: Nursery, tmp_path: Path) -> None:
    _loaded(nursery, tmp_path, SOUND)
    assert nursery._process is not None
    first = nursery._process.pid
    kill = (
        "import os, signal\n"
        "def above(p): return int(open(f'/proc/{p}/stat').read().rpartition(')')[2].split()[1])\n"
        "os.kill(above(os.getppid()), signal.SIGKILL)\nimport time; time.sleep(100)"
    )
    with pytest.raises(Ended, match="SIGKILL"):
        _loaded(nursery, tmp_path, kill, idle=30)
    assert _loaded(nursery, tmp_path, SOUND).apart
    assert nursery._process.pid != first
    assert not alive(first)


def test_a_nursery_that_was_stopped_goes_on(nursery: Nursery, tmp_path: Path) -> None:
    _loaded(nursery, tmp_path, SOUND)
    assert nursery._process is not None
    nursery._process.send_signal(signal.SIGSTOP)
    assert _loaded(nursery, tmp_path, SOUND).apart


def test_a_runner_goes_with_its_judge(tmp_path: Path) -> None:
    import os
    import subprocess

    told = loading(tmp_path, "hook", SOUND)
    program = (
        "import sys, time\n"
        "from vae_compat.isolation.client import RunnerClient\n"
        "from vae_compat.subject.messages import HookFacts, Loading\n"
        f"c = RunnerClient({SERVER!r}, {told!r}, HookFacts)\n"
        "from vae_compat.isolation.processes import below\n"
        "import os; print(*below(os.getpid()), flush=True)\ntime.sleep(1000)\n"
    )
    judge = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert judge.stdout is not None
    numbers = [int(word) for word in judge.stdout.readline().split()]
    os.kill(judge.pid, signal.SIGKILL)
    judge.communicate()
    until = time.monotonic() + 60
    while any(map(alive, numbers)) and time.monotonic() < until:
        time.sleep(0.05)
    assert len(numbers) >= 2
    assert not any(map(alive, numbers))
