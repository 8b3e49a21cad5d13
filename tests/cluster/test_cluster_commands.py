"""Every command in the cluster files and in their guide exists, and the script for Slurm does what its comments say."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.clusterfiles import EVERY, PROJECT, RAY_FILES, SLURM, calls, load, read, shell

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Ray's command line imports Ray Serve


def parse_ray(arguments: list[str]) -> None:
    """Raise a click error if Ray has no such command or option, or if an option lacks its value."""
    from ray.scripts.scripts import cli

    command: Any = cli
    context = cli.make_context("ray", ["--help"], resilient_parsing=True)
    while hasattr(command, "resolve_command"):
        context.resilient_parsing = False  # otherwise click would accept everything
        name, found, arguments = command.resolve_command(context, arguments)
        context = found.make_context(name, [], parent=context, resilient_parsing=True)
        command = found
    context.resilient_parsing = False
    command.make_parser(context).parse_args(list(arguments))


def parse_raysweep(arguments: list[str]) -> None:
    """The same for raysweep. Settings after the options must exist, too."""
    import typer

    from raysweep.cli.main import _register, app
    from raysweep.config import load as load_config

    _register([])
    group = typer.main.get_command(app)
    name, command, rest = group.resolve_command(group.make_context("raysweep", ["list"]), arguments)
    context = command.make_context(name, [], resilient_parsing=True)
    context.resilient_parsing = False
    given, left, _ = command.make_parser(context).parse_args(list(rest))
    assert not left
    load_config.load(str(PROJECT / "configs" / "base.yaml"), list(given.get("overrides") or []), {})
    for file in (given.get("config"), given.get("weights_grid")):
        assert not file or (PROJECT / "configs" / Path(file).name).is_file(), f"configs/ has no {file}"


def parse_nodes(arguments: list[str]) -> None:
    """The same for nodes.py, without its ``--`` and the command after it."""
    with pytest.raises(SystemExit) as ended:
        load("nodes").main([*arguments, "--help"] if arguments else ["--help"])
    assert ended.value.code == 0


PARSERS = {"ray": parse_ray, "raysweep": parse_raysweep, "nodes.py": parse_nodes}


@pytest.mark.parametrize("path", EVERY, ids=lambda p: p.name)
def test_every_command_and_option_exists(path):
    for line in shell(path):
        for program, arguments in calls(line):
            try:
                PARSERS[program](arguments)
            except Exception as error:
                pytest.fail(f"{line}: {error}")


def test_the_commands_are_found():
    """Otherwise the test above would pass because it finds no commands."""
    counts = {path.name: sum(1 for line in shell(path) for _ in calls(line)) for path in EVERY}
    least = {
        "cluster.yaml": 10,
        "gcp.yaml": 5,
        "static.yaml": 8,
        "kuberay-rayjob.yaml": 3,
        "slurm.sh": 4,
        "cluster.md": 50,
    }
    assert all(counts[name] >= n for name, n in least.items()), counts


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("ray start --head --dashbord-host=127.0.0.1", "dashbord"),
        ("ray job sumbit -- raysweep list", "sumbit"),
        ("ray job submit --adress http://127.0.0.1:8265 -- raysweep list", "adress"),
        ("ray job submit -- raysweep run base.yaml --rot s3://b/p", "rot"),
        ("ray job submit -- python clusters/nodes.py 1 -- raysweep runn base.yaml", "runn"),
        ("raysweep run base.yaml scaling.use_gpus=true", "use_gpus"),
        ("raysweep run bass.yaml", "bass"),
        ("sbatch slurm.sh branch --from base@3 --weights-gird grid.yaml", "gird"),
    ],
)
def test_a_command_that_does_not_exist_is_found(line, wrong):
    def parse() -> None:
        for program, arguments in calls(line):
            PARSERS[program](arguments)

    with pytest.raises(Exception, match=wrong):
        parse()


def test_ray_reads_the_variables_that_are_set():
    import ray

    package = Path(ray.__file__).parent
    for variable, file in (
        ("RAY_JOB_STOP_WAIT_TIME_S", "dashboard/modules/job/job_supervisor.py"),
        ("RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S", "_private/ray_constants.py"),
        ("RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT", "scripts/symmetric_run.py"),
        ("RAY_AUTH_MODE", "_private/authentication/authentication_token_setup.py"),
    ):
        assert f'"{variable}"' in (package / file).read_text()
        assert any(variable in path.read_text() for path in EVERY)


def node_commands(cloud: str) -> list[str]:
    config = read(RAY_FILES[cloud])
    return [c for key, value in config.items() if key.endswith("_commands") for c in value]


@pytest.mark.parametrize("cloud", RAY_FILES)
def test_every_command_of_a_node_is_valid_bash(cloud):
    """In the form in which Ray runs them: the variables first, the command in parentheses."""
    commands = node_commands(cloud)
    assert len(commands) >= 8
    for command in commands:
        wrapped = f"source ~/.bashrc; export OMP_NUM_THREADS=1 && (export RAY_HEAD_IP=10.0.0.5; {command})"
        done = subprocess.run(["bash", "-n", "-c", wrapped], capture_output=True, text=True)
        assert done.returncode == 0, f"{command}: {done.stderr}"


@pytest.mark.parametrize("cloud", RAY_FILES)
def test_a_node_that_is_set_up_twice_has_its_variables_only_once(cloud, tmp_path):
    (command,) = read(RAY_FILES[cloud])["initialization_commands"]
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "USER": "somebody"}
    (tmp_path / ".bashrc").touch()
    for _ in range(2):
        subprocess.run(["bash", "-c", command], env=env, check=True)
    assert len((tmp_path / ".bashrc").read_text().splitlines()) == 1
    show = ["bash", "-c", ". ~/.bashrc; env"]
    found = dict(line.split("=", 1) for line in subprocess.check_output(show, env=env, text=True).splitlines())
    assert found["RAY_AUTH_MODE"] == "token"
    assert found["PATH"].startswith(str(tmp_path))
    assert Path(found["RAYSWEEP_CACHE"]).is_absolute()


def test_the_policies_in_the_guide_are_json():
    guide = next(p for p in EVERY if p.name == "cluster.md").read_text()
    block = next(b for b in guide.split("```") if "put-role-policy" in b)
    script = f"{block.partition('aws s3 mb')[0]}\n{block[block.index('trust=') : block.index('for role')]}"
    script += '\nfor p in "$trust" "$bucket" "$pass"; do printf "%s\\0" "$p"; done'
    printed = subprocess.run(["bash", "-euc", script], capture_output=True, text=True, check=True).stdout
    policies = [json.loads(text) for text in printed.split("\0") if text]
    assert [len(p["Statement"]) for p in policies] == [1, 2, 1]
    assert policies[1]["Statement"][1]["Resource"] == "arn:aws:s3:::your-bucket/*"


# --- slurm.sh -------------------------------------------------------------------------------------------------------

STUBS = {
    # srun runs its command, as on the first node. symmetric-run runs what follows its --.
    "srun": 'while [[ $1 == -* ]]; do if [[ $1 == *=* ]]; then shift; else shift 2; fi; done; exec "$@"',
    "ray": """
