"""What the scripts of this folder share: join the other hosts, then run a command."""

import argparse
import os
import sys

import jax

from gptjax import __main__

_TORCHRUN = ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "RANK")


def main(command: str) -> None:
    """Runs `gptjax COMMAND` with this process's arguments, on many hosts if asked.

    Every host of a slice starts the same script with the same arguments. Of these,
    `--distributed` joins hosts that find each other by themselves: Cloud TPU, Slurm,
    Open MPI, Kubernetes, and whatever sets the variables of torchrun (MASTER_ADDR,
    MASTER_PORT, WORLD_SIZE, RANK), which go first. `--coordinator HOST:PORT
    --processes N --process I` joins any others. All further arguments are the
    command's.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--distributed", action="store_true")
    parser.add_argument("--coordinator")
    parser.add_argument("--processes", type=int)
    parser.add_argument("--process", type=int)
    hosts, rest = parser.parse_known_args()
    named = (hosts.coordinator, hosts.processes, hosts.process)
    if any(value is not None for value in named):
        if None in named:
            parser.error("--coordinator, --processes and --process go together")
        jax.distributed.initialize(*named)
    elif hosts.distributed:
        if all(name in os.environ for name in _TORCHRUN):
            _join_as_torchrun_says(parser)
        else:
            jax.distributed.initialize()
    sys.exit(__main__.main([command, *rest]))


def _join_as_torchrun_says(parser: argparse.ArgumentParser) -> None:
    """Joins the processes that the variables of torchrun name.

    One process of several on a host takes the one GPU of its LOCAL_RANK, as a process
    of PyTorch would; a process that has its host for itself takes all.
    """

    def number(name: str) -> int:
        if not os.environ[name].isdecimal():
            parser.error(f"{name}={os.environ[name]}: not a number")
        return int(os.environ[name])

    port = number("MASTER_PORT")
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        port += 1  # at MASTER_PORT torchrun itself listens, for its own processes
    is_alone = os.environ.get("LOCAL_WORLD_SIZE") == "1"
    has_rank = "LOCAL_RANK" in os.environ and not is_alone
    jax.distributed.initialize(
        f"{os.environ['MASTER_ADDR']}:{port}",
        number("WORLD_SIZE"),
        number("RANK"),
        local_device_ids=[number("LOCAL_RANK")] if has_rank else None,
        # A scheduler around torchrun would give each process one GPU in any case.
        cluster_detection_method="deactivate",
    )
