"""The parts of a GPT: attention, MLP, block, embeddings, as NNX modules.

Radford et al., "Language Models are Unsupervised Multitask Learners", 2019, and what
its relatives do otherwise, by the fields of `Config`. The modules hold weights and
shapes; what differs between training and decoding (masks, caches, dropout keys) is
handed in, so that both run the same code.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from gptjax import errors
from gptjax.model import activations, derivatives, dropout, int8, positions
from gptjax.model.compute import Compute
from gptjax.model.config import Config

# Given q_BHTK, k_BGTK and v_BGTK of one layer: what each query gathers, as BHTK.
Attend = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]

# Given the name of each kernel of a block and the activations that come to it: those
# that enter it.
Tap = Callable[[str, jax.Array], jax.Array]


def _linear(
    config: Config,
    inputs,
    outputs,
    *,
    scaled: bool,
    bias: bool,
    compute: Compute,
    rngs: nnx.Rngs,
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
        use_bias=bias,
        dot_general=functools.partial(
            _product,
            is_whole=compute.devices == 1,
            is_int8=config.activation_bits is not None,
        ),
        dtype=compute.dtype,
        rngs=rngs,
    )


def _product(x, kernel, dimensions, *, is_whole, is_int8, **_):
    """As `nnx.LinearGeneral` calls `jax.lax.dot_general`."""
    (inputs, _), _ = dimensions
    if is_int8:
        return int8.product(x, kernel, len(inputs))
    return derivatives.product(x, kernel, len(inputs), is_whole)


class LayerNorm(nnx.LayerNorm):
    """LayerNorm with statistics in float32 and the two-pass variance of torch."""

    def __init__(self, config: Config, width: int, *, compute: Compute, rngs: nnx.Rngs):
        super().__init__(
            width, epsilon=config.layer_norm_epsilon, dtype=compute.dtype, rngs=rngs
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        weights = (x, self.scale[...], self.bias[...])
        return derivatives.layer_norm(
            *(each.astype(self.dtype) for each in weights), self.epsilon
        )


class RMSNorm(nnx.Module):
    """Division by the root of the mean square, in float32, and a scale.

    Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019, arXiv:1910.07467.
    """

    def __init__(self, config: Config, width: int, *, compute: Compute, rngs: nnx.Rngs):
        del rngs
        self.epsilon, self.dtype = config.layer_norm_epsilon, compute.dtype
        self.scale = nnx.Param(jnp.ones(width))

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x.astype(jnp.float32)
        mean = jnp.square(x).mean(-1, keepdims=True)
        x = (x * jax.lax.rsqrt(mean + self.epsilon)).astype(self.dtype)
        return x * jnp.broadcast_to(self.scale[...].astype(self.dtype), x.shape)


_NORMS = {"layer": LayerNorm, "rms": RMSNorm}


class Attention(nnx.Module):
    """Multi-head self-attention with one fused projection for q, k and v.

    The projection's outputs are J x G x K: for each of the G heads of keys the R heads
    of queries that read it, its keys and its values, J = R + 2. Head h of all is number
    h % R of those of h // R.
    """

    def __init__(self, config: Config, *, compute: Compute, rngs: nnx.Rngs):
        linear = functools.partial(_linear, config, compute=compute, rngs=rngs)
        self.qkv = linear(
            (config.n_embd,),
            (config.queries + 2, config.kv_heads, config.head_width),
            scaled=False,
            bias=config.qkv_bias,
        )
        self.out = linear(
            (config.n_head, config.head_width),
            (config.n_embd,),
            scaled=True,
            bias=config.out_bias,
        )
        norm = functools.partial(
            _NORMS[config.norm], config, config.head_width, compute=compute, rngs=rngs
        )
        self.norms = nnx.Dict(q=norm(), k=norm()) if config.qk_norm else None

    def __call__(self, x_BTD: jax.Array, attend: Attend, tap: Tap) -> jax.Array:
        x_BTD = tap("attn/qkv/kernel", x_BTD)
        # Of all three at once, the derivative would fill each up with zeros.
        *queries, k, v = (
            jnp.moveaxis(x, 1, 2) for x in jnp.unstack(self.qkv(x_BTD), axis=2)
        )
        q = queries[0]
        if len(queries) > 1:
            q = jnp.stack(queries, axis=2)
            q = q.reshape(q.shape[0], -1, *q.shape[3:])
        if self.norms is not None:
            q, k = self.norms.q(q), self.norms.k(k)
        attended_BTHK = jnp.moveaxis(attend(q, k, v), 1, 2)
        return self.out(tap("attn/out/kernel", attended_BTHK))


class MLP(nnx.Module):
    """Two linear layers with the activation between them, and perhaps a gate.

    Of the gated: Shazeer, "GLU Variants Improve Transformer", 2020, arXiv:2002.05202.
    """

    def __init__(self, config: Config, *, compute: Compute, rngs: nnx.Rngs):
        linear = functools.partial(
            _linear, config, bias=config.mlp_bias, compute=compute, rngs=rngs
        )
        self.activation = activations.ACTIVATIONS[config.activation_function]
        enter = functools.partial(
            linear, (config.n_embd,), (config.mlp_width,), scaled=False
        )
        self.gate = enter() if config.gated_mlp else None
        self.up = enter()
        self.down = linear((config.mlp_width,), (config.n_embd,), scaled=True)

    def __call__(self, x_BTD: jax.Array, tap: Tap) -> jax.Array:
        hidden_BTF = self.up(tap("mlp/up/kernel", x_BTD))
        if self.gate is None:
            hidden_BTF = self.activation(hidden_BTF)
        else:
            gate_BTF = self.gate(tap("mlp/gate/kernel", x_BTD))
            hidden_BTF *= self.activation(gate_BTF)
        return self.down(tap("mlp/down/kernel", hidden_BTF))


class Block(nnx.Module):
    """One transformer layer: attention and MLP, each added to what entered."""

    def __init__(self, config: Config, *, compute: Compute, rngs: nnx.Rngs):
        self.rate = config.resid_pdrop
        self.is_parallel = config.parallel_residual
        self.norm_after = config.norm_after
        self.residual_of_norm = config.residual_of_norm
        norm = functools.partial(
            _NORMS[config.norm], config, config.n_embd, compute=compute, rngs=rngs
        )
        self.ln_1 = norm()
        self.attn = Attention(config, compute=compute, rngs=rngs)
        self.ln_2 = None if config.shared_norm else norm()
        self.mlp = MLP(config, compute=compute, rngs=rngs)

    def __call__(
        self,
        x_BTD: jax.Array,
        attend: Attend,
        keys: tuple[jax.Array | None, ...] = (None, None),
        tap: Tap = lambda name, x: x,
    ) -> jax.Array:
        def attended(read_BTD):
            return dropout.apply(self.rate, self.attn(read_BTD, attend, tap), keys[0])

        def transformed(read_BTD):
            return dropout.apply(self.rate, self.mlp(read_BTD, tap), keys[1])

        if self.norm_after:
            x_BTD = self.ln_1(x_BTD + attended(x_BTD))
            return self.ln_2(x_BTD + transformed(x_BTD))
        read_BTD = self.ln_1(x_BTD)
        if self.is_parallel:
            other_BTD = read_BTD if self.ln_2 is None else self.ln_2(x_BTD)
            return x_BTD + attended(read_BTD) + transformed(other_BTD)
        x_BTD = (read_BTD if self.residual_of_norm else x_BTD) + attended(read_BTD)
        read_BTD = self.ln_2(x_BTD)
        return (read_BTD if self.residual_of_norm else x_BTD) + transformed(read_BTD)


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


class Head(nnx.Module):
    """What the output layer has of its own, which may be nothing.

    Its weights are (V, D), not (D, V): the layout that checkpoints store and that a
    tied head has, so that both read alike.
    """

    def __init__(self, config: Config, *, rngs: nnx.Rngs):
        is_apart = config.predicts_tokens and not config.tie_word_embeddings
        init = nnx.initializers.normal(config.initializer_range)
        shape = (config.vocab_size, config.n_embd)
        self.embedding = nnx.Param(init(rngs.params(), shape)) if is_apart else None
        has_bias = config.predicts_tokens and config.head_bias
        self.bias = nnx.Param(jnp.zeros(config.vocab_size)) if has_bias else None


class Trunk(nnx.Module):
    """All that is not repeated: embeddings, final norm, head, classifiers."""

    def __init__(self, config: Config, *, compute: Compute, rngs: nnx.Rngs):
        self.dtype = compute.dtype
        self.parts = compute.parts("fsdp") * compute.parts("tensor")
        self.predicts_tokens = config.predicts_tokens
        norm = functools.partial(
            _NORMS[config.norm], config, config.n_embd, compute=compute, rngs=rngs
        )

        def table(rows):
            init = nnx.initializers.normal(config.initializer_range)
            return nnx.Embed(
                rows,
                config.n_embd,
                embedding_init=init,
                dtype=compute.dtype,
                rngs=rngs,
            )

        embed = {"tokens": table(config.vocab_size)}
        self.offset = None
        if isinstance(config.positions, positions.Learned):
            self.offset = config.positions.offset
            embed["positions"] = table(config.n_positions + self.offset)
        if config.embedding_norm:
            embed["norm"] = norm()
        self.embed = nnx.Dict(embed)
        self.ln_f = None if config.norm_after else norm()
        self.head = Head(config, rngs=rngs)
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
        x_BTD = self.embed.tokens(tokens_BT)
        if self.offset is not None:
            x_BTD = x_BTD + self.embed.positions(positions_BT + self.offset)
        return self.embed.norm(x_BTD) if "norm" in self.embed else x_BTD

    def final(self, x_BTD: jax.Array) -> jax.Array:
        """What the output layer reads, BTE, of what left the last block."""
        x_BTD = self._normed(x_BTD)
        if self.head.bias is None:
            return x_BTD
        ones = jnp.ones((*x_BTD.shape[:-1], 1), x_BTD.dtype)
        return jnp.concatenate([x_BTD, self._filled(ones)], axis=-1)

    def _filled(self, column: jax.Array) -> jax.Array:
        """A column with columns of zeros, that the mesh may divide them."""
        zeros = jnp.zeros((*column.shape[:-1], self.parts - 1), column.dtype)
        return jnp.concatenate([column, zeros], axis=-1)

    @property
    def head_VE(self) -> jax.Array:
        """The output layer's weights, float32; often those of the token embedding.

        A bias is a column after them, which reads ones: E is D, or then D + 1 and what
        makes it divisible by the devices that share it.
        """
        if not self.predicts_tokens:
            raise errors.UserError(
                "a classifier without tied embeddings has no scores of the next token"
            )
        own = self.head.embedding
        head_VD = (self.embed.tokens.embedding if own is None else own)[...]
        if self.head.bias is None:
            return head_VD
        column_V1 = self.head.bias[...][:, None]
        return jnp.concatenate([head_VD, self._filled(column_V1)], axis=1)

    def logits(self, x_BTD: jax.Array) -> jax.Array:
        """Scores of the next token, BTV in float32, whatever the compute dtype."""
        return self._scores(self.final(x_BTD), self.head_VE)

    def label_logits(self, x: jax.Array, classifier: str) -> jax.Array:
        """Scores of a classifier's labels, (..., N) in float32, of x (..., D)."""
        x = self._normed(x)
        if classifier in getattr(self, "classifiers", {}):
            return self._scores(x, self.classifiers[classifier].weight[...])
        own = self.taggers[classifier]
        scores = self._scores(x, own.weight[...])
        return scores + jnp.broadcast_to(own.bias[...], scores.shape)

    def _normed(self, x: jax.Array) -> jax.Array:
        return x if self.ln_f is None else self.ln_f(x)

    def _scores(self, x: jax.Array, weights_VE: jax.Array) -> jax.Array:
        return jnp.einsum(
            "...E,VE->...V",
            x,
            weights_VE.astype(self.dtype),
            preferred_element_type=jnp.float32,
        )
