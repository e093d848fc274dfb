"""What the scripts of this folder share: join the other hosts, then run a command."""

import argparse
import sys

import jax

from gptjax import cli


def main(command: str) -> None:
    """Runs `gptjax COMMAND` with this process's arguments, on many hosts if asked.

    Every host of a slice starts the same script with the same arguments. Of these,
    `--distributed` joins hosts that find each other by themselves: Cloud TPU, Slurm,
    Open MPI, Kubernetes. `--coordinator HOST:PORT --processes N --process I` joins
    any others. All further arguments are the command's.
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
        jax.distributed.initialize()
    sys.exit(cli.main([command, *rest]))
