"""The architecture of a GPT-2: the fields that change its computation."""

import dataclasses
import re

from gptjax import errors
from gptjax.model import activations


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classifier:
    """A linear layer that gives a text, or each of its tokens, one of some labels."""

    name: str = "label"
    """Of the task; the layer's params are below `path`."""
    labels: tuple[str, ...]
    """What the layer's outputs are called, in their order."""
    pad_token_id: int | None = None
    """What texts are filled up with: the last token is the last that is another. None:
    texts are never filled up."""
    per_token: bool = False
    """Whether each token has a label, and not the text by its last token."""

    @property
    def path(self) -> str:
        """Where the params lie: `weight`, and where tokens have labels, `bias`."""
        return f"{'taggers' if self.per_token else 'classifiers'}/{self.name}"

    def __post_init__(self):
        if not re.fullmatch(r"\w+", self.name):
            raise errors.UserError(
                f"classifier {self.name!r}: a name is of letters, digits and _"
            )
        if len(self.labels) < 2 or len(set(self.labels)) < len(self.labels):
            raise errors.UserError(
                f"classifier {self.name}: labels {', '.join(self.labels) or 'none'}; "
                "it takes two or more, each once"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """The fields of Hugging Face's `GPT2Config` that change the computation.

    Names, meanings and defaults are those of `transformers.GPT2Config`, but for
    `head_dim` and `classifiers`, which that has not. Hashable, so that it can be a
    static argument of `jax.jit`.
    """

    vocab_size: int = 50257
    n_positions: int = 1024
    n_embd: int = 768
    n_layer: int = 12
    n_head: int = 12
    n_inner: int | None = None
    activation_function: str = "gelu_new"
    resid_pdrop: float = 0.1
    embd_pdrop: float = 0.1
    attn_pdrop: float = 0.1
    layer_norm_epsilon: float = 1e-5
    initializer_range: float = 0.02
    scale_attn_weights: bool = True
    scale_attn_by_inverse_layer_idx: bool = False
    reorder_and_upcast_attn: bool = False
    tie_word_embeddings: bool = True
    head_dim: int | None = None
    """The width of a head where the heads' together is not `n_embd`, as after the
    removal of heads. None: `n_embd / n_head`; where that is what is given, it reads
    None too, so that equal architectures are equal configs."""
    classifiers: tuple[Classifier, ...] = ()
    """What labels texts or tokens, beside the scores of the next token."""

    def __post_init__(self):
        if self.head_dim is not None and self.head_dim * self.n_head == self.n_embd:
            object.__setattr__(self, "head_dim", None)
        for name in ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head"):
            if getattr(self, name) < 1:
                raise errors.UserError(
                    f"{name} is {getattr(self, name)}; it must be at least 1"
                )
        if self.mlp_width < 1:
            raise errors.UserError(f"n_inner is {self.n_inner}; it must be at least 1")
        if self.head_dim is not None and self.head_dim < 1:
            raise errors.UserError(
                f"head_dim is {self.head_dim}; it must be at least 1"
            )
        if self.head_dim is None and self.n_embd % self.n_head:
            raise errors.UserError(
                f"n_embd {self.n_embd} is not divisible by n_head {self.n_head}"
            )
        if self.activation_function not in activations.ACTIVATIONS:
            raise errors.UserError(
                f"activation_function {self.activation_function!r} is not one of "
                + ", ".join(sorted(activations.ACTIVATIONS))
            )
        for name in ("resid_pdrop", "embd_pdrop", "attn_pdrop"):
            if not 0 <= getattr(self, name) <= 1:
                raise errors.UserError(
                    f"{name} is {getattr(self, name)}; it must be between 0 and 1"
                )
        # Of JSON, a list, which could be no static argument.
        object.__setattr__(self, "classifiers", tuple(self.classifiers))
        names = [each.name for each in self.classifiers]
        if len(set(names)) < len(names):
            raise errors.UserError(f"classifiers {', '.join(names)}: a name twice")

    @property
    def predicts_tokens(self) -> bool:
        """Whether there are scores of the next token.

        A classifier has none of its own, and Hugging Face's stores none; where the
        token embedding serves for them, they are there all the same.
        """
        return self.tie_word_embeddings or not self.classifiers

    def with_padding(self, pad_token_id: int) -> "Config":
        """The same, with a padding token for classifiers that have none."""
        padded = (
            dataclasses.replace(each, pad_token_id=pad_token_id)
            if each.pad_token_id is None
            else each
            for each in self.classifiers
        )
        return dataclasses.replace(self, classifiers=tuple(padded))

    def classifier(self, name: str) -> Classifier:
        """The classifier of that name, which must be there."""
        return next(each for each in self.classifiers if each.name == name)

    @property
    def head_width(self) -> int:
        """K: the width of one attention head."""
        return self.n_embd // self.n_head if self.head_dim is None else self.head_dim

    @property
    def mlp_width(self) -> int:
        """F: the width of the MLP's hidden layer."""
        return 4 * self.n_embd if self.n_inner is None else self.n_inner

    def without_dropout(self) -> "Config":
        """The same architecture with all three dropout rates at 0."""
        return dataclasses.replace(
            self, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0
        )
