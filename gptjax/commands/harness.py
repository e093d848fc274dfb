"""The command that runs the lm-evaluation-harness."""

import typer


def lm_eval(context: typer.Context) -> None:
    """Runs EleutherAI's lm-evaluation-harness on a model.

    Arguments are those of `lm_eval`, whose own `lm_eval run --help` tells them, e.g.

    `gptjax lm-eval --model gptjax --model_args path=MODEL --tasks hellaswag
    --batch_size auto`

    Further `--model_args`, all by the names that the harness's `hf` models have for
    them: `tokenizer`, `dtype` (float32, bfloat16, float16), `max_length`,
    `batch_size` (a number, or auto), `max_batch_size`, `add_bos_token`,
    `prefix_token_id`, `chat_template_args`; and of gptjax alone `adapter` (LoRA, merged
    into the model), `context_len` (of a text's window, what it repeats at least of the
    one before) and `seed` (of drawn tokens).

    `lm_eval --model gptjax` does the same where lm_eval is newer than 0.4.13.
    """
    from gptjax import harness

    harness.run(context.args)
