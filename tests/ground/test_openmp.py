"""Threads that wait without burning the time of others, as many as the user and the container allow."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from raysweep import _machine, _openmp


@pytest.mark.parametrize(("busy", "way", "more"), [(True, "sleep", _openmp.CALM), (False, "spin", {})])
def test_waiting_threads_sleep_on_a_busy_machine_unless_the_user_has_decided(monkeypatch, busy, way, more):
    monkeypatch.setattr(_openmp, "others_run", lambda: busy)
    environment: dict[str, str] = {}
    _openmp.settle(environment)
    assert environment == {_openmp.DECIDED: way, **more}
    assert _openmp.described(environment) == environment
    monkeypatch.setattr(_openmp, "others_run", lambda: not busy)
    _openmp.settle(environment)  # also in a process that was started meanwhile, or in which it is asked again
    assert environment == {_openmp.DECIDED: way, **more}
    for name in ("GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_WAIT_POLICY"):
        environment = {name: "7"}
        _openmp.settle(environment)
        assert environment == {name: "7"}
        assert _openmp.described(environment) == environment


@pytest.mark.parametrize(
    ("running", "cpus", "of", "others"),
    [
        ([1, 1, 1], 2, 2, False),
        ([2, 2, 2], 2, 2, True),
        ([2, 1, 3], 2, 2, False),  # something that ran for a moment
        ([9, 9, 9], 4, 64, False),  # there is room for all
        ([62, 62, 62], 4, 64, True),
        ([2, 2, 2], 64, 64, True),
    ],
)
def test_other_programs_are_seen_where_they_use_the_same_cpus(monkeypatch, running, cpus, of, others):
    looks = iter(running)

    class Stat:
        def read_text(self):
            return f"cpu 1 2 3\nprocesses 9\nprocs_running {next(looks)}\nprocs_blocked 0\n"

    monkeypatch.setattr(_machine, "cpus_here", lambda: cpus)
    monkeypatch.setattr(os, "cpu_count", lambda: of)
    assert _openmp.others_run(Stat()) is others


def test_without_linux_the_load_of_the_last_minute_tells(monkeypatch, tmp_path):
    monkeypatch.setattr(_machine, "cpus_here", lambda: 2)
    for load, others in ((0.5, False), (6.0, True)):
        monkeypatch.setattr(os, "getloadavg", lambda load=load: (load, 0, 0))
        assert _openmp.others_run(tmp_path / "nothing") is others


def test_a_process_that_computes_is_seen():
    """On this machine as it is: with one more than there are CPUs some always wait for their turn."""
    if not Path("/proc/stat").exists():
        pytest.skip("this is not Linux")
    beside = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() + 1)]
    try:
        assert _openmp.others_run()
    finally:
        for process in beside:
            process.kill()
            process.wait()


def test_it_is_set_before_torch_is_loaded_and_read_by_the_library():
    """Whatever is imported first of raysweep; the library that comes with torch tells what it has read."""
    import importlib.util

    (torch,) = importlib.util.find_spec("torch").submodule_search_locations  # not imported, which takes seconds
    libraries = [*Path(torch, "lib").glob("libgomp*"), *Path(torch).parent.glob("torch.libs/libgomp*")]
    if not libraries:
        pytest.skip("torch is not built with GCC's OpenMP")
    environment = {k: v for k, v in os.environ.items() if k not in (*_openmp.CHOSEN, _openmp.DECIDED)} | {
        "OMP_DISPLAY_ENV": "verbose"
    }
    code = (
        "import raysweep.errors, sys, importlib.util; from raysweep import _openmp; _openmp.others_run = lambda: True; "
        "assert 'torch' not in sys.modules; importlib.util.find_spec('torch'); "  # as an import begins
        f"import ctypes; ctypes.CDLL({str(libraries[0])!r})"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert "GOMP_SPINCOUNT = '1000'" in done.stderr


def test_whoever_finds_torch_is_asked_too(monkeypatch):
    """Other programs have finders of their own, such as profilers."""
    import importlib.util

    asked = []

    class Finder:
        def find_spec(self, name, path=None, target=None):
            asked.append(name)

    monkeypatch.setattr(_openmp, "settle", lambda: asked.append("settled"))
    others = [finder for finder in sys.meta_path if not isinstance(finder, _openmp._BeforeTorch)]
    monkeypatch.setattr(sys, "meta_path", [_openmp._BeforeTorch(), Finder(), *others])
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    assert importlib.util.find_spec("torch") is not None
    assert asked == ["settled", "torch"]


@pytest.mark.parametrize(
    ("text", "number"), [("3", 3), (" 4,2", 4), ("", None), ("0", None), ("all", None), ("-1", None), ("2.5", None)]
)
def test_the_number_of_threads_that_the_user_set(text, number):
    assert _openmp.threads_wanted({"OMP_NUM_THREADS": text}) == number


def test_threads_are_those_that_the_user_set_and_it_is_said(monkeypatch):
    from raysweep.config.running import ScalingSection
    from raysweep.plan import resources

    monkeypatch.setattr(_machine, "cpus_here", lambda: 4)
    monkeypatch.setattr(resources, "gpus_here", lambda: 0)
    for variable, threads, told in (("1", 1, True), ("3", 3, True), ("4", 4, False), ("64", 4, False), ("", 4, False)):
        monkeypatch.setenv("OMP_NUM_THREADS", variable)
        auto = ScalingSection(num_workers=0)
        decided = resources.decide(auto)
        assert (decided.cpus, decided.threads) == (4, threads)
        assert bool(resources.notes(auto, decided)) == told
        two = ScalingSection(num_workers=0, threads=2)  # what is said in the configuration holds
        assert resources.decide(two).threads == 2
        assert resources.notes(two, resources.decide(two)) == ()


@pytest.mark.parametrize(
    ("groups", "files", "quota"),
    [
        ("0::/a/b", {"a/b/cpu.max": "150000 100000"}, 1.5),
        ("0::/a/b", {"a/b/cpu.max": "max 100000", "a/cpu.max": "50000 100000"}, 0.5),  # of a group above
        ("0::/", {"cpu.max": "200000 100000"}, 2.0),  # within a container
        ("0::/not/mounted", {"cpu.max": "200000 100000"}, 2.0),
        ("0::/a", {}, None),
        ("3:cpu,cpuacct:/x\n0::/", {"cpu,cpuacct/x/cpu.cfs_quota_us": "300000", "cpu,cpuacct/x/cpu.cfs_period_us": "100000"}, 3.0),
        ("3:cpu:/x", {"cpu/x/cpu.cfs_quota_us": "-1", "cpu/x/cpu.cfs_period_us": "100000"}, None),
        ("3:memory:/x", {"memory/x/cpu.max": "1 100000"}, None),
        ("nonsense", {}, None),
    ],
)  # fmt: skip
def test_the_quota_of_a_container(tmp_path, groups, files, quota):
    (tmp_path / "cgroup").write_text(groups + "\n")
    mounted = tmp_path / "fs"
    for name, text in files.items():
        (mounted / name).parent.mkdir(parents=True, exist_ok=True)
        (mounted / name).write_text(text + "\n")
    assert _machine.cpu_quota(tmp_path / "cgroup", mounted) == quota


def test_fewer_cpus_by_quota_than_by_affinity(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3}, raising=False)
    for quota, cpus in ((None, 4), (2.5, 2), (0.5, 1), (64.0, 4)):
        monkeypatch.setattr(_machine, "cpu_quota", lambda quota=quota: quota)
        assert _machine.cpus_here() == cpus


def test_a_busy_machine_is_said_once(monkeypatch, capsys):
    from raysweep.display.run import RunDisplay
    from raysweep.events import Connecting, ExperimentStarted

    monkeypatch.setattr(_machine, "cpus_here", lambda: 2)
    for load, line in ((0.5, None), (2.9, None), (6.2, "2 CPUs, load 6: ")):
        monkeypatch.setattr(os, "getloadavg", lambda load=load: (load, 0, 0))
        said = _machine.busy()
        assert said is None if line is None else said and said.startswith(line)
    for first, times in ((Connecting(None), 1), (Connecting("auto"), 0)):  # elsewhere this machine does not matter
        with RunDisplay() as display:
            display(first)
            display(ExperimentStarted("x", "x", 2))
            display(ExperimentStarted("x", "x", 2))
        assert capsys.readouterr().err.count("load 6") == times
