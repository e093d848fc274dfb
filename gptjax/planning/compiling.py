"""Compiles a training step for another machine, in a process of its own.

The compilers want flags and platforms that must not change in a process that has used
JAX, and an out-of-memory compiler may take its process along.
"""

import importlib.util
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
from typing import Any

from gptjax import config, errors, model
from gptjax.convert import hf_config
from gptjax.planning import topologies

_NEEDS = {
    "tpu": (("libtpu",), "tpu"),
    "cuda": (("jax_cuda12_plugin", "nvidia.cuda_nvcc"), "plan"),
}
"""The modules that a platform's compiler is in, and the extra that brings them."""

# In the words of libtpu 0.0.52 for temporaries, and for everything together.
_OUT_OF_MEMORY = re.compile(
    r"\(([\d.]+)([KMGT])\) exceeds available HBM \(([\d.]+)([KMGT])\)"
    r"|Used ([\d.]+)([KMGT]) of ([\d.]+)([KMGT]) hbm"
)
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


class OutOfMemory(Exception):
    """The compiler found that the step does not fit.

    Attributes:
      used, limit: bytes of a device, where it said so.
    """

    def __init__(self, used: int | None, limit: int | None):
        super().__init__(used, limit)
        self.used, self.limit = used, limit


class Killed(errors.UserError):
    """The compiler's process was killed, most likely for this machine's memory."""


def missing(platform: str) -> str | None:
    """What to install so that the platform's compiler is there; None: it is."""
    modules, extra = _NEEDS.get(platform, ((), ""))
    lacking = [name for name in modules if not _is_there(name)]
    if not lacking:
        return None
    return f"{', '.join(lacking)} is not installed: pip install 'gptjax[{extra}]'"


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def compile_step(
    settings: config.Run, model_config: model.Config, topology: topologies.Topology
) -> dict[str, Any]:
    """The figures of the compiled step, as `child.compile_step` gives them.

    Raises:
      UserError: no compiler, or a config that the model or the mesh does not take.
      OutOfMemory: the compiler refused.
      Killed: it did not live to say anything.
    """
    lacking = missing(topology.platform)
    if lacking is not None:
        raise errors.UserError(f"--topology {topology.name}: {lacking}")
    asked = {
        "settings": settings.model_dump(mode="json"),
        "model": hf_config.to_values(model_config, dtype="float32", is_native=True),
        "topology": topology.name,
    }
    done = subprocess.run(
        [sys.executable, "-m", "gptjax.planning.child"],
        input=json.dumps(asked),
        env=_environment(topology),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    if done.returncode < 0:
        raise Killed(
            f"--topology {topology.name}: the compiler was killed by "
            f"{signal.Signals(-done.returncode).name}; it may need more memory than "
            "this machine has"
        )
    return _fail(done.stderr, topology)


def _environment(topology: topologies.Topology) -> dict[str, str]:
    # The compiled step of another machine must not be kept as this one's.
    kept = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    root = str(pathlib.Path(errors.__file__).parents[1])
    path = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    flags = []
    if topology.platform == "cpu":
        flags = [f"--xla_force_host_platform_device_count={topology.devices}"]
    elif topology.platform == "cuda":
        found = importlib.util.find_spec("nvidia.cuda_nvcc")
        (folder,) = found.submodule_search_locations
        flags = [f"--xla_gpu_cuda_data_dir={folder}"]
    return kept | {
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join(path),
        "XLA_FLAGS": " ".join(flags),
        # No chip is asked for, and no metadata server of the cloud.
        "TPU_SKIP_MDS_QUERY": "1",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }


def _fail(stderr: str, topology: topologies.Topology) -> Any:
    told = re.findall(r"^gptjax\.errors\.UserError: (.*)", stderr, re.M)
    if told:
        raise errors.UserError(told[-1])
    if "RESOURCE_EXHAUSTED" in stderr:
        said = _OUT_OF_MEMORY.search(stderr)
        if said is None:
            raise OutOfMemory(None, None)
        used, unit, limit, limit_unit = filter(None, said.groups())
        raise OutOfMemory(
            int(float(used) * _UNITS[unit]), int(float(limit) * _UNITS[limit_unit])
        )
    lines = [line for line in stderr.splitlines() if line.strip()]
    reasons = [line for line in lines if re.match(r"[\w.]*(Error|Exception)\b", line)]
    reason = (reasons or lines or ["no reason given"])[-1]
    raise errors.UserError(f"--topology {topology.name}: the compiler failed: {reason}")
