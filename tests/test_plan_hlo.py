"""Compiled programs' text: instructions and loops, collectives, products."""

import jax
import jax.numpy as jnp
import pytest

from jaxmodels import flops
from jaxmodels.plan import collectives, hlo
from jaxmodels.plan.matmul_flops import matmul_flops

HLO = """\
HloModule step, replica_count=2, num_partitions=4

%add (x: f32[], y: f32[]) -> f32[] {
  ROOT %sum = f32[] add(%x, %y)
}

%condition (state: (s32[], f32[8,4])) -> pred[] {
  %limit = s32[]{:T(128)} constant(12)
  %state = (s32[], f32[8,4]) parameter(0)
  %n = s32[] get-tuple-element(%state), index=0
  ROOT %less = pred[] compare(%n, %limit), direction=LT
}

%body (state: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %state = (s32[], f32[8,4]) parameter(0)
  %n = s32[] get-tuple-element(%state), index=0
  %part = bf16[2,4] get-tuple-element(%state), index=1
  %two = s32[] constant(2)
  %next = s32[] add(%n, %two)
  %all-gather.1 = bf16[8,4]{1,0} all-gather(%part), channel_id=1, replica_groups=[2,4]<=[8]
  %all-gather.2 = bf16[8,4]{1,0} all-gather(%part), channel_id=1, replica_groups=[2,4]<=[8]
  %sums = (f32[2,3]{1,0}, f32[]) all-reduce(%a, %b), channel_id=2, to_apply=%add
  ROOT %carried = (s32[], f32[8,4]) tuple(%next, %all-gather.1)
}

ENTRY %main (p: f32[8,4]) -> f32[8,4] {
  %p = f32[8,4]{1,0:T(8,128)(2,1)} parameter(0)
  %zero = s32[] constant(0)
  %copied = s32[] copy(%zero)
  %start = (s32[], /*index=1*/f32[8,4]{1,0:T(8,128)}) tuple(%copied, %p)
  %loop = (s32[], f32[8,4]) while(%start), condition=%condition, body=%body
  %moved = (f32[16]{0}, f32[16]{0}, u32[]) collective-permute-start(%q), channel_id=3
  ROOT %done = f32[16]{0} collective-permute-done(%moved)
}
"""


def program(lines, others=""):
    """A program of eight devices; only its entry has these lines, the last of which is the root."""
    *lines, root = lines.strip().splitlines()
    body = "\n".join([*(f"  {line.strip()}" for line in lines), f"  ROOT {root.strip()}"])
    head = "HloModule step, num_partitions=8\n"
    return hlo.parse_hlo(f"{head}{others}\nENTRY %main (p: f32[4]) -> f32[4] {{\n{body}\n}}\n")


def found(read):
    """Number of runs and bytes received, by kind."""
    return {part.kind: (part.count, part.bytes) for part in collectives.summarize_collectives(read)}


def test_collectives_are_counted_as_often_as_they_run():
    # Twelve by two is six; a gather of 64 bytes gets three quarters of them from others, a sum
    # over all eight devices 2 x 7/8 of its 28 bytes.
    assert found(hlo.parse_hlo(HLO)) == {
        "all-gather": (6, 6 * 48),  # one, written twice, under one channel
        "all-reduce": (6, 6 * 49),
        "collective-permute": (1, 64),
    }


def test_a_collective_beside_several_pieces_of_work_runs_as_often_as_the_rarest_of_them():
    line = "  %again = bf16[8,4]{1,0} all-gather(%p), channel_id=1, replica_groups=[2,4]<=[8]\n"
    text = HLO.replace("  %loop", f"{line}  %loop")
    assert found(hlo.parse_hlo(text))["all-gather"] == (1, 48)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("direction=LT", "direction=NE"),
        ("s32[] copy(%zero)", "s32[] negate(%zero)"),
        ("add(%n, %two)", "multiply(%n, %two)"),
        ("add(%n, %two)", "add(%n, %n)"),
        ("constant(12)", "parameter(1)"),
    ],
)
def test_a_loop_whose_length_is_not_known_is_counted_once_and_named(old, new):
    assert old in HLO
    read = hlo.parse_hlo(HLO.replace(old, new))
    assert read.unknown_loops == ("loop",)
    assert found(read)["all-gather"] == (1, 48)


def test_a_loops_length_may_be_written_beside_it():
    known = 'body=%body, backend_config={"known_trip_count":{"n":"5"}}'
    assert found(hlo.parse_hlo(HLO.replace("body=%body", known)))["all-gather"] == (5, 5 * 48)


BRANCHES = "\n".join(
    f"""
%{name} (x: f32[4]) -> f32[4] {{
  ROOT %moved = f32[4]{{0}} collective-permute(%x), channel_id={channel}
}}"""
    for channel, name in enumerate(("first", "second"))
)


@pytest.mark.parametrize(
    "called",
    [
        "branch_computations={%first, %second}",
        "true_computation=%first, false_computation=%second",
    ],
)
def test_all_branches_of_a_conditional_are_counted(called):
    read = program(f"%either = f32[4] conditional(%which, %p, %p), {called}", BRANCHES)
    assert found(read) == {"collective-permute": (2, 32)}


