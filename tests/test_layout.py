"""The repository keeps its own rules: layers, style, sizes, a cheap import."""

import ast
import pathlib
import statistics
import subprocess
import sys
import sysconfig
import time

import pytest

from gptjax import config

ROOT = pathlib.Path(__file__).parents[1]
SCRIPTS = pathlib.Path(sysconfig.get_path("scripts"))
PACKAGE = sorted((ROOT / "gptjax").rglob("*.py"))
SOURCES = [*PACKAGE, *(ROOT / "tests").rglob("*.py"), *(ROOT / "scripts").glob("*.py")]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))


def _passes(*command):
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def _imports_of(package, node):
    """How many import statements under `node` name `package`."""
    names = []
    for child in ast.walk(node):
        if isinstance(child, ast.Import):
            names += [alias.name for alias in child.names]
        elif isinstance(child, ast.ImportFrom):
            names.append(child.module or "")
    return sum(name.split(".")[0] == package for name in names)


def test_imports_point_down_the_layers():
    """One import upwards and the folders no longer show the architecture."""
    _passes(SCRIPTS / "lint-imports", "--config", "setup.cfg", "--no-cache")


def test_ruff_finds_nothing():
    """A rule that is only nearly kept is no rule."""
    _passes(SCRIPTS / "ruff", "check")


def test_every_file_is_formatted():
    """A diff should show what changed, not who formatted it."""
    _passes(SCRIPTS / "ruff", "format", "--check")


def test_only_one_function_imports_torch():
    """torch is optional: at a module's top it would be needed to import gptjax."""
    users = []
    for path in PACKAGE:
        module = ast.parse(path.read_text(encoding="utf-8"))
        everywhere = _imports_of("torch", module)
        functions = [n for n in ast.walk(module) if isinstance(n, ast.FunctionDef)]
        users += [f.name for f in functions if _imports_of("torch", f)]
        inside = sum(_imports_of("torch", f) for f in functions)
        assert everywhere == inside, f"{path} cannot be imported without torch"
    assert len(users) <= 1, users


def test_no_file_has_more_than_400_lines():
    """A longer file is asking to be two."""
    lengths = {
        path.relative_to(ROOT).as_posix(): len(path.read_text("utf-8").splitlines())
        for path in SOURCES
    }
    assert {path: n for path, n in lengths.items() if n > 400} == {}


def test_test_files_have_names_of_their_own():
    """Without packages under tests/, pytest confuses two files of one name."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))


def test_there_are_configs():
    """An empty list would let the test of every config pass by itself."""
    assert CONFIGS


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_loads(path):
    """A recipe that names a setting of yesterday is worse than none."""
    assert isinstance(config.load(path), config.Run)


def test_importing_gptjax_takes_at_most_1_3_times_importing_jax():
    """One careless import at the top of a module makes every command slow to start.

    The runs alternate, so that a busy machine slows both alike.
    """
    seconds = {"jax": [], "gptjax": []}
    for _ in range(7):
        for module, taken in seconds.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", f"import {module}"], check=True)
            taken.append(time.perf_counter() - start)
    jax_s, gptjax_s = (statistics.median(taken) for taken in seconds.values())
    assert gptjax_s <= 1.3 * jax_s, f"jax {jax_s:.2f} s, gptjax {gptjax_s:.2f} s"
