"""Measures a model in one format by that format's own reader; gptjax has no part.

    python scripts/read_format.py KIND PATH < ASKED

For bench_formats.py, which asks in JSON: `windows` of token ids, a `prompt` of ids, how
many `tokens` to write, the `text` that the windows were cut from, or null. All is done
on one core: threads that wait for each other measure nothing on a shared machine.
"""

import json
import os
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

Ids = list[int]


class Reader:
    """A model as its own reader has it.

    Attributes:
      chances: ids -> the log-probability of each but the first.
      write: a prompt, a count -> the likeliest tokens.
      tokenize: a text -> its ids; None where the reader has no tokenizer.
    """

    chances: Callable[[Ids], Any]
    write: Callable[[Ids, int], Ids]
    tokenize: Callable[[str], Ids] | None = None


class Torch(Reader):
    """Stock transformers."""

    def __init__(self, path: pathlib.Path):
        import torch
        import transformers

        torch.set_num_threads(1)
        self._torch = torch
        self._model = self._opened(transformers, path).eval()
        # Every model is to write as many tokens.
        self._model.generation_config.eos_token_id = None

    def _opened(self, transformers: Any, path: pathlib.Path) -> Any:
        return transformers.AutoModelForCausalLM.from_pretrained(
            path, dtype=self._torch.float32
        )

    def chances(self, ids: Ids) -> Any:
        torch = self._torch
        with torch.no_grad():
            scores = self._model(torch.tensor([ids])).logits[0, :-1]
        found = torch.log_softmax(scores.double(), -1)
        return found[np.arange(len(ids) - 1), ids[1:]].numpy()

    def write(self, ids: Ids, count: int) -> Ids:
        tokens = self._torch.tensor([ids])
        made = self._model.generate(
            tokens,
            attention_mask=self._torch.ones_like(tokens),
            max_new_tokens=count,
            do_sample=False,
            pad_token_id=0,
        )
        return made[0, len(ids) :].tolist()


class Compressed(Torch):
    """Stock transformers, with kernels that `compressed-tensors` has decompressed.

    Module by module: transformers leaves only torch's linear layers to the library, and
    a GPT-2 has none.
    """

    def _opened(self, transformers: Any, path: pathlib.Path) -> Any:
        import compressed_tensors.compressors as library
        import compressed_tensors.quantization as schemes
        import safetensors.torch

        config = transformers.AutoConfig.from_pretrained(path)
        stated = json.loads((path / "config.json").read_text("utf-8"))
        settings = schemes.QuantizationConfig.model_validate(
            stated["quantization_config"]
        )
        (scheme,) = settings.config_groups.values()
        del config.quantization_config
        model = transformers.AutoModelForCausalLM.from_config(config)
        stored = safetensors.torch.load_file(path / "model.safetensors")
        packed = [name for name in stored if name.endswith("weight_packed")]
        for name in packed:
            module = name.removesuffix("weight_packed")
            parts = {
                key.removeprefix(module): stored.pop(key)
                for key in [key for key in stored if key.startswith(f"{module}weight")]
            }
            weight = library.PackedQuantizationCompressor.decompress(parts, scheme)
            stored[f"{module}weight"] = weight["weight"].T
        missing, unknown = model.load_state_dict(stored, strict=False)
        if unknown or {*missing} - {"lm_head.weight"}:
            raise SystemExit(f"{path}: {missing} missing, {unknown} unknown")
        return model.float()


class LlamaCpp(Reader):
    """llama.cpp."""

    def __init__(self, path: pathlib.Path):
        import llama_server

        self._server = llama_server.Server(path, context=256)
        self.tokenize = self._server.tokenize
        self.chances = self._server.log_chances_within

    def write(self, ids: Ids, count: int) -> Ids:
        return self._server.write(ids, count)[0]


class Programs(Reader):
    """`jax.export`, by the folder's own run.py."""

    def __init__(self, path: pathlib.Path):
        sys.path.insert(0, str(path))
        import run

        self._model = run.Model(path)
        self._model.facts["eos_token_ids"] = []

    def tokenize(self, text: str) -> Ids:
        return self._model.tokenizer.encode(text, add_special_tokens=False).ids

    def chances(self, ids: Ids) -> Any:
        scores = np.asarray(self._model.logits(np.array([ids], np.int32)), np.float64)
        scores = scores[0, :-1] - scores[0, :-1].max(-1, keepdims=True)
        scores -= np.log(np.exp(scores).sum(-1, keepdims=True))
        return scores[np.arange(len(ids) - 1), ids[1:]]

    def write(self, ids: Ids, count: int) -> Ids:
        return self._model.complete(ids, count)


READERS = {
    "transformers": Torch,
    "compressed-tensors": Compressed,
    "llama.cpp": LlamaCpp,
    "jax.export": Programs,
}


def main() -> None:
    """Reads, measures, prints."""
    kind, path = sys.argv[1:]
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    asked = json.loads(sys.stdin.read())
    reader = READERS[kind](pathlib.Path(path))
    found: dict[str, Any] = {}
    if asked["text"] is not None:
        chances = np.concatenate([reader.chances(ids) for ids in asked["windows"]])
        found["perplexity"] = float(np.exp(-chances.mean()))
        found["predicted"] = len(chances)
        if reader.tokenize is not None:
            whole = [id_ for ids in asked["windows"] for id_ in ids]
            found["same_tokens"] = reader.tokenize(asked["text"])[: len(whole)] == whole
    # What compiles, or is touched for the first time, is not counted.
    reader.write(asked["prompt"], asked["tokens"])
    began = time.perf_counter()
    found["written"] = reader.write(asked["prompt"], asked["tokens"])
    found["tokens/s"] = len(found["written"]) / (time.perf_counter() - began)
    if "gptjax" in sys.modules:
        raise SystemExit("gptjax was imported, and was to have no part")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
