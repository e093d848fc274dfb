"""The process that compiles: `compiling` starts it, with an environment of its own.

Reads a JSON object from stdin and writes one as the last line of stdout.
"""

import json
import sys
import time
from typing import Any

from gptjax import config, model
from gptjax.convert import hf_config
from gptjax.planning import collectives, hlo, programs, topologies, work


def compile_step(
    settings: config.Run, model_config: model.Config, topology: topologies.Topology
) -> dict[str, Any]:
    """The figures of the compiled training step, for one device."""
    devices = topologies.devices(topology)
    settings = programs.compilable(settings, topology.platform)
    trainer = programs.make_trainer(settings, model_config, devices)
    start = time.perf_counter()
    compiled = trainer.train_step.lower(*programs.arguments(trainer)).compile(
        compiler_options=topologies.compiler_options(topology)
    )
    seconds = time.perf_counter() - start
    memory = compiled.memory_analysis()
    module = hlo.Module(compiled.as_text())
    nodes = [
        topologies.node_of(topology, device) for device in trainer.mesh.devices.flat
    ]
    return {
        "device_kind": devices[0].device_kind,
        "mesh": dict(trainer.mesh.shape),
        "compile_seconds": seconds,
        "held": programs.argument_bytes(trainer),
        "arguments": memory.argument_size_in_bytes,
        "outputs": memory.output_size_in_bytes - memory.alias_size_in_bytes,
        "temporaries": memory.temp_size_in_bytes,
        "program": memory.generated_code_size_in_bytes,
        "flops": work.flops(module),
        "memory_traffic": work.memory_bytes(module),
        "collectives": collectives.by_kind(collectives.count(module, nodes)),
        "unknown_loops": module.unknown_loops,
        "silent_kernels": work.silent_kernels(module),
    }


def main() -> None:
    """Answers one request."""
    asked = json.load(sys.stdin)
    figures = compile_step(
        config.check(asked["settings"]),
        hf_config.parse(asked["model"], where="model", is_native=True),
        topologies.parse(asked["topology"]),
    )
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
