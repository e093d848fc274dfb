"""Batches on devices ahead of their use, and which process reads what."""

import collections
import math
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding

from gptjax import errors
from gptjax.data import batches, example_batches, mixture


def prefetch(
    source: batches.Batches | example_batches.ExampleBatches | mixture.Mixture,
    sharding: NamedSharding,
    depth: int = 2,
) -> Iterator[tuple[dict[str, jax.Array], dict[str, Any]]]:
    """Batches placed on devices by a thread, while those before are computed with.

    Closing the iterator, or dropping it, ends the thread. An error while a batch is
    read is raised where that batch is due.

    Args:
      source: this process's share of each batch; nobody else may use it meanwhile.
      sharding: of the global arrays (A, B, T).
      depth: how many batches wait.

    Yields:
      A batch, and the state with which `source` resumes after it.
    """

    def load():
        local = next(source)
        state = source.get_state()
        batch = jax.tree.map(
            lambda array: jax.make_array_from_process_local_data(sharding, array),
            local,
        )
        return batch, state

    thread = futures.ThreadPoolExecutor(1, thread_name_prefix="prefetch")
    try:
        pending = collections.deque(thread.submit(load) for _ in range(depth))
        while True:
            item = pending.popleft().result()
            pending.append(thread.submit(load))
            yield item
    finally:
        thread.shutdown(cancel_futures=True)


def process_share(sharding: NamedSharding) -> tuple[int, int]:
    """Which share of every batch this process reads, and how many shares there are.

    Shares are not processes: where the weights of one copy of the model lie on
    several processes, these read the same sequences.

    Args:
      sharding: of batches (A, B, T).

    Raises:
      UserError: processes whose shares overlap in part.
    """
    axes = sharding.spec[1] if len(sharding.spec) > 1 else ()
    axes = (axes,) if isinstance(axes, str) else axes or ()
    parts = math.prod(sharding.mesh.shape[axis] for axis in axes)
    owned = collections.defaultdict(set)
    for device, (_, rows, *_) in sharding.devices_indices_map((1, parts, 1)).items():
        owned[device.process_index].update(range(parts)[rows])
    return _share(owned, jax.process_index())


def _share(owned: dict[int, set[int]], process: int) -> tuple[int, int]:
    """`process_share` from the parts of a batch that each process's devices hold."""
    shares = sorted({tuple(sorted(parts)) for parts in owned.values()})
    sizes = {len(share) for share in shares}
    if len(sizes) > 1 or len(np.unique(np.concatenate(shares))) != sum(
        len(share) for share in shares
    ):
        raise errors.UserError(
            "mesh: the sequences of a batch do not divide over processes; let data x "
            "fsdp be a multiple of the processes, or the other way round"
        )
    return shares.index(tuple(sorted(owned[process]))), len(shares)
