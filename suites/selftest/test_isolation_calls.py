"""What a hook does to its runner in a call costs it that case, and nobody anything else."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers.models.resnet import ResnetBlock2D

from vae_compat.isolation import watching
from vae_compat.isolation.client import Nursery
from vae_compat.measure import distance
from vae_compat.measure.observation import Observation, Origin
from vae_compat.scenarios import case_runner, runners
from vae_compat.scenarios.asking import Ask
from vae_compat.suites.selftest.hostile import CASE, NEXT, Bench, alive, benched, sound, wrong

pytestmark = pytest.mark.slow

CHILD = """
import os, signal, time
def start(how):
    ready, written = os.pipe()
    first = os.fork()
    if first == 0:
        if "session" in how:
            os.setsid()
        if "twice" in how and os.fork():
            os._exit(0)
        os.write(written, str(os.getpid()).encode())
        if "bare" in how:
            os.execve("/bin/sleep", ["sleep", "1000"], {})
        while True:
            time.sleep(100) if "sleeps" in how else None
    if "twice" in how:
        os.waitpid(first, 0)
    pid = os.read(ready, 20).decode()
    open(PLACE, "w").write(pid)
"""
MEMORY = 300 * 2**20
NATIVE = "import ctypes, os, signal, threading, time\n"


@pytest.fixture(autouse=True)
def _limits_of_the_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test allows a call holds, however long untiled took on this machine."""
    monkeypatch.setattr(case_runner, "seconds_for", lambda least, _untiled: least)
    monkeypatch.setattr(runners, "PATIENCE", 1000)  # one folder serves all of these hooks
    monkeypatch.setattr(watching, "GRACE", 0.2)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, nursery: Nursery) -> Iterator[Bench]:
    """One hook, in one runner as long as that lives."""
    folder = tmp_path_factory.mktemp("calls")
    with benched(Bench(folder, idle=1, seconds=1, nursery=nursery)) as made:
        yield made


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, nursery: Nursery) -> Iterator[Bench]:
    """The same with little memory."""
    folder = tmp_path_factory.mktemp("small")
    with benched(Bench(folder, memory=MEMORY, nursery=nursery)) as made:
        yield made


@pytest.fixture(autouse=True)
def _the_next_case_is_unharmed(bench: Bench) -> Iterator[None]:
    yield
    bench.forgive()
    assert sound(bench.observe(case=NEXT))


def _child(bench: Bench, how: str, end: str) -> str:
    place = bench.folder / "child"
    place.unlink(missing_ok=True)
    return f"PLACE = {str(place)!r}\n{CHILD}\nstart({how!r})\n{end}"


def _gone(bench: Bench) -> bool:
    return not alive(int((bench.folder / "child").read_text()))


