"""The gptjax folder: a model folder whose weights orbax keeps as stacked leaves.

Each process writes and reads the parts of its own devices, which a Hugging Face
folder cannot offer. config.json and the tokenizer are those of a Hugging Face
folder; only here config.json may also hold `head_dim`, for models with fewer heads
than stock transformers could load, and `classifiers`, where it has but one.
"""

import contextlib
import math
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from gptjax import errors, model, tree
from gptjax.convert import exporting, folders, hf_config


def _in_flight_gb(leaves: Any) -> float:
    """How much orbax may hold on the host beside the arrays themselves.

    It refuses to move a leaf that does not fit, so that the largest one sets it;
    twice its size, for what is read is whole chunks of a file.

    Args:
      leaves: of the params, with shapes and dtypes.
    """
    sizes = (math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize for leaf in leaves)
    return 1e-3 + 2e-9 * max(sizes)


def is_native(folder: pathlib.Path) -> bool:
    """Whether `folder` is a gptjax folder."""
    return (folder / hf_config.PARAMS).is_dir()


def save_native(
    folder: str | pathlib.Path,
    config: model.Config,
    params: Any,
    *,
    like: str | pathlib.Path | None = None,
    tokenizer: folders.Tokenizer | None = None,
    chat_template: str | None = None,
) -> None:
    """Writes a gptjax folder; arguments and errors are those of `exporting.save`."""
    import orbax.checkpoint as ocp

    like = None if like is None else pathlib.Path(like)
    flat = exporting.check(config, params)
    with folders.replacing(pathlib.Path(folder), source=like) as staging:
        limit = _in_flight_gb(flat.values())
        handler = ocp.PyTreeCheckpointHandler(save_concurrent_gb=limit)
        with ocp.Checkpointer(handler) as checkpointer:
            checkpointer.save(staging / hf_config.PARAMS, tree.unflatten(flat))
        if jax.process_index() == 0:
            dtype = exporting.widest([np.dtype(leaf.dtype) for leaf in flat.values()])
            folders.write_sidecars(
                staging,
                config,
                dtype=dtype,
                like=like,
                tokenizer=tokenizer,
                chat_template=chat_template,
                is_native=True,
            )


def load(
    folder: pathlib.Path,
    config: model.Config,
    *,
    shardings: Callable[[Any], Any] | None,
    dtype: Any,
) -> Any:
    """The params of a gptjax folder; arguments are those of `importing.load`.

    Raises:
      UserError: a broken folder, or leaves that are not those of its config.
    """
    import orbax.checkpoint as ocp

    path = (folder / hf_config.PARAMS).absolute()
    shapes = tree.flatten(model.shapes(config))
    placed = {}
    if shardings is not None:
        placed = tree.flatten(shardings(model.shapes(config)))
    default = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    limit = _in_flight_gb(shapes.values())
    handler = ocp.PyTreeCheckpointHandler(restore_concurrent_gb=limit)
    with ocp.Checkpointer(handler) as checkpointer:
        with _told_as_broken(path):
            stored = tree.flatten(checkpointer.metadata(path).item_metadata.tree)
        _check_leaves(path, stored, shapes)
        args = {
            leaf: ocp.ArrayRestoreArgs(
                sharding=placed.get(leaf, default),
                dtype=stored[leaf].dtype if dtype is None else np.dtype(dtype),
            )
            for leaf in shapes
        }
        with _told_as_broken(path):
            return checkpointer.restore(path, restore_args=tree.unflatten(args))


@contextlib.contextmanager
def _told_as_broken(path: pathlib.Path) -> Iterator[None]:
    """Turns what orbax raises under it into a `UserError` naming the folder."""
    try:
        yield
    except Exception as error:
        # Of all sorts for broken files, plain Exceptions among them: nothing but
        # calls of orbax stands under this.
        reason = " ".join(str(error).split())
        raise errors.UserError(
            f"{path}: truncated or corrupt: {reason:.200}"
        ) from error


def _check_leaves(path: pathlib.Path, stored: Any, shapes: Any) -> None:
    """Raises a `UserError` unless `stored` has the leaves and shapes of `shapes`."""
    for leaf in sorted(stored.keys() ^ shapes.keys()):
        problem = "is missing" if leaf in shapes else "is no leaf of this model"
        raise errors.UserError(f"{path}: {leaf} {problem}")
    for leaf, metadata in stored.items():
        if tuple(metadata.shape) != shapes[leaf].shape:
            raise errors.UserError(
                f"{path}: {leaf} has shape {tuple(metadata.shape)}; by the config it "
                f"must be {shapes[leaf].shape}"
            )
