"""Masks as bits on the host, a layer at a time: an eighth of what bool arrays take."""

import dataclasses
import math
import pathlib
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import safetensors.numpy

from gptjax import errors, files, masks, sharding, tree

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class PackedMasks:
    """The masks of a model, of which any layer can be read or replaced by itself.

    Attributes:
      shapes: slash path -> shape, of every prunable leaf.
      bits: (slash path, layer) -> uint8 in the order of `numpy.packbits`; a layer
        that is not there has lost nothing.
    """

    shapes: Mapping[str, Shape]
    bits: Mapping[tuple[str, int], np.ndarray] = dataclasses.field(default_factory=dict)

    @classmethod
    def dense(cls, params: Any, prunable: tree.Rules) -> "PackedMasks":
        """Nothing is pruned yet; `params` may be shapes."""
        flat = tree.flatten(masks.shapes(params, prunable))
        return cls({p: m.shape for p, m in flat.items() if masks.is_prunable(m)})

    @classmethod
    def of(cls, weight_masks: masks.Masks) -> "PackedMasks":
        """Those of a tree of masks; a collective, as `sharding.to_host`."""
        shapes, bits = {}, {}
        for path, mask in tree.flatten(weight_masks).items():
            if masks.is_prunable(mask):
                shapes[path] = mask.shape
                whole = sharding.to_host(mask)
                for layer, own in enumerate(masks.by_layer(path, whole)):
                    bits[path, layer] = np.packbits(own)
        return cls(shapes, bits)

    def layers(self, path: str) -> int:
        """How many layers a leaf has; 1 outside the blocks."""
        return self.shapes[path][0] if masks.is_stacked(path) else 1

    def _own_shape(self, path: str) -> Shape:
        shape = self.shapes[path]
        return shape[1:] if masks.is_stacked(path) else shape

    def layer(self, path: str, layer: int) -> np.ndarray:
        """One layer's bool mask."""
        shape = self._own_shape(path)
        bits = np.unpackbits(self._bits_of_layer(path, layer), count=math.prod(shape))
        return bits.view(bool).reshape(shape)

    def _bits_of_layer(self, path: str, layer: int) -> np.ndarray:
        if (path, layer) in self.bits:
            return self.bits[path, layer]
        return np.packbits(np.ones(math.prod(self._own_shape(path)), bool))

    def sparsities(self) -> dict[str, np.ndarray]:
        """What of each leaf's layers is pruned, (L,) float64."""
        return {
            path: np.array(
                [1 - self.layer(path, n).mean() for n in range(self.layers(path))]
            )
            for path in self.shapes
        }

    def replaced(self, new: Mapping[tuple[str, int], np.ndarray]) -> "PackedMasks":
        """These masks with the bits of some layers exchanged."""
        return PackedMasks(self.shapes, {**self.bits, **new})

    def checksum(self) -> int:
        """zlib.crc32 of all masks."""
        found = zlib.crc32(" ".join(sorted(self.shapes)).encode())
        for path in sorted(self.shapes):
            for layer in range(self.layers(path)):
                found = zlib.crc32(self._bits_of_layer(path, layer), found)
        return found

    def save(self, path: pathlib.Path) -> None:
        """Writes the file that `masks.save` writes, and `masks.load` reads."""
        if jax.process_index() > 0:
            return
        whole = {leaf: self._bits_of_leaf(leaf) for leaf in self.shapes}
        shapes = {leaf: "x".join(map(str, s)) for leaf, s in self.shapes.items()}
        with files.replacing(path) as beside:
            safetensors.numpy.save_file(whole, beside, metadata=shapes)

    def _bits_of_leaf(self, path: str) -> np.ndarray:
        layers = range(self.layers(path))
        if math.prod(self._own_shape(path)) % 8 == 0:
            return np.concatenate([self._bits_of_layer(path, n) for n in layers])
        return np.packbits(
            np.concatenate([self.layer(path, n).ravel() for n in layers])
        )

    def tree(self, params: Any) -> masks.Masks:
        """Masks placed as the leaves of `params` are.

        Args:
          params: placed arrays, or shapes with shardings.
        """
        flat = dict.fromkeys(tree.flatten(params), np.True_)
        for path, leaf in tree.flatten(params).items():
            if path in self.shapes:
                parts = [self.layer(path, n) for n in range(self.layers(path))]
                mask = np.stack(parts) if masks.is_stacked(path) else parts[0]
                flat[path] = sharding.place(mask, leaf.sharding)
        return tree.unflatten(flat)

    def check(self, params: Any) -> None:
        """Raises a `UserError` unless these are masks of a model with such params."""
        flat = tree.flatten(params)
        for path, shape in self.shapes.items():
            if path not in flat or flat[path].shape != shape:
                has = flat[path].shape if path in flat else "no such leaf"
                raise errors.UserError(
                    f"masks of another model: {path} {shape}, where it has {has}"
                )
