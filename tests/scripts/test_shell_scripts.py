"""The shell scripts do what they print, and say what is wrong with a call."""

import os
import pathlib
import shlex
import subprocess

import pytest

ROOT = pathlib.Path(__file__).parents[2]
SCRIPTS = ROOT / "scripts"


def _bash(*arguments, env=None, cwd=None):
    return subprocess.run(
        ["bash", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, **(env or {})},
    )


def _tpu_vm(*arguments):
    return _bash(SCRIPTS / "tpu_vm.sh", *arguments)


def _printed(*arguments):
    """The commands of a dry run, split as a shell would."""
    done = _tpu_vm(*arguments, "--dry-run")
    assert done.returncode == 0, done.stderr
    return shlex.split(done.stdout.replace("$'", "'"))


def _executable(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/usr/bin/env bash\n{text}\n")
    path.chmod(0o755)
    return path


def test_every_shell_script_parses():
    """bash finds a syntax error only when it comes to the line."""
    for script in [*SCRIPTS.glob("*.sh"), ROOT / ".ci" / "run"]:
        assert _bash("-n", script).returncode == 0, script


def test_create_asks_for_the_slice_that_was_named():
    """A wrong type or a forgotten --spot costs money."""
    words = _printed("create", "t", "--zone", "z", "--type", "v5litepod-16", "--spot")
    assert words[:11] == [
        *("gcloud", "compute", "tpus", "tpu-vm", "create", "t"),
        *("--zone=z", "--accelerator-type=v5litepod-16"),
        *("--version=v2-alpha-tpuv5-lite", "--spot", "tar"),
    ]


def test_every_host_gets_the_files_and_the_command():
    """A host that was left out leaves all the others waiting."""
    options = ["--zone", "z", "--type", "v", "--nfs", "10.0.0.2:/share"]
    words = _printed("create", "t", *options)
    remote = [i for i, word in enumerate(words) if word in ("ssh", "scp")]
    assert len(remote) == 4
    for start, end in zip(remote, [*remote[1:], len(words)], strict=True):
        assert "--worker=all" in words[start:end]
    assert "mount -t nfs 10.0.0.2:/share gptjax/runs" in words[-1]


def test_run_passes_arguments_on_unchanged(tmp_path):
    """Twice through a shell, a prompt must still be one argument.

    A `gcloud` that runs the remote command here, and a `python` that shows what
    arguments reach it, stand in for the slice.
    """
    gcloud = 'last="${@: -1}"; bash -c "${last#--command=}"'
    _executable(tmp_path / "bin" / "gcloud", gcloud)
    _executable(tmp_path / "gptjax/.venv/bin/python", "printf '%s\\n' \"$@\"")
    prompt = 'It\'s $HOME; "so"'
    done = _bash(
        *(SCRIPTS / "tpu_vm.sh", "run", "t", "--zone", "z"),
        *("generate", "m", "--prompt", prompt),
        env={"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"},
        cwd=tmp_path,
    )
    script = ["scripts/generate.py", "--distributed", "m", "--prompt", prompt]
    assert done.stdout.splitlines() == script


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "the first argument"),
        (["create"], "the name of the slice"),
        (["create", "t"], "--zone is needed"),
        (["create", "t", "--zone", "z"], "needs --type"),
        (["create", "t", "--zone"], "--zone needs a value"),
        (["delete", "t", "--zone", "z", "now"], "takes no argument now"),
        (["run", "t", "--zone", "z", "convert"], "run needs a script"),
        (["run", "t", "--speed", "z"], "unknown option --speed"),
    ],
)
def test_a_wrong_call_is_explained(arguments, reason):
    """Bad usage ends with 2 before anything is created."""
    done = _tpu_vm(*arguments)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert reason in done.stderr


def test_an_unsuitable_python_is_refused_in_one_line(tmp_path):
    """A machine with only Python 3.10 must not end in a pip traceback."""
    (tmp_path / "scripts").mkdir()
    for name in ("venv.sh", "demo.sh"):
        (tmp_path / "scripts" / name).write_bytes((SCRIPTS / name).read_bytes())
    (tmp_path / "setup.cfg").touch()
    (tmp_path / "pyproject.toml").touch()
    old = _executable(tmp_path / "python3.10", "exit 1")
    done = _bash("scripts/demo.sh", env={"PYTHON": str(old)}, cwd=tmp_path)
    assert done.returncode != 0
    assert (
        done.stderr == f"PYTHON={old}: not Python 3.11 or newer with the venv module\n"
    )
    assert not (tmp_path / ".venv").exists()
