"""The architecture of a GPT: the fields that change its computation."""

import dataclasses
import re
from typing import Literal

from gptjax import errors
from gptjax.model import activations
from gptjax.model import positions as positions_lib

_LEARNED = positions_lib.Learned()


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
    """The fields that change the computation of a GPT-2 or of its relatives.

    Names, meanings and defaults up to `tie_word_embeddings` are those of
    `transformers.GPT2Config`; those after it say how other GPTs differ from a GPT-2.
    Hashable, so that it can be a static argument of `jax.jit`.
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

    family: str = "gpt2"
    """The `model_type` of its checkpoints: how they name and lay out its weights."""
    n_kv_head: int | None = None
    """G: heads of keys and values, each read by as many heads of queries. None:
    `n_head`, and where that is what is given, it reads None too."""
    positions: positions_lib.Positions = _LEARNED
    windows: tuple[int | None, ...] | None = None
    """How many tokens a query of each layer sees, itself included; None: all before
    it. None for all layers: they all see all."""
    norm: Literal["layer", "rms"] = "layer"
    norm_after: bool = False
    """Whether what attention and MLP add is normalized with the sum, and not what they
    read. Then there is no final norm."""
    qk_norm: bool = False
    """Whether each head's queries and keys are normalized."""
    embedding_norm: bool = False
    """Whether what enters the first block is."""
    parallel_residual: bool = False
    """Whether the MLP reads what attention does, and not what that has added."""
    shared_norm: bool = False
    """Whether, then, one norm serves both."""
    residual_of_norm: bool = False
    """Whether attention and MLP add to what they read, the normalized."""
    gated_mlp: bool = False
    """Whether the hidden layer is multiplied by a second projection of what enters."""
    qkv_bias: bool = True
    out_bias: bool = True
    mlp_bias: bool = True
    head_bias: bool = False
    """Which layers have biases; `out` is attention's output projection."""
    activation_bits: int | None = None
    """8: what enters the kernels of the blocks is rounded to so many bits, each token
    by itself, as `int8` says. Such a model has no gradients. None: it is not."""

    def __post_init__(self):
        if self.head_dim is not None and self.head_dim * self.n_head == self.n_embd:
            object.__setattr__(self, "head_dim", None)
        if self.n_kv_head == self.n_head:
            object.__setattr__(self, "n_kv_head", None)
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
        if self.n_kv_head is not None and (
            self.n_kv_head < 1 or self.n_head % self.n_kv_head
        ):
            raise errors.UserError(
                f"n_kv_head is {self.n_kv_head}; it must divide n_head {self.n_head}"
            )
        if self.activation_bits not in (None, 8):
            raise errors.UserError(
                f"activation_bits is {self.activation_bits}; it may be 8, or nothing"
            )
        if self.windows is not None:
            self._check_windows()
        turned = getattr(self.positions, "dims", 0)
        if turned > self.head_width:
            raise errors.UserError(
                f"{turned} numbers of a head are rotated; it has {self.head_width}"
            )
        # Of JSON, a list, which could be no static argument.
        object.__setattr__(self, "classifiers", tuple(self.classifiers))
        names = [each.name for each in self.classifiers]
        if len(set(names)) < len(names):
            raise errors.UserError(f"classifiers {', '.join(names)}: a name twice")

    def _check_windows(self):
        if all(window is None for window in self.windows):
            object.__setattr__(self, "windows", None)
        elif len(self.windows) != self.n_layer:
            raise errors.UserError(
                f"windows of {len(self.windows)} layers; there are {self.n_layer}"
            )
        elif any(window is not None and window < 1 for window in self.windows):
            raise errors.UserError("a window of attention is at least 1 token wide")

    @property
    def has_free_scores(self) -> bool:
        """Whether scores of the next token take the token embedding and no more."""
        return self.tie_word_embeddings and not self.head_bias

    @property
    def predicts_tokens(self) -> bool:
        """Whether there are scores of the next token.

        A classifier has no weights for them, and Hugging Face's stores none; where
        they take none, they are there all the same.
        """
        return self.has_free_scores or not self.classifiers

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
    def kv_heads(self) -> int:
        """G: how many heads of keys and values there are."""
        return self.n_head if self.n_kv_head is None else self.n_kv_head

    @property
    def queries(self) -> int:
        """R: how many heads of queries read each of them."""
        return self.n_head // self.kv_heads

    @property
    def mlp_width(self) -> int:
        """F: the width of the MLP's hidden layer."""
        return 4 * self.n_embd if self.n_inner is None else self.n_inner

    def without_dropout(self) -> "Config":
        """The same architecture with all three dropout rates at 0."""
        return dataclasses.replace(
            self, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0
        )
