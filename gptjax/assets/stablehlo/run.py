"""Runs the exported model of this folder: writes on, or tells a text's perplexity.

    python run.py --prompt "To be, or not" --tokens 40
    python run.py --text FILE

It needs jax, numpy, safetensors, tokenizers and flatbuffers. The programs take the
weights of model.safetensors as arguments, by their names there.
"""

import argparse
import functools
import json
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
import tokenizers

FOLDER = pathlib.Path(__file__).parent


class Model:
    """The programs, the weights and the tokenizer of a folder."""

    def __init__(self, folder: pathlib.Path = FOLDER):
        self.facts = json.loads((folder / "program.json").read_text("utf-8"))
        stored = safetensors.numpy.load_file(folder / "model.safetensors")
        self.weights = jax.device_put(stored)
        self.tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        opened = {
            name: jax.export.deserialize((folder / f"{name}.exported").read_bytes())
            for name in ("logits", "extend")
        }
        self.logits = jax.jit(functools.partial(opened["logits"].call, self.weights))
        self._losses = jax.jit(functools.partial(_losses, opened["logits"].call))
        self._extend = jax.jit(opened["extend"].call, donate_argnums=2)

    def complete(self, ids: list[int], count: int) -> list[int]:
        """The likeliest tokens after some, one after the other, until one ends a text.

        The cache holds what has been read: each step reads one token.
        """
        slots = len(ids) + count
        if not ids or slots > self.facts["n_positions"]:
            raise SystemExit(
                f"{len(ids)} tokens and {count} more: a text has from 1 to "
                f"{self.facts['n_positions']} of them"
            )
        layers, heads, width = self.facts["cache"]
        empty = np.zeros((layers, 1, heads, slots, width), np.float32)
        cache = {"keys": empty, "values": empty.copy()}
        new, read, place = [], ids, 0
        while len(new) < count:
            tokens = np.array([read], np.int32)
            scores, cache = self._extend(self.weights, tokens, cache, np.int32(place))
            place += len(read)
            read = [int(np.argmax(scores[0]))]
            if read[0] in self.facts["eos_token_ids"]:
                break
            new += read
        return new

    def perplexity(self, ids: list[int], context: int):
        """Of windows without overlap, each without its first token; and of how many."""
        if not 2 <= context <= self.facts["n_positions"]:
            raise SystemExit(
                f"context {context}: it may be from 2 to {self.facts['n_positions']}"
            )
        if len(ids) < 2:
            raise SystemExit(f"{len(ids)} tokens: a text has 2 at least")
        # Some scores at a time, of half a GiB at most.
        sequences = max(1, min(8, 2**27 // (context * self.facts["vocab_size"])))
        rows = [ids[start : start + context] for start in range(0, len(ids), context)]
        # A window of another length, the last one, is read by itself.
        whole = [row for row in rows if len(row) == context]
        batches = [whole[at : at + sequences] for at in range(0, len(whole), sequences)]
        batches += [[row] for row in rows if 1 < len(row) < context]
        total, count = 0.0, 0
        for batch in batches:
            tokens = np.array(batch, np.int32)
            losses = np.asarray(self._losses(self.weights, tokens), np.float64)
            total += losses.sum()
            count += losses.size
        return float(np.exp(total / count)), count


def _losses(logits, weights, tokens):
    """Of each token but the first ones, -log of its probability."""
    scores = jax.nn.log_softmax(logits(weights, tokens)[:, :-1])
    return -jnp.take_along_axis(scores, tokens[:, 1:, None], -1)[..., 0]


def main() -> None:
    """Prints what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompt", help="what is to be gone on with")
    parser.add_argument("--tokens", type=int, default=40, help="how many to write")
    parser.add_argument("--text", type=pathlib.Path, help="whose perplexity to tell")
    parser.add_argument("--context", type=int, help="tokens of a window")
    given = parser.parse_args()
    if given.prompt is None and given.text is None:
        parser.error("give --prompt or --text, or both")
    model = Model()
    if given.prompt is not None:
        found = model.tokenizer.encode(given.prompt)
        ids, added = found.ids, found.special_tokens_mask
        # What is put after a text would end it.
        while ids and added[len(ids) - 1]:
            ids = ids[:-1]
        began = time.perf_counter()
        new = model.complete(ids, given.tokens)
        seconds = time.perf_counter() - began
        print(model.tokenizer.decode(ids + new))
        print(f"{len(new)} tokens in {seconds:.2f} s, compiling included")
    if given.text is not None:
        try:
            text = given.text.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", error)
            raise SystemExit(f"{given.text}: cannot be read: {reason}") from error
        ids = model.tokenizer.encode(text, add_special_tokens=False).ids
        context = given.context
        if context is None:
            context = min(model.facts["n_positions"], 2048)
        perplexity, count = model.perplexity(ids, context)
        print(
            f"perplexity {perplexity:.4f} ({given.text.name}, context {context}, "
            f"stride {context}, {count:,} of {len(ids):,} tokens predicted)"
        )


if __name__ == "__main__":
    main()