if [ "$1" = get-auth-token ]; then printf token-of-the-test; exit; fi
printf '%s\\n' "$@" > "$STUBS_SAY/ray"
printf '%s %s %s' "$RAY_AUTH_MODE" "$RAY_AUTH_TOKEN" "$RAYSWEEP_CACHE" > "$STUBS_SAY/environment"
while [ "$1" != -- ]; do shift; done; shift; "$@"; exit $?
""",
    "raysweep": """
trap 'echo saved > "$STUBS_SAY/saved"; exit 130' TERM
printf '%s\\n' "$@" > "$STUBS_SAY/raysweep"
[ "$2" = wait ] || exit 3
for _ in $(seq 4000); do sleep 0.05; done
""",
    "hostname": "echo '10.0.0.5 172.17.0.1 '",
}


@pytest.fixture
def slurm(tmp_path) -> dict[str, str]:
    """The environment of a Slurm job on one node, with fakes of the programs that the script calls."""
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name, body in STUBS.items():
        (programs / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (programs / name).chmod(0o755)
    (programs / "activate").write_text(f'PATH="{programs}:$PATH"\n')
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "USER": "somebody",
        "TMPDIR": str(tmp_path),
        "STUBS_SAY": str(tmp_path),
        "RAYSWEEP_ROOT": "/shared/with space/experiments",
        "SLURM_JOB_ID": "17",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_CPUS_PER_TASK": "8",
        "SLURM_GPUS_ON_NODE": "1",
        "SLURM_SUBMIT_DIR": str(tmp_path),
    }


def test_slurm_starts_ray_with_options_that_exist(slurm, tmp_path):
    done = subprocess.run(
        ["bash", str(SLURM), "run", "configs/base.yaml", "a=b c"],
        env=slurm,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 3, done.stderr  # raysweep's exit code
    words = (tmp_path / "ray").read_text().splitlines()
    command, options = words[0], words[1 : words.index("--")]
    assert command == "symmetric-run"
    assert options[options.index("--address") + 1] == "10.0.0.5:6379"
    assert options[options.index("--dashboard-host") + 1] == "127.0.0.1"
    own = options[: options.index("--num-cpus")]
    parse_ray(["symmetric-run", *own])
    parse_ray(["start", *options[len(own) :]])  # symmetric-run passes options that are not its own on to `ray start`
    arguments = (tmp_path / "raysweep").read_text().splitlines()
    assert arguments == ["run", "configs/base.yaml", "a=b c", "--address", "auto", "--root", slurm["RAYSWEEP_ROOT"]]
    assert (tmp_path / "environment").read_text() == f"token token-of-the-test {tmp_path}/raysweep-cache-somebody"
    assert not list(tmp_path.glob("*.pid"))


@pytest.mark.parametrize("verb", ["run", "branch", "resume", "continue"])
def test_every_verb_has_the_options_that_the_script_adds(verb):
    parse_raysweep([verb, "--address", "auto", "--root", "/shared"])


def test_slurm_lets_raysweep_save_before_the_time_limit(slurm, tmp_path):
    job = subprocess.Popen(["bash", str(SLURM), "run", "wait"], env=slurm, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 200
    while not (tmp_path / "raysweep").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    job.send_signal(signal.SIGUSR1)
    assert job.wait(timeout=200) == 130
    assert (tmp_path / "saved").exists()


@pytest.mark.parametrize("missing", ["RAYSWEEP_ROOT", "SLURM_JOB_ID"])
def test_slurm_without_what_it_needs_does_nothing(slurm, tmp_path, missing):
    del slurm[missing]
    done = subprocess.run(["bash", str(SLURM), "run", "x"], env=slurm, capture_output=True, text=True, timeout=200)
    assert done.returncode != 0
    assert missing in done.stderr
    assert not (tmp_path / "ray").exists()


def test_the_script_is_valid_bash(tmp_path):
    assert subprocess.run(["bash", "-n", str(SLURM)]).returncode == 0
    broken = tmp_path / "broken.sh"
    broken.write_text(SLURM.read_text().replace("done\n", "dome\n"))
    assert subprocess.run(["bash", "-n", str(broken)], capture_output=True).returncode != 0
    assert SLURM.read_text().count("#SBATCH --") == 9
