"""What tests of training share."""

import csv

import numpy as np
import pytest


@pytest.fixture
def hugging_face():
    """A small GPT-2 of Hugging Face's, of random weights and without dropout."""
    import torch
    import transformers

    torch.manual_seed(0)
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            n_layer=2, n_embd=16, n_head=2, vocab_size=40, n_positions=12,
            resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, initializer_range=0.2,
            bos_token_id=0, eos_token_id=0,
        )
    )  # fmt: skip


@pytest.fixture
def labelled_settings(tiny_settings, tmp_path):
    """A function (out, **overrides) -> config.Run that classifies made-up texts."""
    rng = np.random.default_rng(0)
    words = {"glad": ["sun", "joy", "day"], "sad": ["rain", "woe", "night"]}
    paths = {}
    for name, count in (("train", 96), ("valid", 40)):
        paths[name] = tmp_path / f"{name}.csv"
        with paths[name].open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["label", "text"])
            for number in range(count):
                label = ("glad", "sad")[number % 2]
                rows.writerow(
                    [label, " ".join(rng.choice(words[label], 1 + number % 4))]
                )

    def make(out, **overrides):
        return tiny_settings(
            out,
            **{
                "task.kind": "classification",
                "task.name": "mood",
                "data.train": str(paths["train"]),
                "data.valid": str(paths["valid"]),
                "training.batch_sequences": 16,
                **overrides,
            },
        )

    return make
