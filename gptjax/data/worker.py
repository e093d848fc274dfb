"""A filter from texts to token ids: one process of a parallel tokenization.

`pool.py` runs this file by its path. So it imports nothing of gptjax: JAX would
cost each process a second and its memory. A filter needs no `if __name__ ==
"__main__"` in a user's script either, as multiprocessing's workers do.
"""

import pickle
import signal
import sys
from collections.abc import Sequence

import numpy as np
import tokenizers


def encode(
    tokenizer: tokenizers.Tokenizer, texts: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """The ids of all texts, one after another (int32), and each text's count (int64).

    No token is added: neither begin nor end of text.
    """
    encodings = tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
    parts = [np.asarray(encoding.ids, np.int32) for encoding in encodings]
    return np.concatenate(parts), np.array([len(part) for part in parts], np.int64)


def main() -> None:
    """Reads pickled lists of texts until the end, writes what `encode` gives.

    The one argument is the path of a tokenizer.json.
    """
    # Ctrl-C is the parent's business: it then closes the pipe.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    tokenizer = tokenizers.Tokenizer.from_file(sys.argv[1])
    while True:
        try:
            texts = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        pickle.dump(encode(tokenizer, texts), sys.stdout.buffer)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
