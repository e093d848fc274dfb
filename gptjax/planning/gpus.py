"""NVIDIA GPUs as XLA's compiler wants them described."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Gpu:
    """What XLA generates and tunes code by.

    Attributes:
      chip: its name in `chips`.
      kind: as the driver calls it.
      capability: CUDA's compute capability, as a number.
      memory: bytes, as the driver reports them.
      bandwidth: bytes/s of the memory.
      cores: streaming multiprocessors.
      fpus: float32 units of each.
      cache: bytes of L2.
      clock: GHz.
      shared: bytes of shared memory a core; a block gets 1 kB less.
    """

    chip: str
    kind: str
    capability: int
    memory: int
    bandwidth: int
    cores: int
    fpus: int
    cache: int
    clock: float
    shared: int


# What `cudaGetDeviceProperties` says of them; the same stands in the CUDA C++
# Programming Guide (table "Technical Specifications per Compute Capability") and in the
# whitepapers of the A100 and the H100. H200 is an H100 with other memory.
_A100 = Gpu(
    chip="A100 80GB",
    kind="NVIDIA A100-SXM4-80GB",
    capability=8,
    memory=85100068864,
    bandwidth=2039040000000,
    cores=108,
    fpus=64,
    cache=40 << 20,
    clock=1.41,
    shared=164 << 10,
)
_H100 = Gpu(
    chip="H100",
    kind="NVIDIA H100 80GB HBM3",
    capability=9,
    memory=84942979072,
    bandwidth=3352320000000,
    cores=132,
    fpus=128,
    cache=50 << 20,
    clock=1.98,
    shared=228 << 10,
)
GPUS = {
    "a100-40": dataclasses.replace(
        _A100,
        chip="A100 40GB",
        kind="NVIDIA A100-SXM4-40GB",
        memory=42331013120,
        bandwidth=1555200000000,
    ),
    "a100": _A100,
    "h100": _H100,
    "h200": dataclasses.replace(
        _H100,
        chip="H200",
        kind="NVIDIA H200",
        memory=151397597184,
        bandwidth=4800000000000,
    ),
}
"""By the name that `--topology` takes."""


def target_config(name: str) -> str:
    """A `stream_executor.GpuTargetConfigProto` in text form."""
    gpu = GPUS[name]
    return f"""
gpu_device_info {{
  cuda_compute_capability {{ major: {gpu.capability} }}
  device_memory_size: {gpu.memory}
  memory_bandwidth: {gpu.bandwidth}
  core_count: {gpu.cores}
  fpus_per_core: {gpu.fpus}
  l2_cache_size: {gpu.cache}
  clock_rate_ghz: {gpu.clock}
  shared_memory_per_block: {48 << 10}
  shared_memory_per_block_optin: {gpu.shared - (1 << 10)}
  shared_memory_per_core: {gpu.shared}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  thread_dim_limit_x: 1024
  thread_dim_limit_y: 1024
  thread_dim_limit_z: 64
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 8 }}
device_description_str: "{gpu.kind}"
"""
