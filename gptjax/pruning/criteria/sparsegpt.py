"""SparseGPT: prunes input after input, and lets the later ones make up for it.

Frantar and Alistarh, "SparseGPT: Massive Language Models Can be Accurately Pruned in
One-Shot", 2023, arXiv:2301.00774, Algorithm 1.

With H the mean of x x^T over the inputs x of a layer, and U upper triangular with
U^T U = H^-1, removing weight w_i of an output costs w_i^2 / U_ii^2, and is mended best
by changing the weights of the later inputs j by - w_i U_ij / U_ii.

What survives can be rounded to a grid in the same pass (their section 3.5): of the
difference d_i that this makes, too, later inputs take - d_i U_ij / U_ii. Where nothing
is pruned that is GPTQ: Frantar et al., "GPTQ: Accurate Post-Training Quantization for
Generative Pre-trained Transformers", 2022, arXiv:2210.17323.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gptjax import errors, grids, sharding

DAMPENING = 0.01
"""Added to H's diagonal, as a fraction of its mean."""
MORE_DAMPENING = 10.0
"""By how much it grows where float32 finds H not positive definite all the same."""
ATTEMPTS = 4
BLOCK_INPUTS = 128
"""How many inputs share one choice of weights, and one update of all later inputs."""

_EXACT = jax.lax.Precision.HIGHEST


