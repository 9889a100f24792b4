"""A compiled program is read from its text: a small one by hand, with a loop, a fusion and collectives of every notation."""

import pytest

from jaxalign.planning.hlo import Program

TEXT = """HloModule step

%fused (p: f32[8,16]) -> f32[8,16] {
  %p = f32[8,16]{1,0} parameter(0)
  ROOT %tanh = f32[8,16]{1,0} tanh(%p), backend_config={"estimated_cycles":"999"}
}

%body (carry: (s32[], f32[8,16], f32[5,8,16])) -> (s32[], f32[8,16], f32[5,8,16]) {
  %carry = (s32[], f32[8,16]{1,0}, f32[5,8,16]{2,1,0}) parameter(0)
  %x = f32[8,16]{1,0} get-tuple-element(%carry), index=1
  %w = f32[16,16]{1,0} all-gather(%x), replica_groups={{0,1},{2,3}}, dimensions={0}, channel_id=1
  %y = f32[8,16]{1,0} dot(%x, %w), lhs_contracting_dims={1}, rhs_contracting_dims={0}, backend_config={"estimated_cycles":"100"}
  %f = f32[8,16]{1,0} fusion(%y), kind=kLoop, calls=%fused, backend_config={"estimated_cycles":"10"}
  %c = f32[8,16]{1,0} copy(%y), backend_config={"estimated_cycles":"9223372036854775807"}
  ROOT %out = (s32[], f32[8,16]{1,0}, f32[5,8,16]{2,1,0}) tuple(%x, %f)
}

%condition (carry: (s32[], f32[8,16], f32[5,8,16])) -> pred[] {
  %carry = (s32[], f32[8,16]{1,0}, f32[5,8,16]{2,1,0}) parameter(0)
  %limit = s32[] constant(5)
  %i = s32[] get-tuple-element(%carry), index=0
  ROOT %less = pred[] compare(%i, %limit), direction=LT
}

%sum (a: f32[], b: f32[]) -> f32[] {
  ROOT %add = f32[] add(%a, %b)
}

ENTRY %main (x: f32[8,16]) -> f32[8,16] {
  %x = f32[8,16]{1,0} parameter(0)
  %start = (s32[], f32[8,16]{1,0}, f32[5,8,16]{2,1,0}) tuple(%x)
  %loop = (s32[], f32[8,16]{1,0}, f32[5,8,16]{2,1,0}) while(%start), condition=%condition, body=%body
  %y = f32[8,16]{1,0} get-tuple-element(%loop), index=1
  %conv = f32[8,4]{1,0} convolution(%y, %k), dim_labels=bf_io->bf
  %k = f32[16,4]{1,0} parameter(1)
  %out = (bf16[9,8,128]{2,1,0}, u32[], token[]) send(%y, %token), channel_id=4, is_host_transfer=true, frontend_attributes={\
_xla_megascale_target="{1,2,3,4}x{0:3}",_xla_megascale_transfer_type="ALL_REDUCE"}
  %part = (f32[8,16]{1,0}, u32[], token[]) send(%y, %token), channel_id=6, is_host_transfer=true, frontend_attributes={\
_xla_megascale_target={{100000,200000},{300000,400000}},_xla_megascale_transfer_type="ALL_GATHER"}
  %host = (f32[8,16]{1,0}, u32[], token[]) send(%y, %token), channel_id=8, is_host_transfer=true
  %all = f32[8,16]{1,0} all-reduce-start(%y), replica_groups=[2,2]<=[2,2]T(1,0), to_apply=%sum, channel_id=2
  ROOT %done = f32[8,16]{1,0} all-reduce-done(%all)
}
"""


