"""Collectives are found in every form that XLA prints, as often as they run."""

import functools
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from gptjax.planning import collectives, hlo

PROGRAM = textwrap.dedent(
    """\
    HloModule jit_step, is_scheduled=true

    %sum (a: f32[], b: f32[]) -> f32[] {
      %a = f32[] parameter(0)
      %b = f32[] parameter(1)
      ROOT %add.1 = f32[] add(%a, %b)
    }

    %body (p: (s32[], f32[8,16]{1,0})) -> (s32[], f32[8,16]{1,0}) {
      %p = (s32[], f32[8,16]{1,0}) parameter(0)
      %i = s32[] get-tuple-element(%p), index=0
      %x = f32[8,16]{1,0:T(8,128)S(1)} get-tuple-element(%p), index=1
      %one = s32[] constant(1)
      %next = s32[] add(%i, %one)
      %whole = f32[32,16]{1,0} all-gather(%x), replica_groups={{0,1,2,3}}
      %start = ((f32[32,16]), f32[8,16]) reduce-scatter-start(%whole), GROUPS
      %done = f32[8,16]{1,0} reduce-scatter-done(%start)
      ROOT %t = (s32[], f32[8,16]{1,0}) tuple(%next, /*index=1*/%done)
    }

    %cond (q: (s32[], f32[8,16]{1,0})) -> pred[] {
      %q = (s32[], f32[8,16]{1,0}) parameter(0)
      %j = s32[] get-tuple-element(%q), index=0
      %n = s32[] constant(BOUND)
      ROOT %lt = pred[] compare(%j, %n), direction=LT
    }

    ENTRY %main (x: f32[8,16]) -> f32[8,16] {
      %x.1 = f32[8,16]{1,0} parameter(0)
      %zero = s32[] constant(0)
      %init = (s32[], f32[8,16]{1,0}) tuple(%zero, %x.1)
      %loop = (s32[], f32[8,16]) while(%init), condition=%cond, body=%bodyTRIPS
      %y = f32[8,16]{1,0} get-tuple-element(%loop), index=1
      %m = f32[8,16] collective-permute(%y), source_target_pairs={{0,1},{1,0},{2,2}}
      %kept = f32[8,16] collective-permute(%m), source_target_pairs={{0,0},{1,1}}
      ROOT %total = f32[8,16] all-reduce(%kept), replica_groups=MESH, to_apply=%sum
    }
    """
).replace("GROUPS", "replica_groups=[1,4]<=[4], to_apply=%sum")
MESH = "mesh['a'=2,'b'=2] {'b'}"
SIZE = 8 * 16 * 4


def text(bound=5, trips="", groups=MESH):
    filled = PROGRAM.replace("BOUND", str(bound)).replace("MESH", groups)
    return filled.replace("TRIPS", trips)


def read(*args, **kwargs):
    return hlo.Module(text(*args, **kwargs))


@pytest.mark.parametrize(
    ("bound", "trips", "turns"),
    [
        (5, "", 5),
        (48, "", 48),
        (5, ', backend_config={"known_trip_count":{"n":"7"}}', 7),
    ],
)
def test_collectives_in_loops_count_as_often_as_the_loop_turns(bound, trips, turns):
    """XLA says how often on CPU and GPU; on TPU only the loop's counter tells."""
    module = read(bound, trips)
    found = collectives.by_kind(collectives.count(module))
    assert module.unknown_loops == 0
    assert found["all-gather"]["count"] == turns
    assert found["all-gather"]["sent_bytes"] == turns * 3 * SIZE
    # Puts in four times as much, and sends three quarters of it.
    assert found["reduce-scatter"]["sent_bytes"] == turns * 3 * SIZE
    assert found["all-reduce"]["sent_bytes"] == 2 * (1 / 2) * SIZE


def test_a_permute_to_oneself_sends_nothing():
    """XLA leaves permutes whose every device keeps its own."""
    found = collectives.by_kind(collectives.count(read()))
    assert found["collective-permute"]["count"] == 1


def test_a_loop_that_does_not_tell_its_turns_is_told():
    """A figure that is too small by a factor of 48 must not look like a fact."""
    module = hlo.Module(text().replace("direction=LT", "direction=NE"))
    assert module.unknown_loops == 1