def prune(
    weights: jax.Array,
    alive: jax.Array,
    hessian: jax.Array,
    *,
    pattern: str,
    sparsity: float | None,
    grid: grids.Grid | None = None,
    mesh: Mesh,
    path: str,
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """The weights that survive, changed to make up for the others, and which do.

    Compiles once for a shape. The outputs are split over all devices of the mesh,
    where they divide.

    Args:
      weights: (inputs, outputs), float32.
      alive: bool like `weights`; what is pruned already stays pruned, and counts.
      hessian: (inputs, inputs), the mean of x x^T in float32; donated.
      pattern: `unstructured`, or `N:M`, of which N survive at most.
      sparsity: the fraction of weights that are pruned after this, exactly
        `round(sparsity * n)` of them; ignored for N:M. The survivors of every block
        of inputs lose the same fraction of their number.
      grid: what survives is rounded to; None: to none. A group's scale is that of its
        weights when the sweep comes to them; one for all inputs is known before it.
      path: what the weight is called in errors.

    Returns:
      New weights, 0 where pruned; the new bool mask; and with a grid its scales, else
      None.

    Raises:
      UserError: M or a group does not divide the inputs, a sparsity below that of
        `alive`, a Hessian that is not finite.
    """
    inputs, outputs = weights.shape
    group = int(pattern.split(":")[1]) if ":" in pattern else None
    if group is not None and inputs % group:
        raise errors.UserError(
            f"pruning.pattern: {pattern} does not divide {path}: {inputs} inputs are "
            f"no multiple of {group}"
        )
    scales, unit = None, group or 1
    if grid is not None:
        scales = jnp.ones((grid.groups(inputs, path), outputs))
        if grid.group is None:
            scales = grids.scales_of(jnp.where(alive, weights, 0.0), grid)
        else:
            unit = math.lcm(unit, grid.group)
    # A group of either kind lies within a block.
    block = min(max(BLOCK_INPUTS // unit, 1) * unit, inputs)
    counts = np.zeros(-(-inputs // block), np.int32)
    if group is None:
        assert sparsity is not None
        survivors = sharding.to_host(_per_input(alive))
        counts = _counts(survivors, outputs, sparsity, block, path)
    devices = mesh.size
    split = sharding.AXES if outputs % devices == 0 else None
    place = NamedSharding(mesh, PartitionSpec(None, split))
    is_seen = jax.jit(lambda h: jnp.diagonal(h) > 0)(hessian)
    factor = factorize(hessian, path)
    return _sweep(
        jax.device_put(weights, place),
        jax.device_put(alive, place),
        None if scales is None else jax.device_put(scales, place),
        factor,
        is_seen,
        counts,
        grid=grid,
        block=block,
        keep=None if group is None else int(pattern.split(":")[0]),
        group=group,
    )


@jax.jit
def _per_input(alive: jax.Array) -> jax.Array:
    return alive.sum(1, dtype=jnp.int32)


def _counts(
    alive: np.ndarray, outputs: int, sparsity: float, block: int, path: str
) -> np.ndarray:
    """How many more weights each block of inputs loses, in proportion to what it has.

    Args:
      alive: surviving weights of each input.
    """
    survivors = np.add.reduceat(alive.astype(np.int64), range(0, len(alive), block))
    total = len(alive) * outputs
    already = total - int(survivors.sum())
    more = round(sparsity * total) - already
    if more < 0:
        raise errors.UserError(
            f"{path}: pruning to {already + more} weights, where {already} are pruned "
            "already"
        )
    # Rounded where they add up, so that they add up to the number asked for.
    ends = np.cumsum(survivors)
    lost = (2 * more * ends + ends[-1]) // (2 * ends[-1]) if more else 0 * ends
    return np.diff(lost, prepend=0).astype(np.int32)


def factorize(hessian: jax.Array, path: str) -> jax.Array:
    """U, upper triangular with U^T U = (H + dampening)^-1, both its axes reversed.

    H^-1 itself, half of whose digits float32 would lose, is never formed: with H
    reversed in both axes equal to L L^T, U is L^-1 reversed.

    Args:
      hessian: (inputs, inputs) in float32; donated.
    """
    reversed_hessian = _reverse(hessian)
    hessian.delete()
    for attempt in range(ATTEMPTS):
        factor = _cholesky(reversed_hessian, DAMPENING * MORE_DAMPENING**attempt)
        if np.isfinite(np.asarray(factor[-1, -1])):
            reversed_hessian.delete()
            return _invert(factor)
    raise errors.UserError(
        f"{path}: the inputs that calibration met are not finite, or its Hessian is "
        "not positive definite; look at the model's weights"
    )


@jax.jit
def _reverse(matrix: jax.Array) -> jax.Array:
    return matrix[::-1, ::-1]


@jax.jit
def _cholesky(matrix: jax.Array, dampening: jax.Array | float) -> jax.Array:
    mean = jnp.diagonal(matrix).mean()
    # Where no input was ever seen, any number will do.
    damp = jnp.where(mean > 0, dampening * mean, 1.0)
    index = jnp.arange(len(matrix))
    return jax.lax.linalg.cholesky(
        matrix.at[index, index].add(damp), symmetrize_input=False
    )


@functools.partial(jax.jit, donate_argnums=0)
def _invert(lower: jax.Array) -> jax.Array:
    return jax.lax.linalg.triangular_solve(
        lower, jnp.eye(len(lower), dtype=lower.dtype), left_side=True, lower=True
    )


@functools.partial(
    jax.jit, static_argnames=("grid", "block", "keep", "group"), donate_argnums=(0, 1)
)
def _sweep(
    weights, alive, scales, factor, is_seen, counts, *, grid, block, keep, group
):
    """Algorithm 1 over all blocks of inputs; a shorter one may be left at the end.

    Args:
      scales: of the grid, or None; those of groups are yet to be found.
      factor: U, both axes reversed.
      is_seen: (inputs,), False for an input that was always 0: it is pruned first.
      counts: how many weights each block loses, where `group` is None.
    """
    inputs = len(weights)

    def sweep_block(number, carry, *, size):
        weights, alive, scales = carry
        start = number * block
        backwards = (inputs - start - size, 0)
        rows_U = jax.lax.dynamic_slice(factor, backwards, (size, inputs))[::-1, ::-1]
        own_U = jax.lax.dynamic_slice_in_dim(rows_U, start, size, axis=1)
        w = jax.lax.dynamic_slice_in_dim(weights, start, size)
        survives = jax.lax.dynamic_slice_in_dim(alive, start, size)
        seen = jax.lax.dynamic_slice_in_dim(is_seen, start, size)

        def choose(w, survives, diagonal, seen):
            score = jnp.where(seen[:, None], w**2 / diagonal[:, None] ** 2, 0.0)
            if group is None:
                return survives & ~lowest(score, survives, counts[number])
            score = jnp.where(survives, score, -1.0)
            ranks = jnp.argsort(jnp.argsort(score, axis=0), axis=0)
            return survives & (ranks >= group - keep)

        first, own_scales = 0, scales
        if grid is not None and grid.group is not None:
            first = start // grid.group
            own_scales = jax.lax.dynamic_slice_in_dim(scales, first, size // grid.group)
        w, survives, own_scales, errors_ = _sweep_groups(
            w, survives, own_scales, own_U, seen, choose, grid=grid, step=group or size
        )
        if own_scales is not None:
            scales = jax.lax.dynamic_update_slice_in_dim(scales, own_scales, first, 0)
        # U is 0 for earlier inputs, and the block's own are written over.
        weights = weights - jnp.matmul(rows_U.T, errors_, precision=_EXACT)
        weights = jax.lax.dynamic_update_slice_in_dim(weights, w, start, axis=0)
        alive = jax.lax.dynamic_update_slice_in_dim(alive, survives, start, axis=0)
        return weights, alive, scales

    whole, rest = divmod(inputs, block)
    carry = jax.lax.fori_loop(
        0, whole, functools.partial(sweep_block, size=block), (weights, alive, scales)
    )
    if rest:
        carry = sweep_block(whole, carry, size=rest)
    return carry


def _sweep_groups(w, survives, scales, own_U, seen, choose, *, grid, step):
    """The sweep within one block, which chooses what to prune every `step` inputs.

    Returns:
      The block's weights, survivors and scales, and what later inputs have to make up
      for, like the weights: (w_i - w) / U_ii where w stays of w_i.
    """
    diagonal = jnp.diagonal(own_U)

    def sweep_group(number, carry):
        w, survives, scales, errors_ = carry
        at = functools.partial(
            jax.lax.dynamic_slice_in_dim, start_index=number * step, slice_size=step
        )
        chosen = choose(at(w), at(survives), at(diagonal), at(seen))
        survives = jax.lax.dynamic_update_slice_in_dim(
            survives, chosen, number * step, axis=0
        )

        def sweep_input(i, carry):
            w, scales, errors_ = carry
            stays = w[i]
            if grid is not None:
                scales = _with_scales_of(i, w, survives, scales, grid)
                own = scales[0 if grid.group is None else i // grid.group]
                stays = grids.rounded(stays[None], own[None], grid)[0]
            stays = jnp.where(survives[i], stays, 0.0)
            error = (w[i] - stays) / diagonal[i]
            w = w - own_U[i][:, None] * error[None]
            if grid is not None:
                # Which the line before does but for its rounding.
                w = w.at[i].set(stays)
            return w, scales, errors_.at[i].set(error)

        w, scales, errors_ = jax.lax.fori_loop(
            number * step, (number + 1) * step, sweep_input, (w, scales, errors_)
        )
        return w, survives, scales, errors_

    w, survives, scales, errors_ = jax.lax.fori_loop(
        0,
        len(w) // step,
        sweep_group,
        (w, survives, scales, jnp.zeros_like(w)),
    )
    return jnp.where(survives, w, 0.0), survives, scales, errors_


def _with_scales_of(i, w, survives, scales, grid):
    """Scales with those of the group that begins at input i, if one does.

    Of a pattern N:M the later weights of the group are not chosen yet: all count.
    """
    if grid.group is None:
        return scales

    def found(scales):
        own = jax.lax.dynamic_slice_in_dim(
            jnp.where(survives, w, 0.0), i, grid.group, axis=0
        )
        return jax.lax.dynamic_update_slice_in_dim(
            scales, grids.scales_of(own, grid), i // grid.group, axis=0
        )

    return jax.lax.cond(i % grid.group == 0, found, lambda scales: scales, scales)


def lowest(scores: jax.Array, alive: jax.Array, count: jax.Array) -> jax.Array:
    """True for exactly the `count` lowest scores among `alive`, lower indices first.

    Found by bisection, a bit at a time, which needs only sums over sharded arrays.

    Args:
      scores: float32 of any shape, at least 0.
      alive: bool like `scores`, True in at least `count` places.
    """
    # The bits of numbers that are not negative are ordered as the numbers.
    bits = jax.lax.bitcast_convert_type(scores, jnp.uint32)
    keys = jnp.where(alive, bits, jnp.uint32(2**32 - 1))
    count = count.astype(jnp.uint32)
    threshold = _largest(lambda t: jnp.sum(keys < t, dtype=jnp.uint32) <= count)
    is_tied = (keys == threshold) & alive
    index = jnp.arange(scores.size, dtype=jnp.uint32).reshape(scores.shape)
    left = count - jnp.sum(keys < threshold, dtype=jnp.uint32)
    stop = _largest(lambda i: jnp.sum(is_tied & (index < i), dtype=jnp.uint32) <= left)
    return (keys < threshold) | (is_tied & (index < stop))


def _largest(fits) -> jax.Array:
    """The largest uint32 that `fits`, where whatever is smaller than one that does."""

    def try_bit(n, found):
        candidate = found | (jnp.uint32(1 << 31) >> n.astype(jnp.uint32))
        return jnp.where(fits(candidate), candidate, found)

    return jax.lax.fori_loop(0, 32, try_bit, jnp.uint32(0))