OVERLAPPED = """HloModule step

%start (p: bf16[4,8]) -> (bf16[4,8], bf16[16,8]) {
  %p = bf16[4,8]{1,0} parameter(0)
  %begun = bf16[16,8]{1,0} all-gather(%p), channel_id=1, replica_groups={{0,1,2,3}}, dimensions={0}, frontend_attributes={chain_id="0"}
  ROOT %both = (bf16[4,8]{1,0}, bf16[16,8]{1,0}) custom-call(%begun), custom_call_target="AsyncCollectiveStart"
}

%async_collective_fusion (p: bf16[4,8], x: f32[8,8]) -> f32[8,8] {
  %p = bf16[4,8]{1,0} parameter(0)
  %x = f32[8,8]{1,0} parameter(1)
  %on = bf16[16,8]{1,0} all-gather(%p), channel_id=1, replica_groups={{0,1,2,3}}, dimensions={0}, frontend_attributes={chain_id="0"}
  ROOT %square = f32[8,8]{1,0} multiply(%x, %x)
}

%beside (p: f32[16,8]) -> f32[4,8] {
  %p = f32[16,8]{1,0} parameter(0)
  ROOT %scattered = f32[4,8]{1,0} reduce-scatter(%p), channel_id=1, replica_groups={{0,1,2,3}}, dimensions={0}, to_apply=%sum
}, execution_thread="sparsecore"

ENTRY %main (p: bf16[4,8], x: f32[8,8], y: f32[16,8]) -> f32[8,8] {
  %p = bf16[4,8]{1,0} parameter(0)
  %x = f32[8,8]{1,0} parameter(1)
  %y = f32[16,8]{1,0} parameter(2)
  %waited = bf16[16,8]{1,0} all-gather(%p), channel_id=1, replica_groups={{0,1,2,3}}, dimensions={0}
  %begin = (bf16[4,8]{1,0}, bf16[16,8]{1,0}) fusion(%p), kind=kCustom, calls=%start
  %part = ((f32[16,8]{1,0}), f32[4,8]{1,0}) call-start(%y), async_execution_thread="sparsecore", to_apply=%beside
  %end = f32[4,8]{1,0} call-done(%part)
  ROOT %go_on = f32[8,8]{1,0} fusion(%p, %x), kind=kCustom, calls=%async_collective_fusion
}
"""


@pytest.fixture(scope="module")
def read():
    return Program(TEXT, trips=1.0)


def test_loops_multiply_what_stands_in_them(read):
    assert read.times["body"] == 5
    assert read.flops() == 5 * 2 * 8 * 16 * 16 + 2 * 8 * 4 * 16
    assert read.cycles() == 5 * (100 + 10)  # of a fusion its own, not those of its parts; of the copy none are known


def test_collectives(read):
    gather, reduce = sorted((one for one in read.collectives(4) if not one.between_slices), key=lambda one: one.kind)
    assert (gather.kind, gather.group, gather.times, gather.loop, gather.asynchronous) == ("all-gather", (0, 1), 5, "x5", False)
    assert gather.sent_bytes == 16 * 16 * 4 / 2
    assert (reduce.kind, reduce.group, reduce.times, reduce.asynchronous) == ("all-reduce", (0, 2), 1, True)
    assert reduce.sent_bytes == 8 * 16 * 4


def test_a_collective_that_fusions_carry_or_another_core_runs_is_asynchronous_and_counts_once():
    found = Program(OVERLAPPED, trips=1.0).collectives(4)
    assert sorted((one.kind, one.sent_bytes, one.asynchronous) for one in found) == [
        ("all-gather", 16 * 8 * 2 * 3 / 4, False),  # of the same channel as the other
        ("all-gather", 16 * 8 * 2 * 3 / 4, True),
        ("reduce-scatter", 16 * 8 * 4 * 3 / 4, True),
    ]


def test_what_slices_send_to_each_other(read):
    gather, reduce = sorted((one for one in read.collectives(4) if one.between_slices), key=lambda one: one.kind)
    assert (gather.kind, gather.devices, gather.sent_bytes) == ("all-gather", 2, 8 * 16 * 4)  # its part, to the other slice
    assert (reduce.kind, reduce.devices, reduce.sent_bytes) == ("all-reduce", 4, 9 * 8 * 128 * 2 * 2 * 3 / 4)


def test_what_a_loop_over_the_layers_keeps(read):
    assert read.stacked_bytes(5, set()) == 5 * 8 * 16 * 4
    assert read.stacked_bytes(5, {("f32", (5, 8, 16))}) == 0
    assert read.stacked_bytes(7, set()) == 0
