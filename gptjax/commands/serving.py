"""The command that serves models over HTTP."""

import ipaddress
import sys
from typing import Annotated

import typer

from gptjax import errors


def serve(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="[NAME=]MODEL ...",
            help="A Hugging Face folder, a run folder, a hub name, or `packaged`; "
            "several under names of their own.",
        ),
    ],
    host: Annotated[
        str, typer.Option(help="Where to listen; 0.0.0.0: for other machines, too.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="0: any that is free.")
    ] = 8000,
    slots: Annotated[
        int, typer.Option(min=1, help="Sequences of a model decoded together.")
    ] = 32,
    context: Annotated[
        int | None,
        typer.Option(
            min=2,
            help="Tokens of a sequence, its prompt among them. [default: n_positions, "
            "2048 at most]",
        ),
    ] = None,
    max_tokens_per_request: Annotated[
        int, typer.Option(min=1, help="New ones of a sequence.")
    ] = 1024,
    max_queue: Annotated[
        int,
        typer.Option(min=0, help="Sequences that wait for a slot; more are told 429."),
    ] = 256,
    max_body_bytes: Annotated[
        int, typer.Option(min=1, help="Of a request; larger ones are told 413.")
    ] = 1 << 20,
    timeout_seconds: Annotated[
        float, typer.Option(min=0.001, help="Until an answer is whole.")
    ] = 300,
    grace_seconds: Annotated[
        int,
        typer.Option(
            min=0, help="After SIGTERM or Ctrl-C, for what runs to come to its end."
        ),
    ] = 30,
    api_key: Annotated[
        str | None,
        typer.Option(
            envvar="GPTJAX_API_KEY",
            help="What clients must show, as `Authorization: Bearer KEY`.",
        ),
    ] = None,
) -> None:
    """Serves models as OpenAI's HTTP API does: /v1/completions, /v1/chat/completions.

    Requests that come together are decoded together, each as `gptjax generate` would
    write it: one seed gives one text. Of a classifier, /classify gives the labels of
    texts. /healthz and /metrics are for those who watch; /openapi.json describes all.
    """
    if api_key == "":
        raise errors.UserError("--api-key: is empty; leave it out, or give one")
    try:
        from gptjax import serving
    except ImportError as error:
        if (error.name or "").partition(".")[0] == "gptjax":
            raise
        raise errors.UserError(
            f'serve: needs {error.name}: pip install "gptjax[serve]"'
        ) from error
    pairs = [serving.named(argument) for argument in models]
    names = [name for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise errors.UserError(
                f"{name}: given twice; a name is one model's: NAME=MODEL"
            )
    # Taken first: who cannot have it need not wait for models.
    listening = serving.listen(host, port)
    served = {}
    for name, source in pairs:
        print(f"{name}: loading and compiling ...", file=sys.stderr, flush=True)
        served[name] = serving.load(
            name, source, slots=slots, context=context, longest_queue=max_queue
        )
    limits = serving.Limits(
        body_bytes=max_body_bytes,
        tokens=max_tokens_per_request,
        timeout_seconds=timeout_seconds,
        labelling=max_queue + 1,
    )
    is_loopback = _is_loopback(listening.getsockname()[0])
    app = serving.make(
        served,
        limits,
        api_key=api_key,
        is_private=api_key is None and is_loopback,
    )
    if api_key is None and not is_loopback:
        print(
            "gptjax: other machines reach this server, and none needs a key: see "
            "--api-key",
            file=sys.stderr,
        )
    told = ", ".join(names)
    try:
        serving.run(
            app,
            listening,
            grace_seconds=grace_seconds,
            when_ready=lambda: print(f"{told}: {serving.url(listening)}", flush=True),
        )
    finally:
        for each in served.values():
            each.close()


def _is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback
