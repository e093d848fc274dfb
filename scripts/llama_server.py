"""llama.cpp with a GGUF file, by its own server within this process (xllamacpp)."""

import json
import urllib.request
from collections.abc import Sequence
from typing import Any

import numpy as np
import xllamacpp


class Server:
    """One model, computed in float32 wherever llama.cpp leaves a choice."""

    def __init__(self, path: Any, *, context: int):
        """Loads a file, for one thread; a text may have `context` tokens."""
        own = xllamacpp.CommonParams()
        own.model.path = str(path)
        own.n_ctx = context
        own.n_parallel = 1
        own.cpuparams.n_threads = own.cpuparams_batch.n_threads = 1
        own.cache_type_k = own.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        flash = xllamacpp.llama_flash_attn_type
        own.flash_attn_type = flash.LLAMA_FLASH_ATTN_TYPE_DISABLED
        own.warmup = False
        own.verbosity = 0
        self._server = xllamacpp.Server(own)

    def _ask(self, what: str, **values: Any) -> Any:
        request = urllib.request.Request(
            f"{self._server.listening_address}/{what}",
            json.dumps(values).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    def tokenize(self, text: str) -> list[int]:
        """A text's ids, with what the model puts around it."""
        return self._ask("tokenize", content=text, add_special=True)["tokens"]

    def log_chances(self, ids: Sequence[int], vocabulary: int) -> np.ndarray:
        """The log-probability of every token to be the next one."""
        found = np.full(vocabulary, np.nan)
        for each in self._next(ids, n_probs=vocabulary)["top_logprobs"]:
            found[each["id"]] = each["logprob"]
        return found

    def log_chances_within(self, ids: Sequence[int]) -> list[float]:
        """The log-probability of each token of a text but its first.

        The server tells it of tokens that it has drawn, so it is made to draw them.
        """
        found = []
        for place in range(1, len(ids)):
            told = self._next(
                ids[:place], n_probs=1, logit_bias=[[int(ids[place]), 1e4]]
            )
            if told["id"] != ids[place]:
                raise RuntimeError(f"drew {told['id']} and not {ids[place]}")
            found.append(told["logprob"])
        return found

    def _next(self, ids: Sequence[int], **more: Any) -> Any:
        told = self._ask(
            "completion",
            prompt=[int(id_) for id_ in ids],
            n_predict=1,
            temperature=0.0,
            # A token that ends a text would not be told of.
            ignore_eos=True,
            **more,
        )
        return told["completion_probabilities"][0]

    def write(self, ids: Sequence[int], count: int) -> tuple[list[int], float]:
        """The likeliest tokens after some, and the seconds that they took."""
        told = self._ask(
            "completion",
            prompt=[int(id_) for id_ in ids],
            n_predict=count,
            temperature=0.0,
            ignore_eos=True,
            return_tokens=True,
        )
        return told["tokens"], told["timings"]["predicted_ms"] / 1e3
