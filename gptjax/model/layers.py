"""The parts of a GPT-2: attention, MLP, block, embeddings, as NNX modules.

Radford et al., "Language Models are Unsupervised Multitask Learners", 2019. The
modules hold weights and shapes; what differs between training and decoding (masks,
caches, dropout keys) is handed in, so that both run the same code.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from gptjax import errors
from gptjax.model import activations, derivatives, dropout
from gptjax.model.compute import Compute
from gptjax.model.config import Config

# Given q_BHTK, k_BHTK and v_BHTK of one layer: what each query gathers, as BHTK.
Attend = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]

# Given the name of each kernel of a block and the activations that come to it: those
# that enter it.
Tap = Callable[[str, jax.Array], jax.Array]


def _linear(
    config: Config, inputs, outputs, *, scaled: bool, compute: Compute, rngs: nnx.Rngs
):
    """A linear layer with GPT-2's init; `scaled` on the residual path.

    The residual projections start smaller by sqrt(2 L), one factor for every
    addition to the residual stream, so that its variance does not grow with depth.
    """
    deviation = config.initializer_range
    if scaled:
        deviation /= (2 * config.n_layer) ** 0.5
    return nnx.LinearGeneral(
        inputs,
        outputs,
        axis=tuple(range(-len(inputs), 0)),
        kernel_init=nnx.initializers.normal(deviation),
        dot_general=functools.partial(_product, is_whole=compute.devices == 1),
        dtype=compute.dtype,
        rngs=rngs,
    )


def _product(x, kernel, dimensions, *, is_whole, **_):
    """As `nnx.LinearGeneral` calls `jax.lax.dot_general`."""
    (inputs, _), _ = dimensions
    return derivatives.product(x, kernel, len(inputs), is_whole)


class LayerNorm(nnx.LayerNorm):
    """LayerNorm with statistics in float32 and the two-pass variance of torch."""

    def __init__(self, config: Config, *, compute: Compute, rngs: nnx.Rngs):
        super().__init__(
            config.n_embd,
            epsilon=config.layer_norm_epsilon,
            dtype=compute.dtype,
            rngs=rngs,
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        weights = (x, self.scale[...], self.bias[...])
        return derivatives.layer_norm(
            *(each.astype(self.dtype) for each in weights), self.epsilon
        )


class Attention(nnx.Module):
    """Multi-head self-attention with one fused projection for q, k and v."""

    def __init__(self, config: Config, *, compute: Compute, rngs: nnx.Rngs):
        linear = functools.partial(_linear, config, compute=compute, rngs=rngs)
        heads = (config.n_head, config.head_width)
        self.qkv = linear((config.n_embd,), (3, *heads), scaled=False)
        self.out = linear(heads, (config.n_embd,), scaled=True)

    def __call__(self, x_BTD: jax.Array, attend: Attend, tap: Tap) -> jax.Array:
        x_BTD = tap("attn/qkv/kernel", x_BTD)
        # Of all three at once, the derivative would fill each up with zeros.
        qkv = (jnp.moveaxis(x, 1, 2) for x in jnp.unstack(self.qkv(x_BTD), axis=2))
        attended_BTHK = jnp.moveaxis(attend(*qkv), 1, 2)
        return self.out(tap("attn/out/kernel", attended_BTHK))


class MLP(nnx.Module):
    """Two linear layers with the activation between them."""

    def __init__(self, config: Config, *, compute: Compute, rngs: nnx.Rngs):
        linear = functools.partial(_linear, config, compute=compute, rngs=rngs)
        self.activation = activations.ACTIVATIONS[config.activation_function]
        self.up = linear((config.n_embd,), (config.mlp_width,), scaled=False)
        self.down = linear((config.mlp_width,), (config.n_embd,), scaled=True)

    def __call__(self, x_BTD: jax.Array, tap: Tap) -> jax.Array:
        x_BTD = tap("mlp/up/kernel", x_BTD)
        hidden_BTF = self.activation(self.up(x_BTD))
        return self.down(tap("mlp/down/kernel", hidden_BTF))


class Block(nnx.Module):
    """One pre-norm transformer layer."""

    def __init__(self, config: Config, *, compute: Compute, rngs: nnx.Rngs):
        self.rate = config.resid_pdrop
        self.ln_1 = LayerNorm(config, compute=compute, rngs=rngs)
        self.attn = Attention(config, compute=compute, rngs=rngs)
        self.ln_2 = LayerNorm(config, compute=compute, rngs=rngs)
        self.mlp = MLP(config, compute=compute, rngs=rngs)

    def __call__(
        self,
        x_BTD: jax.Array,
        attend: Attend,
        keys: tuple[jax.Array | None, ...] = (None, None),
        tap: Tap = lambda name, x: x,
    ) -> jax.Array:
        attended_BTD = self.attn(self.ln_1(x_BTD), attend, tap)
        x_BTD = x_BTD + dropout.apply(self.rate, attended_BTD, keys[0])
        hidden_BTD = self.mlp(self.ln_2(x_BTD), tap)
        return x_BTD + dropout.apply(self.rate, hidden_BTD, keys[1])


class Classifier(nnx.Module):
    """A linear layer whose weights are (N, D), as the embeddings' are.

    As in Hugging Face's models it has a bias where tokens are labelled, and none where
    texts are.
    """

    def __init__(self, config: Config, labels: int, *, has_bias: bool, rngs: nnx.Rngs):
        init = nnx.initializers.normal(config.initializer_range)
        self.weight = nnx.Param(init(rngs.params(), (labels, config.n_embd)))
        if has_bias:
            self.bias = nnx.Param(jnp.zeros(labels))


class Trunk(nnx.Module):
    """All that is not repeated: embeddings, final norm, head, classifiers."""

    def __init__(self, config: Config, *, compute: Compute, rngs: nnx.Rngs):
        self.dtype = compute.dtype
        self.predicts_tokens = config.predicts_tokens

        def table(rows):
            init = nnx.initializers.normal(config.initializer_range)
            return nnx.Embed(
                rows,
                config.n_embd,
                embedding_init=init,
                dtype=compute.dtype,
                rngs=rngs,
            )

        self.embed = nnx.Dict(
            tokens=table(config.vocab_size), positions=table(config.n_positions)
        )
        self.ln_f = LayerNorm(config, compute=compute, rngs=rngs)
        if config.predicts_tokens and not config.tie_word_embeddings:
            # (V, D), not (D, V): the layout that checkpoints store and that a tied
            # head has, so that both read alike.
            self.head = table(config.vocab_size)
        for kind, has_bias in (("classifiers", False), ("taggers", True)):
            own = {
                each.name: Classifier(
                    config, len(each.labels), has_bias=has_bias, rngs=rngs
                )
                for each in config.classifiers
                if each.per_token == has_bias
            }
            if own:
                setattr(self, kind, nnx.Dict(own))

    def embed_tokens(self, tokens_BT: jax.Array, positions_BT: jax.Array) -> jax.Array:
        return self.embed.tokens(tokens_BT) + self.embed.positions(positions_BT)

    @property
    def head_VD(self) -> jax.Array:
        """The output layer's weights, float32; often those of the token embedding."""
        if not self.predicts_tokens:
            raise errors.UserError(
                "a classifier without tied embeddings has no scores of the next token"
            )
        return getattr(self, "head", self.embed.tokens).embedding[...]

    def logits(self, x_BTD: jax.Array) -> jax.Array:
        """Scores of the next token, BTV in float32, whatever the compute dtype."""
        return self._scores(x_BTD, self.head_VD)

    def label_logits(self, x: jax.Array, classifier: str) -> jax.Array:
        """Scores of a classifier's labels, (..., N) in float32, of x (..., D)."""
        if classifier in getattr(self, "classifiers", {}):
            return self._scores(x, self.classifiers[classifier].weight[...])
        own = self.taggers[classifier]
        scores = self._scores(x, own.weight[...])
        return scores + jnp.broadcast_to(own.bias[...], scores.shape)

    def _scores(self, x: jax.Array, weights_VD: jax.Array) -> jax.Array:
        return jnp.einsum(
            "...D,VD->...V",
            self.ln_f(x),
            weights_VD.astype(self.dtype),
            preferred_element_type=jnp.float32,
        )
