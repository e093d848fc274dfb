"""The mesh, the rules that split params over it, and placement of arrays.

Params lie on a mesh of four axes. A batch is split over `data` and `fsdp`, its
sequences over `context`; weights are split over `fsdp` (and gathered for use, layer by
layer) and over `tensor`.
"""

import math
import sys
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils, multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from gptjax import errors, tree

AXES = ("data", "fsdp", "context", "tensor")
BATCH_AXES = ("data", "fsdp")

# The vocabulary is odd in most checkpoints (50257): split the width instead.
PARAM_RULES: tree.Rules = (
    (r"(embed/tokens|embed/positions|head)/embedding", P(None, ("fsdp", "tensor"))),
    (r"(classifiers|taggers)/\w+/weight", P(None, ("fsdp", "tensor"))),
    (r"taggers/\w+/bias", P()),
    (r"blocks/attn/qkv/kernel", P(None, "fsdp", None, "tensor", None)),
    (r"blocks/attn/qkv/bias", P(None, None, "tensor", None)),
    (r"blocks/attn/out/kernel", P(None, "tensor", None, "fsdp")),
    (r"blocks/mlp/(up|gate)/kernel", P(None, "fsdp", "tensor")),
    (r"blocks/mlp/(up|gate)/bias", P(None, "tensor")),
    (r"blocks/mlp/down/kernel", P(None, "tensor", "fsdp")),
    # Adapters: the axes that they share with their kernel lie as in it.
    (r"blocks/(attn/qkv|mlp/(up|gate))/lora_a", P(None, None, "fsdp")),
    (r"blocks/(attn/out|mlp/down)/lora_a", P(None, None, "tensor")),
    (r"blocks/(attn/out|mlp/down)/lora_b", P(None, "fsdp")),
    (r"blocks/attn/qkv/lora_b", P(None, None, "tensor")),
    (r"blocks/mlp/(up|gate)/lora_b", P(None, "tensor")),
    (r"blocks/(attn/out|mlp/down|ln_1|ln_2)/(bias|scale)", P()),
    (r"blocks/attn/norms/[qk]/(bias|scale)", P()),
    (r"(embed/norm|ln_f|head)/(bias|scale)", P()),
)


def make_mesh(
    *,
    data: int = -1,
    fsdp: int = 1,
    context: int = 1,
    tensor: int = 1,
    devices: Sequence[jax.Device] | None = None,
) -> Mesh:
    """A mesh over all devices, with the axes `AXES`.

    Devices that are several slices of TPUs, with a slow network between them, keep
    every axis but `data` within a slice.

    Args:
      data, fsdp, context, tensor: sizes of the axes; one of them may be -1, "the rest".
      devices: all of the process group's, unless given.

    Raises:
      UserError: if the sizes do not multiply to the number of devices.
    """
    sizes = [data, fsdp, context, tensor]
    devices = jax.devices() if devices is None else devices
    count = len(devices)
    wanted = ", ".join(f"{a} {s}" for a, s in zip(AXES, sizes, strict=True))
    if sizes.count(-1) > 1 or any(size < 1 and size != -1 for size in sizes):
        raise errors.UserError(f"mesh: {wanted}: sizes are positive, one may be -1")
    rest = math.prod(size for size in sizes if size != -1)
    sizes = [count // rest if size == -1 else size for size in sizes]
    if math.prod(sizes) != count:
        raise errors.UserError(f"mesh: {wanted} does not use all {count} devices")
    # Auto axes: with Explicit ones, JAX's present default, nnx.Embed fails.
    types = (AxisType.Auto,) * len(AXES)
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    # An axis may take a part of a torus's: slower links beat a mesh refused.
    splits = {"devices": devices, "allow_split_physical_axes": True}
    if slices == 1:
        placed = mesh_utils.create_device_mesh(sizes, **splits)
        return Mesh(placed, AXES, axis_types=types)
    if sizes[0] % slices:
        raise errors.UserError(
            f"mesh.data: {sizes[0]} copies of the model do not divide over {slices} "
            "slices; a slice holds whole copies"
        )
    placed = mesh_utils.create_hybrid_device_mesh(
        (sizes[0] // slices, *sizes[1:]),
        (slices, *[1] * (len(AXES) - 1)),
        **splits,
    )
    return Mesh(placed, AXES, axis_types=types)


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of what every device holds whole."""
    return NamedSharding(mesh, P())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The sharding of arrays ABT: accumulation steps, batch, time."""
    return NamedSharding(mesh, P(None, BATCH_AXES))


def batch_parts(mesh: Mesh) -> int:
    """Over how many devices a batch is split."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def rounded_up(mesh: Mesh, sequences: int) -> int:
    """The next number of sequences that divides over the mesh."""
    return -(-sequences // batch_parts(mesh)) * batch_parts(mesh)


def check_batch(mesh: Mesh, sequences: int, *, key: str) -> None:
    """Raises a `UserError` naming `key` unless the mesh divides a batch evenly."""
    parts = batch_parts(mesh)
    if sequences % parts:
        raise errors.UserError(
            f"{key}: {sequences} sequences do not divide over data x fsdp = {parts} "
            "devices"
        )


def param_shardings(mesh: Mesh, params: Any, rules: tree.Rules = PARAM_RULES) -> Any:
    """A tree like `params` of the leaves' shardings.

    Args:
      params: a tree of arrays or `jax.ShapeDtypeStruct`.
      rules: (regex of the slash path, PartitionSpec).

    Raises:
      UserError: a dimension that the mesh does not divide, naming the leaf.
    """
    flat = tree.flatten(params)
    # The rules speak of every leaf that a model may have; which of them this one
    # has (a head of its own, say) is the model's business.
    present = [r for r in rules if any(tree.covers(r[0], path) for path in flat)]
    specs = tree.match(present, flat, table="sharding rules")
    for path, leaf in flat.items():
        for size, axes in zip(leaf.shape, specs[path], strict=False):
            axes = (axes,) if isinstance(axes, str) else axes or ()
            parts = math.prod(mesh.shape[axis] for axis in axes)
            if size % parts:
                raise errors.UserError(
                    f"{path} {leaf.shape}: its dimension of {size} does not divide "
                    f"over {' x '.join(axes)} = {parts} devices"
                )
    return tree.unflatten(
        {path: NamedSharding(mesh, spec) for path, spec in specs.items()}
    )


def place(arrays: Any, shardings: Any) -> Any:
    """Host arrays that every process holds whole, put where `shardings` say.

    Each process hands over only the parts that its own devices keep, so that this
    works on many hosts too.
    """

    def put(array, sharding):
        array = np.asarray(array)
        return jax.make_array_from_callback(
            array.shape, sharding, lambda index: array[index]
        )

    return jax.tree.map(put, arrays, shardings)


def to_host(array: jax.Array) -> np.ndarray:
    """The whole array on this host, wherever its parts lie.

    A collective where other processes hold some of it: then all must call it.
    """
    if array.is_fully_addressable or array.is_fully_replicated:
        return np.asarray(array)
    return multihost_utils.process_allgather(array, tiled=True)


def say(line: str) -> None:
    """Prints a line to stderr, once for all processes."""
    if jax.process_index() == 0:
        print(line, file=sys.stderr, flush=True)


def sync(name: str) -> None:
    """Waits until every process has come to this place; one process waits for none."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)
