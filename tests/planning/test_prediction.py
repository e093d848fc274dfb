"""Weak scaling: the compiled step sends what its mesh calls for, and nothing else."""

import json
import pathlib

import jax
import pytest

from gptjax import config, model
from gptjax.planning import collectives, hlo, prediction, programs

GPT = model.Config(n_layer=3, n_embd=64, n_head=4, vocab_size=512, n_positions=32)
SEQUENCES = 4
"""Of each device, however many there are."""


def compiled(data, fsdp, tensor=1, context=1, parts=1, remat="matmuls"):
    """The collectives of the compiled step, and what they are predicted from."""
    settings = config.load(
        None,
        {
            "model": "none",
            "out": "none",
            "mesh.data": data,
            "mesh.fsdp": fsdp,
            "mesh.context": context,
            "mesh.tensor": tensor,
            "data.sequence_tokens": 32,
            "training.batch_sequences": SEQUENCES * data * fsdp * parts,
            "training.accumulation_steps": parts,
            "training.remat": remat,
        },
    )
    devices = jax.devices()[: data * fsdp * context * tensor]
    trainer = programs.make_trainer(settings, GPT, devices)
    step = trainer.train_step.lower(*programs.arguments(trainer)).compile()
    sizes = prediction.Sizes(
        mesh=dict(trainer.mesh.shape),
        params=trainer.shapes,
        layers=GPT.n_layer,
        width=GPT.n_embd,
        tokens=SEQUENCES * 32 // context,
        parts=parts,
        compute_bytes=4,
    )
    found = collectives.by_kind(collectives.count(hlo.Module(step.as_text())))
    return {kind: row["sent_bytes"] for kind, row in found.items()}, sizes


def check(sent, sizes, *, least=1 / 2):
    """No kind and no byte more than predicted, and a prediction that says something.

    Args:
      least: the share of the prediction that occurs.
    """
    limits = prediction.limits(prediction.predict(sizes))
    predicted_kinds = {kind for kinds in limits for kind in kinds}
    assert set(sent) <= predicted_kinds, (sent, limits)
    for kinds, limit in limits.items():
        used = sum(sent.get(kind, 0) for kind in kinds)
        assert used <= limit, (kinds, sent, limits)
        assert used >= least * limit, (kinds, sent, limits)


def test_one_device_sends_nothing():
    """A collective of a group of one is none."""
    sent, sizes = compiled(1, 1)
    assert sent == {}
    assert prediction.predict(sizes) == []


@pytest.mark.parametrize(
    ("data", "fsdp"),
    [
        (2, 2),
        pytest.param(8, 1, marks=pytest.mark.slow),
        pytest.param(1, 8, marks=pytest.mark.slow),
    ],
)
def test_eight_devices_send_what_is_predicted(data, fsdp):
    """A sharding that XLA does not follow shows as a collective that none asked for."""
    check(*compiled(data, fsdp))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("data", "fsdp", "parts", "remat"),
    [
        (2, 1, 1, "matmuls"),
        (4, 1, 1, "matmuls"),
        (8, 1, 1, "full"),
        (1, 2, 1, "matmuls"),
        (1, 4, 1, "matmuls"),
        (1, 8, 1, "full"),
        (4, 2, 1, "matmuls"),
        (2, 4, 2, "full"),
    ],
)
def test_two_to_eight_devices_send_what_is_predicted(data, fsdp, parts, remat):
    """With each further device, and with parts and recomputation, as predicted."""
    check(*compiled(data, fsdp, parts=parts, remat=remat))


@pytest.mark.slow
@pytest.mark.parametrize(("data", "fsdp", "tensor"), [(1, 1, 2), (1, 1, 4), (2, 2, 2)])
def test_split_heads_and_neurons_send_what_is_predicted(data, fsdp, tensor):
    """Over `tensor` the activations are summed, and the weights stay where they are."""
    # The loss needs the head once, and no sum is repeated where little is recomputed.
    check(*compiled(data, fsdp, tensor), least=1 / 3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("data", "fsdp", "tensor", "context"),
    [(1, 1, 1, 2), (1, 1, 1, 8), (2, 1, 1, 4), (1, 4, 1, 2), (2, 1, 2, 2)],
)
def test_split_sequences_send_what_is_predicted(data, fsdp, tensor, context):
    """Keys and values go round, and not the scores of all pairs of tokens."""
    check(*compiled(data, fsdp, tensor, context), least=1 / 3)


@pytest.mark.slow
@pytest.mark.very_slow
def test_two_processes_send_what_one_would(two_processes):
    """Where the devices belong to several hosts, each compiles the same program."""
    code = f"""
import json
sys.path.insert(0, {str(pathlib.Path(__file__).parent)!r})
import test_prediction
sent, sizes = test_prediction.compiled(2, 2)
test_prediction.check(sent, sizes)
print(json.dumps(sent))
"""
    found = [json.loads(said) for said in two_processes(code)]
    assert found == [compiled(2, 2)[0]] * 2