@pytest.mark.parametrize(
    ("written", "groups"),
    [
        ("replica_groups={{0,1},{2,3}}", [[0, 1], [2, 3]]),
        ("replica_groups={}", [[0, 1, 2, 3, 4, 5, 6, 7]]),
        ("replica_groups=[2,4]<=[8]", [[0, 1, 2, 3], [4, 5, 6, 7]]),
        ("replica_groups=[4,2]<=[2,4]T(1,0)", [[0, 4], [1, 5], [2, 6], [3, 7]]),
        ("replica_groups=mesh['a'=2,'b'=2] {'a'}", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['a'=2,'b'=2] {'a','b'}", [[0, 1, 2, 3]]),
        ("replica_groups=mesh['a'=4] {'a':(1)2}", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['a'=4] {'a':(2)2}", [[0, 1], [2, 3]]),
        (
            "replica_groups=mesh['a'=2,'b'=2], device_ids=([2,2]T(1,0)) {'b'}",
            [[0, 2], [1, 3]],
        ),
    ],
)
def test_all_ways_of_writing_groups_are_read(written, groups):
    """The same program is printed in each of them, by one compiler or another."""
    found = collectives._groups(f", {written}, dimensions={{0}}", 8)
    assert [list(map(int, group)) for group in found] == groups


def test_the_bytes_between_nodes_are_those_of_a_hierarchy():
    """Within a slice there is ICI; what leaves it pays a far slower network.

    Eight devices on two nodes reduce 800 bytes: each node first reduces to shares of
    200 for each of its four devices, which send them over the network and back.
    """
    module = read(groups="{{0,1,2,3,4,5,6,7}}")
    nodes = [0, 0, 0, 0, 1, 1, 1, 1]
    found = collectives.by_kind(collectives.count(module, nodes))
    assert found["all-gather"]["network_bytes"] == 0
    assert found["all-reduce"]["network_bytes"] == 2 * (1 / 2) * SIZE / 4
    crossing = collectives.Collective("all-reduce", 1, 800, 8, nodes=2)
    assert crossing.network_bytes == 200
    assert crossing.sent_bytes == 2 * 7 / 8 * 800


def test_what_slices_send_each_other_is_a_collective():
    """Between slices of TPUs there are no collectives, but sends by Megascale."""
    module = hlo.Module(
        textwrap.dedent(
            """\
            HloModule m

            ENTRY %main (x: bf16[36,8,128]) -> bf16[36,8,128] {
              %x = bf16[36,8,128]{2,1,0} parameter(0)
              %before = token[] after-all()
              %send = (bf16[36,8,128]{2,1,0}, u32[], token[]) send(%x, %before), \
            channel_id=10, is_host_transfer=true, frontend_attributes=\
            {_xla_megascale_target="{1,2}x{0:3}",_xla_megascale_transfer_type="ALL_REDUCE"}
              ROOT %done = token[] send-done(%send), channel_id=10
            }
            """
        )
    )
    found = collectives.by_kind(collectives.count(module, [0, 0, 0, 0, 1, 1, 1, 1]))
    sent = 2 * (1 / 2) * 36 * 8 * 128 * 2
    assert found["all-reduce"] == {
        "count": 1,
        "sent_bytes": sent,
        "network_bytes": sent,
    }


def test_a_real_program_has_the_collectives_that_were_put_in():
    """An independent oracle: each of them is written by hand, under a scan of 6."""
    mesh = jax.make_mesh((8,), ("i",), axis_types=(jax.sharding.AxisType.Auto,))

    @jax.jit
    @functools.partial(
        jax.shard_map, mesh=mesh, in_specs=P("i"), out_specs=P("i"), check_vma=False
    )
    def program(x):
        def turn(x, _):
            whole = jax.lax.all_gather(x, "i", tiled=True)
            x = jax.lax.psum_scatter(jnp.sin(whole), "i", tiled=True)
            x = jax.lax.ppermute(x, "i", [(n, (n + 1) % 8) for n in range(8)])
            x = jax.lax.all_to_all(x, "i", 0, 0, tiled=True)
            return x / jax.lax.psum(jnp.abs(x), "i"), None

        return jax.lax.scan(turn, x, None, length=6)[0]

    compiled = program.lower(jax.ShapeDtypeStruct((64, 4), jnp.float32)).compile()
    found = collectives.by_kind(collectives.count(hlo.Module(compiled.as_text())))
    size = 8 * 4 * 4
    expected = {
        "all-gather": 7 * size,
        "reduce-scatter": 7 * size,
        "all-reduce": 2 * 7 / 8 * size,
        "all-to-all": 7 / 8 * size,
        "collective-permute": size,
    }
    assert {kind: row["count"] for kind, row in found.items()} == dict.fromkeys(
        expected, 6
    )
    for kind, sent in expected.items():
        np.testing.assert_allclose(found[kind]["sent_bytes"], 6 * sent)