def test_a_result_is_measured_once_for_all_checks(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured, measure = [], distance.distance
    monkeypatch.setattr(distance, "distance", lambda *all: measured.append(1) or measure(*all))
    assert sound(bench.observe())
    assert measured == [1]


def test_a_hook_that_does_nothing_of_the_kind_passes_in_one_warm_runner(bench: Bench) -> None:
    assert sound(bench.observe())
    warm = bench.process()
    assert sound(bench.observe(case=NEXT))
    assert bench.process() == warm


@pytest.mark.parametrize(
    ("act", "words"),
    [
        ("import os; os._exit(0)", "status 0"),
        ("import os; os._exit(7)", "status 7"),
        ("import os; os.abort()", "SIGABRT"),
        ("import ctypes; ctypes.string_at(0)", "SIGSEGV"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", "SIGTERM"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGINT)", "SIGINT"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL"),
        ("import os, signal; os.killpg(0, signal.SIGKILL)", "SIGKILL"),
        ("import os, signal; os.kill(os.getppid(), signal.SIGKILL)", "SIGKILL"),
    ],
)
def test_the_end_of_its_process_is_the_failure_of_that_case(
    bench: Bench, act: str, words: str
) -> None:
    observed = bench.observe(act)
    assert observed.failure is not None
    assert observed.failure.origin is Origin.DEATH
    assert words in observed.failure.message
    assert "completes" in wrong(observed)


def test_closed_descriptors_are_one_death_and_not_many(bench: Bench) -> None:
    observed = bench.observe("import os; os.closerange(3, 256)")
    assert observed.failure is not None
    assert observed.failure.origin is Origin.DEATH
    assert "Bad file descriptor" in observed.failure.traceback


@pytest.mark.parametrize(
    "how", ["sleeps", "sleeps session", "sleeps session twice", "session twice bare", "computes"]
)
def test_a_crash_is_noticed_at_once_and_children_end_with_it(bench: Bench, how: str) -> None:
    observed = bench.observe(_child(bench, how, "os._exit(3)"))
    assert observed.failure is not None
    assert observed.failure.origin is Origin.DEATH  # and no limit: nobody waits for the child
    assert "status 3" in observed.failure.message
    assert _gone(bench)


@pytest.mark.parametrize("how", ["sleeps", "session twice", "session twice bare"])
def test_a_child_that_outlives_the_call_does_not_outlive_the_case(bench: Bench, how: str) -> None:
    bench.observe(_child(bench, how, ""))
    before = bench.process()
    assert sound(bench.observe(case=NEXT))
    assert bench.process() != before
    assert _gone(bench)


@pytest.mark.parametrize(
    ("act", "words"),
    [
        ("while True: pass", "still running after 1 s of CPU time"),
        ("import re; re.match('(a|aa)+$', 'a' * 64 + 'b')", "still running"),
        ("signal.setitimer(signal.ITIMER_PROF, 0)\nwhile True: pass", "stuck where it could not"),
        ("signal.setitimer = len\nwhile True: pass", "still running after 1 s"),
        ("signal.signal(signal.SIGPROF, signal.SIG_IGN)\nwhile True: pass", "stuck where it"),
        (
            # Whether the one interrupt is caught depends on where the loop is at that moment.
            "while True:\n  try:\n    while True: pass\n  except BaseException: pass",
            "still running after",
        ),
    ],
)
def test_computing_without_end_is_a_limit(bench: Bench, act: str, words: str) -> None:
    observed = bench.observe(NATIVE + act)
    assert observed.failure is not None
    assert observed.failure.origin is Origin.LIMIT
    assert words in observed.failure.message


@pytest.mark.parametrize(
    "act",
    [
        "time.sleep(1000)",
        "ctypes.CDLL(None).pause()",
        "ctypes.PyDLL(None).pause()",
        "while True: time.sleep(0.02)",
        "threading.Event().wait()",
        "signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65)); time.sleep(1000)",
        "os.kill(os.getpid(), signal.SIGSTOP)",
        "os.kill(os.getppid(), signal.SIGSTOP); time.sleep(1000)",
        "os.read(os.pipe()[0], 1)",
    ],
)
def test_waiting_for_what_does_not_come_is_a_limit(bench: Bench, act: str) -> None:
    observed = bench.observe(NATIVE + act)
    assert observed.failure is not None
    assert observed.failure.origin is Origin.LIMIT
    assert "waiting for 1 s without using the CPU" in observed.failure.message


@pytest.mark.parametrize(
    ("act", "kind"),
    [
        ("raise TimeoutError('still running after 120 s')", "TimeoutError"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("raise SystemExit(0)", "SystemExit"),
        ("raise GeneratorExit", "GeneratorExit"),
    ],
)
def test_what_a_hook_raises_is_its_own_failure(bench: Bench, act: str, kind: str) -> None:
    observed = bench.observe(NATIVE + act)
    assert observed.failure is not None
    assert (observed.failure.kind, observed.failure.origin) == (kind, Origin.HOOK)
    assert not observed.failure.hung


def test_a_hook_that_damages_its_runner_s_code_is_at_fault(bench: Bench) -> None:
    act = "import vae_compat.scenarios.single as single\nsingle.WholePerformed = None"
    observed = bench.observe(act)
    assert observed.failure is not None
    assert observed.failure.origin is Origin.DEATH
    assert "could not go on: TypeError" in observed.failure.message


def test_what_breaks_a_runner_with_any_hook_is_a_fault_of_the_harness(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    perform = runners.InRunners.perform

    def without_weights(self: runners.InRunners, name: str, ask: Ask, kind: type) -> object:
        return perform(self, name, replace(ask, weights={"sd-mock": "/nowhere"}), kind)

    with monkeypatch.context() as patch:
        patch.setattr(runners.InRunners, "perform", without_weights)
        with pytest.raises(runners.BrokenRunnerError, match="could not go on"):
            bench.observe()


def test_an_interrupt_from_a_thread_ends_that_runner_alone(bench: Bench) -> None:
    thread = (
        "t = threading.Thread(target=lambda: os.kill(os.getpid(), signal.SIGINT))\n"
        "t.start(); t.join(); time.sleep(1)"
    )
    observed = bench.observe(NATIVE + thread)
    assert observed.failure is not None
    assert observed.failure.origin is Origin.DEATH
    assert "SIGINT" in observed.failure.message


@pytest.mark.parametrize("number", ["SIGKILL", "SIGTERM", "SIGINT"])
def test_a_runner_that_somebody_else_has_stopped_is_asked_again(bench: Bench, number: str) -> None:
    once = bench.folder / "once"
    once.unlink(missing_ok=True)
    act = (
        f"import pathlib\nonce = pathlib.Path({str(once)!r})\n"
        f"if not once.exists():\n  once.touch()\n  os.kill(os.getpid(), signal.{number})\n"
    )
    assert sound(bench.observe(NATIVE + act))
    assert once.exists()


def test_a_thread_that_goes_on_is_told_and_the_runner_not_used_again(bench: Bench) -> None:
    goes_on = "def on():\n  while True: time.sleep(0.01)\n"
    thread = f"{goes_on}threading.Thread(target=on, daemon=True).start()"
    observed = bench.observe(NATIVE + thread)
    assert isinstance(observed, Observation)
    assert any("thread" in told for told in observed.residue)
    warm = bench.process()
    assert sound(bench.observe(case=NEXT))
    assert bench.process() != warm


def test_what_ends_the_runner_after_its_answer_is_not_held_against_the_next_case(
    bench: Bench,
) -> None:
    # A timer of the system runs in no thread, and nothing shows that it is set.
    act = "signal.signal(signal.SIGALRM, signal.SIG_DFL); signal.setitimer(signal.ITIMER_REAL, 1)"
    assert "completes" not in wrong(bench.observe(NATIVE + act))
    time.sleep(1.5)
    assert sound(bench.observe(case=NEXT))


def test_a_thread_that_python_does_not_list_is_told_as_well(bench: Bench) -> None:
    act = "import _thread\n_thread.start_new_thread(lambda: time.sleep(1000), ())"
    observed = bench.observe(NATIVE + act)
    assert isinstance(observed, Observation)
    assert any("thread" in told for told in observed.residue)


OF_THE_KEEPER = """
import struct
keeper = os.getppid()
def tell(what):
    for fd in os.listdir(f"/proc/{keeper}/fd"):
        try:
            end = os.open(f"/proc/{keeper}/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK)
            os.write(end, what)
        except OSError: pass
"""


@pytest.mark.parametrize("told", ["struct.pack('<i', 0)", "b'x'", "struct.pack('<ii', 0, 0)"])
def test_the_end_of_a_runner_cannot_be_told_by_the_hook(bench: Bench, told: str) -> None:
    act = f"{OF_THE_KEEPER}\ntell({told})\nwhile True: pass"
    observed = bench.observe(NATIVE + act)
    assert observed.failure is not None
    assert observed.failure.origin is Origin.LIMIT
    assert "still running after 1 s" in observed.failure.message


def test_what_has_lost_its_keeper_and_its_environment_ends_all_the_same(bench: Bench) -> None:
    end = "os.kill(os.getppid(), signal.SIGKILL); time.sleep(1000)"
    bench.observe(NATIVE + _child(bench, "session twice bare", end))
    assert _gone(bench)


def test_another_hook_cannot_have_one_given_up(bench: Bench) -> None:
    place = bench.folder / "shared" / "ended" / "hook"
    act = (
        f"import pathlib\nplace = pathlib.Path({str(place)!r})\n"
        "place.mkdir(parents=True, exist_ok=True)\n"
        "for name in 'abcd': (place / name).touch()\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runners, "PATIENCE", 3)
        assert sound(bench.observe(act))
        assert sound(bench.observe(case=NEXT))


def test_functions_of_the_runner_that_are_replaced_are_the_hooks_own_loss(bench: Bench) -> None:
    observed = bench.observe("import os\nos._exit = os.write = os.read = lambda *_: 0")
    assert observed.failure is None or observed.failure.origin is Origin.DEATH
    bench.close()


@pytest.mark.parametrize(
    "text", ["a\ud800b", "\x1b[2J\x1b]0;gate holds\x07", "a\0b", "\u202egate holds", "\n" * 9]
)
def test_nothing_of_a_message_can_be_obeyed_by_a_terminal(bench: Bench, text: str) -> None:
    act = (
        f"import sys, os\ntext = {text!r}\n"
        "os.write(1, text.encode('utf-8', 'surrogatepass'))\n"
        "raise type(text, (ValueError,), {})(text)"
        if "\0" not in text and "\ud800" not in text
        else f"raise ValueError({text!r})"
    )
    observed = bench.observe(act)
    failure = observed.failure
    assert failure is not None
    assert failure.origin is Origin.HOOK
    shown = (failure.message, failure.kind, failure.where, failure.traceback, observed.printed)
    for words in shown:
        words.encode("utf-8")
        assert not set(words) & set("\x1b\x07\0\u202e")


def test_what_is_printed_is_kept_to_its_last_and_shown_with_the_case(bench: Bench) -> None:
    act = "import os\nfor _ in range(300): os.write(1, b'x' * 65536)\nprint('the last', flush=True)"
    observed = bench.observe(act)
    assert sound(observed)
    assert observed.printed.endswith("the last\n")
    assert len(observed.printed) < 20_000
    assert not bench.observe().printed


@pytest.mark.parametrize(
    "take",
    [
        "kept = ctypes.create_string_buffer(SIZE)",
        "import mmap; kept = mmap.mmap(-1, SIZE)",
        "f = os.memfd_create('x'); [os.write(f, bytes(2**24)) for _ in range(SIZE // 2**24)]",
        "f = os.open('/dev/shm/vae-compat-test', os.O_RDWR | os.O_CREAT); "
        "os.unlink('/dev/shm/vae-compat-test'); "
        "[os.write(f, bytes(2**24)) for _ in range(SIZE // 2**24)]",
        "import torch; kept = torch.empty(SIZE, dtype=torch.uint8).share_memory_()",
    ],
)
def test_memory_of_every_kind_is_limited(small: Bench, take: str) -> None:
    assert sound(small.observe())
    observed = small.observe(NATIVE + f"SIZE = {2 * MEMORY}\n{take}", case=NEXT)
    assert observed.failure is not None
    # Its own limit stops it, unless whoever watches it has seen it first.
    assert observed.failure.origin in (Origin.HOOK, Origin.LIMIT)


def test_many_files_in_memory_are_limited_as_well(small: Bench) -> None:
    act = (
        "files = [os.memfd_create('x') for _ in range(8)]\n"
        "for f in files: [os.write(f, bytes(2**24)) for _ in range(3)]\n"
        "time.sleep(5)"
    )
    observed = small.observe(NATIVE + act)
    assert observed.failure is not None
    assert observed.failure.origin is Origin.LIMIT
    assert "GiB of memory" in observed.failure.message


def test_weights_that_are_changed_harm_that_case_alone(bench: Bench) -> None:
    act = "for p in net.parameters(): p.data.add_(1.0)"
    assert not sound(bench.observe(act))
    warm = bench.process()
    assert sound(bench.observe())
    assert bench.process() == warm


def test_no_weights_are_shared_with_anybody(bench: Bench) -> None:
    act = "import torch\nfor p in net.parameters(): p.data.view(-1)[:].fill_(float('nan'))"
    assert not sound(bench.observe(act))
    assert sound(bench.observe(case=NEXT))
    (place,) = bench.untiled.weights([CASE]).values()
    assert b"\xff\xff\xc0\x7f" * 4 not in Path(place).read_bytes()


def test_weights_cannot_be_exchanged(bench: Bench) -> None:
    (place,) = bench.untiled.weights([CASE]).values()
    act = f"import os; os.write(os.open({place!r}, os.O_RDWR), b'wrong')"
    observed = bench.observe(act)
    assert observed.failure is not None
    assert observed.failure.kind == "PermissionError"


def test_no_result_of_untiled_is_to_be_found_in_the_process_of_a_hook(bench: Bench) -> None:
    act = """
import gc, sys
import torch
frame, found = sys._getframe(), []
while frame is not None:
    names = {**frame.f_locals, **frame.f_globals}
    found += [name for name in names if name in ("baseline", "truth", "gate")]
    frame = frame.f_back
shape = (1, 3, 8 * x.shape[-2], 8 * x.shape[-1])
tensors = [one for one in gc.get_objects() if type(one) is torch.Tensor]
found += [one for one in tensors if tuple(one.shape) == shape]
judge = ("judge", "measure.bench", "scenarios.case_runner")
modules = [name for name in judge if f"vae_compat.{name}" in sys.modules]
raise ValueError(f"{len(tensors) > 0} {found} {modules} {'pytest' in sys.modules}")
"""
    observed = bench.observe(act)
    assert observed.failure is not None
    assert observed.failure.message == "True [] [] False"


def test_nothing_of_a_hook_reaches_this_process(bench: Bench) -> None:
    before = (ResnetBlock2D.forward, torch.nn.functional.silu, set(sys.modules))
    act = """
import builtins, sys, torch
from diffusers.models.resnet import ResnetBlock2D
sys.modules["mark_of_the_hook"] = sys
builtins.mark_of_the_hook = torch.mark_of_the_hook = True
ResnetBlock2D.forward = lambda self, x, temb=None: x
torch.nn.functional.silu = torch.nn.functional.relu
"""
    bench.observe(act)
    assert (ResnetBlock2D.forward, torch.nn.functional.silu) == before[:2]
    assert "mark_of_the_hook" not in {*vars(torch), *sys.modules, *vars(sys.modules["builtins"])}
    bench.close()
    assert sound(bench.observe())


def test_a_judge_that_is_slow_to_ask_is_nothing_to_a_runner(bench: Bench) -> None:
    assert sound(bench.observe())
    time.sleep(0.1)
    assert sound(bench.observe(case=CASE))
