"""FLOPs and traffic of compiled programs are those that the program has."""

import textwrap

import jax
import jax.numpy as jnp
import pytest

from gptjax import config, model
from gptjax.planning import hlo, programs, work
from gptjax.training import utilization


def test_flops_of_a_scan_are_those_of_all_its_turns():
    """XLA's own cost analysis counts the body once."""

    def program(x, w):
        return jax.lax.scan(lambda x, _: (jnp.tanh(x @ w), None), x, None, length=9)[0]

    x = jax.ShapeDtypeStruct((32, 64), jnp.float32)
    w = jax.ShapeDtypeStruct((64, 64), jnp.float32)
    compiled = jax.jit(program).lower(x, w).compile()
    module = hlo.Module(compiled.as_text())
    product = 2 * 32 * 64 * 64
    assert work.flops(module) == 9 * product
    assert compiled.cost_analysis()["flops"] < 2 * product
    # Reads x and w and writes x in each turn, at least.
    assert work.memory_bytes(module) >= 9 * 4 * (2 * 32 * 64 + 64 * 64)


@pytest.mark.parametrize(
    ("left", "kernel", "result", "attributes", "flops"),
    [
        # A plain product of (5, 7) and (7, 11).
        ("5,7", "7,11", "5,11", "dim_labels=bf_io->bf", 2 * 5 * 7 * 11),
        # 2 x 25 products of (1024, 64) and (64, 1024), as TPUs write a batch of heads:
        # the window finds one place of the dilated input for each output.
        (
            "2,25,1024,64",
            "2,25,1024,64",
            "2,25,1024,1024",
            "window={size=2x25 stride=1x24 lhs_dilate=2x25}, "
            "dim_labels=01bf_01oi->01bf",
            2 * 25 * 2 * 1024 * 1024 * 64,
        ),
        # The same with the window stepping over the input, and padded.
        (
            "2,25,1024,64",
            "2,25,1024,1024",
            "2,25,1024,64",
            "window={size=2x25 stride=2x25 pad=1_1x24_24 lhs_dilate=1x24 "
            "rhs_reversal=1x1}, dim_labels=01fb_01oi->01fb",
            2 * 25 * 2 * 64 * 1024 * 1024,
        ),
    ],
)
def test_products_written_as_convolutions_count_their_true_work(
    left, kernel, result, attributes, flops
):
    """On TPU all products are; a window's places in the padding are no work."""
    text = textwrap.dedent(
        f"""\
        HloModule m

        ENTRY %main (a: bf16[{left}], b: bf16[{kernel}]) -> bf16[{result}] {{
          %a = bf16[{left}] parameter(0)
          %b = bf16[{kernel}] parameter(1)
          ROOT %c = bf16[{result}] convolution(%a, %b), {attributes}
        }}
        """
    )
    assert work.flops(hlo.Module(text)) == flops


@pytest.mark.parametrize(
    ("stated", "flops", "silent"),
    [('{"cost_estimate":{"flops":"12","bytes_accessed":"3"}}', 12, 0), ("{}", 0, 1)],
)
def test_kernels_count_what_they_state_and_are_told_where_they_do_not(
    stated, flops, silent
):
    """Attention may be a kernel, of which XLA sees no products."""
    text = textwrap.dedent(
        f"""\
        HloModule m

        ENTRY %main (a: bf16[8]) -> bf16[8] {{
          %a = bf16[8] parameter(0)
          ROOT %c = bf16[8] custom-call(%a), custom_call_target="tpu_custom_call", \
        backend_config={stated}
        }}
        """
    )
    module = hlo.Module(text)
    assert work.flops(module) == flops
    assert work.silent_kernels(module) == silent


@pytest.mark.parametrize(("kernel", "products"), [("fwd", 2), ("dq", 3), ("dkv", 4)])
def test_splash_attention_counts_though_it_states_nothing(kernel, products):
    """A tenth of a step and more at long contexts, which the plan would not see."""
    module = hlo.Module(
        textwrap.dedent(
            f"""\
            HloModule m

            ENTRY %main (a: s8[1,2,4], q: bf16[3,4,16,8]) -> f32[8] {{
              %a = s8[1,2,4] parameter(0)
              %q = bf16[3,4,16,8] parameter(1)
              %k = bf16[3,4,32,8] parameter(2)
              ROOT %splash_mha_{kernel}_residuals.3 = f32[8] custom-call(%a, %q, %k), \
            custom_call_target="tpu_custom_call"
            }}
            """
        )
    )
    assert work.flops(module) == products * 2 * (3 * 4 * 16 * 8) * 32
    assert work.silent_kernels(module) == 0


@pytest.mark.parametrize(
    "remat", ["matmuls", pytest.param("full", marks=pytest.mark.slow)]
)
def test_a_training_step_counts_what_its_formula_says(remat):
    """An independent oracle: 6 N + 12 L D T a token, and what is computed again.

    The embedding of positions multiplies nothing. `full` computes all products of the
    blocks again but the last, whose result no gradient needs.
    """
    gpt = model.Config(n_layer=3, n_embd=32, n_head=2, vocab_size=96, n_positions=16)
    settings = config.load(
        None,
        {
            "model": "none",
            "out": "none",
            "data.sequence_tokens": 16,
            "training.batch_sequences": 2,
            "training.remat": remat,
        },
    )
    trainer = programs.make_trainer(settings, gpt, jax.devices()[:1])
    compiled = trainer.train_step.lower(*programs.arguments(trainer)).compile()
    counted = work.flops(hlo.Module(compiled.as_text()))
    matrices = sum(
        leaf.size for leaf in jax.tree.leaves(trainer.shapes) if leaf.ndim >= 2
    )
    positions, biases = 16 * 32, 3 * (3 * 32 + 32 + 128 + 32 + 4 * 32)
    per_token = utilization.flops_per_token(
        gpt, parameters=matrices - positions - biases, sequence_tokens=16
    )
    if remat == "full":
        per_token += 3 * (2 * (3 + 1 + 4) * 32**2 + 4 * 32 * 16)
    assert counted == pytest.approx(2 * 16 * per_token, rel=0.02)