STARTED = {
    "((f32[4],f32[8]), (f32[16],f32[32])) all-gather-start": 192,
    "(f32[4]{0:T(128)}, f32[16]{0:T(128)S(1)}) all-gather-start": 64,
    "(f32[100],f32[7]) all-reduce-start": 428,
    "f32[100]{0} all-reduce-start": 400,
    "(f32[4], f32[4], u32[], u32[]) collective-permute-start": 16,
    "((f32[4],f32[8]), (f32[4],f32[8]), u32[]) collective-permute-start": 48,
    "((f32[32]), f32[4], u32[]) reduce-scatter-start": 16,
}


@pytest.mark.parametrize("start", STARTED)
def test_of_what_starts_a_collective_only_the_results_count(start):
    (op,) = collectives.collective_ops(program(f"%started = {start}(%p), channel_id=1"))
    assert sum(shape.bytes for shape in op.shapes) == STARTED[start]


def test_a_started_computation_runs_once():
    lines = """
    %start = ((f32[32]), f32[4], u32[]) async-start(%p), calls=%scatter
    %update = ((f32[32]), f32[4], u32[]) async-update(%start), calls=%scatter
    %done = f32[4] async-done(%update), calls=%scatter
    """
    scatter = """
%scatter (x: f32[32]) -> f32[4] {
  ROOT %part = f32[4] reduce-scatter(%x), channel_id=1, dimensions={0}, to_apply=%add
}
"""
    assert found(program(lines, scatter)) == {"reduce-scatter": (1, 7 * 16)}


def test_libtpus_reduce_scatter_is_one():
    fusion = """
%all-reduce-scatter.2 (x: f32[30]) -> (f32[4]) {
  %padded = f32[32] pad(%x, %zero), padding=0_2
  %summed = (f32[32]) all-reduce(%padded), channel_id=1, replica_groups={{0,1,2,3,4,5,6,7}}
  %whole = f32[32] get-tuple-element(%summed), index=0
  %part = f32[4] dynamic-slice(%whole, %place), dynamic_slice_sizes={4}
  ROOT %parts = (f32[4]) tuple(%part)
}
"""
    lines = "%reduced = (f32[4]) fusion(%p), kind=kCustom, calls=%all-reduce-scatter.2"
    assert found(program(lines, fusion)) == {"reduce-scatter": (1, 7 * 16)}


GROUPS = {
    "": 8,
    ", replica_groups={}": 8,
    ", replica_groups={{0,2},{4,6},{1,3},{5,7}}": 2,
    ", replica_groups=[2,4]<=[2,2,2]T(1,0,2)": 4,
    ", replica_groups=mesh['axis_0'=4,'axis_1'=1,'axis_2'=2] {'axis_0'}": 4,
    ", replica_groups=mesh['axis_0'=2,'axis_1'=4], device_ids=([2,2,2]T(1,0,2)) "
    "{'axis_0','axis_1'}": 8,
    ", replica_groups=mesh['axis_0'=8] {'axis_0':(2)2}": 2,
}


@pytest.mark.parametrize("groups", GROUPS)
def test_how_many_devices_take_part(groups):
    read = program(f"%all = f32[16] all-to-all(%p){groups}, dimensions={{0}}")
    (op,) = collectives.collective_ops(read)
    assert op.group_size == GROUPS[groups]
    assert op.bytes_received == 64 - 64 // op.group_size


def compiled(fn, *shapes):
    """The count on the jaxpr, and that of the compiled program."""
    args = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    read = hlo.parse_hlo(jax.jit(fn).lower(*args).compile().as_text())
    assert not read.unknown_loops
    return flops.count(fn, *args).matmul, matmul_flops(read)


def test_products_in_loops_are_counted_as_on_the_jaxpr():
    def fn(x, kernels):
        return jax.lax.scan(lambda x, kernel: (jnp.sin(x @ kernel), None), x, kernels)[0]

    counted, read = compiled(fn, (48, 32), (7, 32, 32))
    assert read == counted == 7 * 2 * 48 * 32 * 32


def test_convolutions_are_counted_without_their_padding():
    def fn(x, kernel, padding):
        dims = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, kernel, (2, 1), padding, dimension_numbers=dims)

    def both(padding):
        return compiled(lambda x, k: fn(x, k, padding), (8, 9, 8, 16), (3, 3, 16, 32))

    counted, read = both("VALID")
    assert read == counted
    counted, read = both("SAME")
    # Of 5 x 3 taps in one direction two meet padding, of 8 x 3 in the other two too.
    assert read * (5 * 3) * (8 * 3) == counted * (5 * 3 - 2) * (8 * 3 - 2)


def test_a_batch_may_be_a_window_over_a_dilated_array():
    lines = """
    %lhs = f32[16,176,32,8]{3,2,1,0} parameter(0)
    %rhs = f32[16,176,32,8]{3,2,1,0} parameter(1)
    %scores = f32[16,8,176,176]{3,2,1,0:T(8,128)} convolution(%lhs, %rhs), \
window={size=16x8 stride=15x7 lhs_dilate=16x8}, dim_labels=0bf1_0oi1->01bf
    """
    assert matmul_flops(program(lines)) == 2 * 16 * 8 * 176 * 176 * 32


def test_products_of_integers_are_not_counted():
    lines = """
    %p = s32[8,4] parameter(0)
    %q = s32[4,8] parameter(1)
    %r = s32[8,8] dot(%p, %q), lhs_contracting_dims={1}, rhs_contracting_dims={0}
    """
    assert matmul_flops(program(lines)) == 0
    assert matmul_flops(program(lines.replace("s32", "bf16"))) == 2 * 8 * 8 * 4
