"""What signals do to a program of ours: quick twins, without Ray, of tests/launch/test_signals_at_random.py."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from raysweep.cluster import processes, signals
from raysweep.cluster.channel import Forward
from raysweep.cluster.signals import StopFlag

# A program that has installed the handlers, says "ready", does something, and would end with 7.
PROGRAM = """
import os, signal, sys, time
from raysweep.cluster import signals
signals.install(quiet={quiet})
signals.GRACE_S = {grace}
{before}
print("ready", flush=True)
try:
{body}
except signals.Interrupted as error:
    print(error, file=sys.stderr)
    signals.leave()
sys.exit(7)
"""
WAITS = "    while True: time.sleep(0.01); {}"


@pytest.fixture(autouse=True)
def without_nohup():
    """What nohup ignores stays ignored, in the programs that are started here, too."""
    before = signal.getsignal(signal.SIGHUP)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def program(body: str, before: str = "", grace: float = 60.0, quiet: bool = False) -> subprocess.Popen[str]:
    code = PROGRAM.format(body=body, before=before, grace=grace, quiet=quiet)
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def ends(process: subprocess.Popen[str], *numbers: int) -> tuple[int, str]:
    """(exit code, stderr) after these signals."""
    for number in numbers:
        process.send_signal(number)
    _, err = process.communicate(timeout=60)
    return process.returncode, err


@pytest.mark.parametrize("number", signals.NUMBERS)
def test_a_safe_point_ends_the_program_and_says_how_to_go_on(number):
    process = program(WAITS.format("signals.check()"), "signals.remember('raysweep continue a')")
    code, told = ends(process, number)
    name = signal.Signals(number).name
    assert told == f"Stopped by {name} before training began; nothing was lost. Go on with: raysweep continue a\n"
    assert code == 130


def test_without_a_safe_point_it_ends_after_a_moment():
    code, told = ends(program(WAITS.format("pass"), grace=0.1), signal.SIGTERM)
    assert (code, told) == (130, f"Stopped by SIGTERM {signals.BEFORE}. Go on with: the same command\n")


@pytest.mark.parametrize("grace", [60.0, 0.1])  # the main thread ends it, or the thread that listens
def test_nothing_is_printed_after_the_last_line(grace):
    """Threads of Ray's complain when their cluster is ended."""
    before = "signals.at_end(lambda: print('Traceback', file=sys.stderr, flush=True))"
    code, told = ends(program(WAITS.format("signals.check()" if grace > 1 else "pass"), before, grace), signal.SIGTERM)
    assert (code, told) == (130, f"Stopped by SIGTERM {signals.BEFORE}. Go on with: the same command\n")


def test_a_place_that_saves_is_not_cut_and_a_second_sigint_cuts_it():
    before = "signals.begun('raysweep continue a')"
    flagged = "    flag = signals.StopFlag()\n    with signals.signals(flag):\n        while not flag.reason: time.sleep(0.01)\n"
    code, told = ends(
        program(f"{flagged}        time.sleep(0.5); print(flag.reason, file=sys.stderr)", before, 0.0), 15
    )
    assert (code, told) == (7, "SIGTERM\n")
    body = f"{flagged}        print('saving', file=sys.stderr, flush=True); time.sleep(60)"
    process = program(body, before, 0.0)
    process.send_signal(signal.SIGTERM)
    assert process.stderr is not None
    assert process.stderr.readline() == "saving\n"
    code, told = ends(process, signal.SIGINT)
    assert code == 130
    assert told.strip() == "Stopped at once. The last committed checkpoint is intact. Go on with: raysweep continue a"


def test_the_first_sigint_is_never_taken_for_a_second():
    """The thread that listens may know of it before the handler runs."""
    body = "    signals._state.reason = 'SIGINT'; signal.raise_signal(signal.SIGINT); time.sleep(0.1)"
    assert ends(program(body)) == (7, "")


def test_a_command_that_trains_nothing_ends_quietly():
    body = "    signal.raise_signal(signal.SIGHUP)\nexcept KeyboardInterrupt:\n    signals.leave()"
    assert ends(program(body, quiet=True)) == (130, "")


@pytest.mark.parametrize("word", ["run", "branch", "hunt", "continue"])
def test_a_training_is_not_cut_in_the_middle(monkeypatch, word):
    from raysweep.cli import entry

    def install(quiet):
        assert quiet is False
        raise SystemExit

    monkeypatch.setattr(sys, "argv", ["raysweep", word])
    monkeypatch.setattr(entry.streams, "open_closed", lambda: None)
    monkeypatch.setattr(signals, "install", install)
    with pytest.raises(SystemExit):
        entry.entry()


def test_one_goes_on_with_the_whole_and_not_with_its_part(monkeypatch):
    monkeypatch.setattr(signals, "_state", signals._State())
    with signals.part_of("raysweep continue all"):
        assert signals.last_line().endswith(" Go on with: raysweep continue all")
        signals.begun("raysweep continue all-r1")
        assert signals.last_line().endswith(" Go on with: raysweep continue all")
    signals.begun("raysweep continue other")
    assert signals.last_line().endswith(" Go on with: raysweep continue other")


def test_what_nohup_ignores_stays_ignored():
    code = f"import signal\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)\n{PROGRAM}"
    code = code.format(body="    time.sleep(0.2)", before="", grace=0.0, quiet=False)
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGHUP)
    assert process.wait() == 7


