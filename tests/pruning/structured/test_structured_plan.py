"""Structured rounds as their config says them, and configs that cannot be."""

import dataclasses

import pytest

from gptjax import config, errors, model
from gptjax.pruning.structured import choosing, plan

SOURCE = model.Config(n_layer=6, n_embd=192, n_head=6)


def planned(*removals, source=SOURCE):
    settings = {"model": "m", "out": "o", "pruning": {"structured": removals}}
    return plan.rounds(config.check(settings), source)


def test_rounds_follow_from_the_one_before():
    """A fraction is of what there still is, and shapes add up."""
    rounds = planned(
        {"what": "layers", "count": 2},
        {"what": "neurons", "fraction": 0.25},
        {"what": "neurons", "fraction": 0.25},
        {"what": "heads", "count": 1},
        {"what": "width", "fraction": 0.3},
    )
    assert [r.drop for r in rounds] == [
        {"layers": 2},
        {"neurons": 192},
        {"neurons": 144},
        {"heads": 1},
        # 57.6 channels are about two heads' 64; one head is gone already.
        {"width": 64, "heads": 1},
    ]
    after = rounds[-1].after
    assert after == model.Config(n_layer=4, n_embd=128, n_head=4, n_inner=432)
    assert rounds[3].after.head_width == after.head_width == 32
    assert [r.before for r in rounds] == [SOURCE, *(r.after for r in rounds[:-1])]


def test_width_leaves_the_neurons_as_they_are():
    """n_inner None would follow n_embd down."""
    (only,) = planned({"what": "width", "count": 32})
    assert only.after == dataclasses.replace(SOURCE, n_embd=160, n_head=5, n_inner=768)


@pytest.mark.parametrize(
    ("removal", "message"),
    [
        ({"what": "layers", "indices": [1, 6]}, "there is no layer 6; the model has"),
        ({"what": "layers", "indices": [1, 1]}, "a layer is named twice"),
        ({"what": "layers", "count": 6}, "removes 6 of 6 layers; at least one"),
        ({"what": "neurons", "count": 768}, "removes 768 of 768 neurons"),
        ({"what": "heads", "fraction": 0.05}, "removes none of the 6 heads"),
        ({"what": "width", "count": 40}, "40 of 192 channels; both must be multiples"),
        ({"what": "width", "fraction": 0.95}, "removes 192 of 192 channels"),
    ],
)
def test_what_cannot_be_removed_is_one_line(removal, message):
    """Found only after hours of training, it would be a day lost."""
    with pytest.raises(errors.UserError, match=r"^pruning\.structured\.0") as raised:
        planned(removal)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_the_lowest_go_and_of_equals_the_first():
    """A choice that depends on the sort would not reproduce."""
    kept = choosing.highest([[3, 1, 1, 2], [0, 0, 0, 0]], drop=2)
    assert kept.tolist() == [[0, 3], [2, 3]]


def test_what_would_change_other_heads_or_is_not_known_before_is_refused():
    """ALiBi's slopes go by the heads' numbers, windows by the layers'."""
    bloom = dataclasses.replace(SOURCE, positions=model.Alibi())
    neo = dataclasses.replace(SOURCE, windows=(None, 5, None, 5, None, 5))
    for removal, source, message in (
        ({"what": "heads", "count": 1}, bloom, "ALiBi gives each head a slope"),
        ({"what": "width", "count": 32}, bloom, "ALiBi gives each head a slope"),
        ({"what": "layers", "count": 1}, neo, "windows of different widths"),
    ):
        with pytest.raises(errors.UserError, match=message):
            planned(removal, source=source)
    (named,) = planned({"what": "layers", "indices": [0, 3]}, source=neo)
    assert named.after.windows == (5, None, None, 5)


def test_heads_with_a_width_of_their_own_stay_where_channels_go():
    """Qwen3's know no n_embd; a Llama's width is a multiple of their number alone."""
    shared = {"n_embd": 192, "n_head": 6, "n_kv_head": 2, "n_inner": 100}
    for family, width in (("qwen3", 64), ("llama", 32)):
        source = model.Config(family=family, head_dim=width, **shared)
        (only,) = planned({"what": "width", "fraction": 0.3}, source=source)
        count = {"qwen3": 58, "llama": 60}[family]
        assert only.drop == {"width": count}
        assert only.after == dataclasses.replace(
            source, n_embd=192 - count, head_dim=width
        )
        (only,) = planned({"what": "width", "count": 66}, source=source)
        assert only.after.n_embd == 126
    with pytest.raises(errors.UserError, match="must be a multiple of the 6 heads"):
        planned({"what": "width", "count": 65}, source=source)
    few = dataclasses.replace(source, n_head=5, n_kv_head=5, head_dim=32)
    (only,) = planned({"what": "width", "fraction": 0.25}, source=few)
    assert only.after.n_embd == 145


def test_what_transformers_could_not_load_is_refused_before_any_training():
    """GPT-1 has no field for neurons: fewer channels leave too many of them."""
    first = model.Config(family="openai-gpt", n_layer=2, n_embd=192, n_head=6)
    message = r"^pruning\.structured\.1: 768 neurons are more than 4 n_embd, 640"
    removals = {"what": "layers", "count": 1}, {"what": "width", "count": 32}
    with pytest.raises(errors.UserError, match=message):
        planned(*removals, source=first)
    neurons = {"what": "neurons", "count": 128}
    *_, last = planned(neurons, removals[1], source=first)
    assert (last.after.n_embd, last.after.mlp_width) == (160, 640)


def test_heads_that_share_keys_go_together():
    """Half of the keys take half of the queries with them."""
    shared = dataclasses.replace(SOURCE, n_kv_head=2)
    (only,) = planned({"what": "heads", "count": 1}, source=shared)
    assert (only.after.n_head, only.after.kv_heads) == (3, 1)
    (only,) = planned({"what": "width", "count": 96}, source=shared)
    assert (only.after.n_head, only.after.kv_heads) == (3, 1)
