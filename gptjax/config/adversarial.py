"""Training on embeddings that are moved to where the loss is worse."""

from typing import Annotated, Literal

import pydantic

from gptjax.config.base import Positive, Section

_Length = Annotated[float, pydantic.Field(gt=0)]


class Adversarial(Section):
    """How the embeddings of tokens are moved, and how far.

    Lengths are those of a sequence's whole move, over its tokens and their width; the
    embedding of a token of GPT-2 (124M) is about 3.6 long.
    """

    method: Literal["fgm", "freelb"]
    """`fgm`: the loss, and that after one move along its gradient (Miyato et al., 2017,
    arXiv:1605.07725). `freelb`: the mean loss over several such moves, from one of
    chance (Zhu et al., 2020, arXiv:1909.11764)."""
    epsilon: _Length = 1.0
    """How long the move is; of freelb, at most."""
    moves: Positive = 3
    """Of freelb, K: as many passes over a batch; fgm takes two."""
    move_length: _Length = 0.3
    """Of freelb: how long one of them is."""

    @pydantic.model_validator(mode="after")
    def _fits_its_method(self):
        for name in ("moves", "move_length"):
            default = type(self).model_fields[name].default
            if self.method == "fgm" and getattr(self, name) != default:
                raise ValueError(f"{name}: is of method freelb; leave it out")
        return self