def test_a_forked_helper_ends_as_any_process_and_does_not_speak_for_its_parent():
    body = (
        "    child = os.fork()\n    if not child:\n        print('forked', flush=True); time.sleep(60); os._exit(1)\n"
    )
    body += "    sys.stdin.readline(); os.kill(child, signal.SIGTERM)\n"
    body += "    print(os.waitstatus_to_exitcode(os.wait()[1]), signals.asked(), file=sys.stderr); time.sleep(0.2)"
    process = program(body, grace=0.0)
    assert process.stdout is not None
    assert process.stdout.readline() == "forked\n"
    _, told = process.communicate("go\n", timeout=60)
    assert (process.returncode, told) == (7, "-15 None\n")


def test_what_others_put_in_place_of_a_handler_is_replaced_again():
    before = signal.getsignal(signal.SIGTERM)
    with signals.kept():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    assert signal.getsignal(signal.SIGTERM) == before


def take_away(number: int) -> None:
    """As a library does: Python hears nothing of it."""
    ctypes.CDLL(None).signal(number, ctypes.c_void_p(0))


# Takes the handler away as Ray's library does when it ends, goes on as Ray does, and gets a signal.
RAY_ENDS = """
from ray._private import worker
from raysweep.cluster import _ray_internals
from tests.cluster.test_signal_handlers import take_away
def end():
    take_away(15)
    worker.FunctionActorManager(worker.global_worker)
    signal.raise_signal(15)
import ray
ray.shutdown = end
"""


def test_what_a_library_takes_away_is_put_back_although_python_believes_it_is_there():
    body = "    with signals.kept(): take_away(15)\n    signal.raise_signal(15); signals.check()"
    code, told = ends(program(body, "from tests.cluster.test_signal_handlers import take_away"))
    assert (code, told) == (130, f"Stopped by SIGTERM {signals.BEFORE}. Go on with: the same command\n")


def test_a_signal_while_ray_ends_is_heard():
    body = "    _ray_internals.shutdown(signals.put_back); signals.check()"
    code, told = ends(program(body, RAY_ENDS))
    assert (code, told) == (130, f"Stopped by SIGTERM {signals.BEFORE}. Go on with: the same command\n")


# Starts and ends a cluster, and gets SIGTERM right after each of both.
A_CLUSTER = """
    connect.connect(None)
    signal.raise_signal(15)
    assert signals.asked() == "SIGTERM"
    signals._state.reason = None
    kill = node.Node.kill_all_processes
    def killed(*arguments, **more):
        signal.raise_signal(15)
        kill(*arguments, **more)
    node.Node.kill_all_processes = killed
    connect.disconnect()
    assert signals.asked() == "SIGTERM"
    signals.check()
"""


@pytest.mark.slow
@pytest.mark.ray
def test_signals_while_a_real_cluster_starts_and_ends_are_heard():
    code, told = ends(program(A_CLUSTER, "from ray._private import node\nfrom raysweep.cluster import connect"))
    assert (code, told) == (130, f"Stopped by SIGTERM {signals.BEFORE}. Go on with: the same command\n")


def test_within_the_python_interface_only_a_training_handles_signals():
    flag, before = StopFlag(), signal.getsignal(signal.SIGHUP)
    with signals.signals(flag):
        os.kill(os.getpid(), signal.SIGHUP)
        assert flag.reason == "SIGHUP"
        signals.check()  # raises nothing
    assert signal.getsignal(signal.SIGHUP) == before
    with signals.signals(again := StopFlag()):
        assert again.reason is None


def test_a_wish_to_stop_is_forwarded_once():
    told: list[str] = []

    class Actor:
        class stop:
            remote = told.append

    forward = Forward(Actor)
    for reason in (None, "SIGTERM", "SIGTERM"):
        forward(reason)
    assert told == ["SIGTERM"]


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="where there is no /proc, Ray's own end has to do")
def test_processes_with_a_mark_are_ended_wherever_they_went():
    code = "import os, time\nif os.fork(): os._exit(0)\nos.setsid(); print(os.getpid(), flush=True); time.sleep(60)"
    with processes.marked() as mark:
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    orphan = int(process.stdout.readline())
    assert process.wait() == 0
    assert processes.with_mark(mark) == [orphan]
    processes.end(mark, patience_s=60.0)
    assert processes.with_mark(mark) == []
    assert processes.MARK not in os.environ


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="where there is no /proc, Ray's own end has to do")
def test_a_process_that_gives_itself_a_title_keeps_its_mark(monkeypatch):
    """As Ray's agents do: the title was written over the beginning of the environment."""
    code = (
        "import ray, sys; ray._raylet.setproctitle('ray::DashboardAgent'); print('ready', flush=True); sys.stdin.read()"
    )
    with processes.marked() as mark:
        first = {processes.MARK: mark, **{k: v for k, v in os.environ.items() if k != processes.MARK}}
        process = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=first
        )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    assert processes.with_mark(mark) == [process.pid]
    processes.end(mark, patience_s=60.0)
    process.communicate()
    assert processes.KEEP not in os.environ


def test_ray_starts_on_its_own():
    """No handler of ours is replaced while a cluster starts, and its processes are in no process group of ours."""
    from ray._private import services, utils

    from raysweep.cluster import _ray_internals

    before = signal.getsignal(signal.SIGTERM), services.ConsolePopen
    with _ray_internals.on_its_own():
        utils.set_sigterm_handler(signal.SIG_IGN)
        assert signal.getsignal(signal.SIGTERM) == before[0]
        process = services.ConsolePopen(["sleep", "60"])
        group = os.getpgid(process.pid)
        process.kill()
        process.wait()
    assert group == process.pid
    assert services.ConsolePopen is before[1]
