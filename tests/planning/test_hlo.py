"""Programs in HLO text are read, and what they move is counted."""

import pytest

from vit_jax.planning import hlo, traffic


def measure(text):
    return traffic.measure(hlo.parse(text))


def entry(*lines):
    """Returns a module whose entry has these instructions."""
    body = "\n".join(f"  {line}" for line in lines)
    return f"HloModule jit_train_step\n\nENTRY %main (a: f32[]) -> f32[] {{\n{body}\n}}\n\n"


def test_arrays_have_bytes_with_and_without_the_padding_of_tiles():
    (array,) = hlo.arrays("bf16[4,197,768]{2,1,0:T(8,128)(2,1)}")
    assert array.bytes == 2 * 4 * 197 * 768
    assert array.bytes_in_hbm == 2 * 4 * 200 * 768
    (lanes,) = hlo.arrays("f32[2,12,64]{1,2,0:T(8,128)}")  # 12 are in the 128 lanes
    assert lanes.bytes_in_hbm == 4 * 2 * 128 * 64
    assert [a.bytes for a in hlo.arrays("(pred[3]{0}, s4[5]{0}, u64[], token[])")] == [3, 3, 8, 0]


def test_arrays_on_the_chip_are_not_in_hbm():
    (array,) = hlo.arrays("f32[8,128]{1,0:T(8,128)S(1)}")
    assert (array.bytes, array.bytes_in_hbm) == (4096, 0)


def test_elements_of_a_tuple():
    nested = "((f32[4]{0}, s32[]), bf16[2,3]{1,0:T(8,128)(2,1)}, u32[])"
    assert hlo.elements(nested) == [
        "(f32[4]{0}, s32[])",
        "bf16[2,3]{1,0:T(8,128)(2,1)}",
        "u32[]",
    ]
    assert hlo.elements("f32[4]{0}") == ["f32[4]{0}"]


def test_operands_and_results_are_counted_but_not_what_moves_nothing():
    text = entry(
        "%a = f32[1024]{0} parameter(0)",
        "%b = f32[16,64]{1,0} bitcast(%a)",
        "%c = f32[16,16]{1,0} dot(%b, /*index=1*/%b), lhs_contracting_dims={1}",
        "ROOT %d = (f32[16,16]{1,0}) tuple(%c)",
    )
    found = measure(text)
    assert found.bytes_accessed == 4 * (2 * 16 * 64 + 16 * 16)
    assert found.instructions == 1
    assert found.collectives == {}


LOOP = """HloModule jit_train_step

%body (p: (s32[], f32[256])) -> (s32[], f32[256]) {
  %p = (s32[], f32[256]{0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %x = f32[256]{0} get-tuple-element(%p), index=1
  %y = f32[256]{0} tanh(%x)
  %z = f32[256]{0} all-reduce(%y), channel_id=1, to_apply=%sum
  ROOT %t = (s32[], f32[256]{0}) tuple(%i, %z)
}

ENTRY %main (a: (s32[], f32[256])) -> (s32[], f32[256]) {
  %a = (s32[], f32[256]{0}) parameter(0)
  ROOT %w = (s32[], f32[256]{0}) while(%a), condition=%cond, body=%body, backend_config={TRIPS}
}
"""


def test_a_loop_counts_as_often_as_it_runs():
    found = measure(LOOP.replace("TRIPS", '"known_trip_count":{"n":"5"}'))
    assert found.bytes_accessed == 5 * 2 * (1024 + 1024)
    assert found.collectives == {"all-reduce": {"f32": 5 * 1024}}
    assert (found.instructions, found.unknown_loops) == (10, 0)


def test_a_loop_of_unknown_length_counts_once_and_is_reported():
    found = measure(LOOP.replace("TRIPS", ""))
    assert found.bytes_accessed == 2 * (1024 + 1024)
    assert found.unknown_loops == 1


def test_one_element_of_a_tuple_as_an_operand():
    text = entry("%a = (s32[], f32[64]{0}) parameter(0)", "ROOT %b = f32[64]{0} tanh(%a#1)")
    assert measure(text).bytes_accessed == 2 * 4 * 64


def test_both_branches_of_a_conditional_count():
    text = """HloModule m

%one (p: f32[8]) -> f32[8] {
  %p = f32[8]{0} parameter(0)
  ROOT %q = f32[8]{0} tanh(%p)
}

ENTRY %main (a: f32[8]) -> f32[8] {
  %c = s32[] parameter(0)
  %a = f32[8]{0} parameter(1)
  ROOT %b = f32[8]{0} conditional(%c, %a, %a), branch_computations={%one, %one}
}
"""
    assert measure(text).bytes_accessed == 2 * 2 * 32


FUSION = """HloModule m

%fused (p0: f32[24,1024], p1: s32[], p2: f32[24,1024], p3: f32[8]) -> (f32[1024], f32[24,1024]) {
  %p0 = f32[24,1024]{1,0} parameter(0)
  %p1 = s32[] parameter(1)
  %p2 = f32[24,1024]{1,0} parameter(2)
  %p3 = f32[8]{0} parameter(3)
  %zero = s32[] constant(0)
  %layer = f32[1,1024]{1,0} dynamic-slice(%p0, %p1, %zero), dynamic_slice_sizes={1,1024}
  %flat = f32[1024]{0} bitcast(%layer)
  %new = f32[24,1024]{1,0} dynamic-update-slice(%p2, %layer, %p1, %zero)
  ROOT %t = (f32[1024]{0}, f32[24,1024]{1,0}, f32[8]{0}) tuple(%flat, %new, %p3)
}

ENTRY %main (a: f32[24,1024]) -> f32[1024] {
  %a = f32[24,1024]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %b = f32[24,1024]{1,0} parameter(2)
  %c = f32[8]{0} parameter(3)
  ROOT %f = (f32[1024]{0}, f32[24,1024]{1,0}, f32[8]{0}) fusion(%a, %i, %b, %c), calls=%fused
}
"""


def test_a_fusion_reads_a_slice_and_updates_in_place_and_hands_on():
    # It reads a layer and the index, and writes the layer twice: alone, and into the stack.
    assert measure(FUSION).bytes_accessed == 4096 + 4 + 4096 + 4096


def test_a_fusion_that_also_needs_the_whole_operand_reads_it():
    whole = FUSION.replace("  ROOT %t", "  %all = f32[24,1024]{1,0} tanh(%p0)\n  ROOT %t")
    assert measure(whole).bytes_accessed == 24 * 4096 + 4 + 4096 + 4096


def test_asynchronous_instructions_count_once():
    text = entry(
        "%a = f32[256]{0} parameter(0)",
        "%s = (f32[256]{0:S(1)}, f32[256]{0}, u32[]) copy-start(%a)",
        "%d = f32[256]{0:S(1)} copy-done(%s)",
        "%g = (f32[256]{0:S(1)}, f32[1024]{0}) all-gather-start(%d), channel_id=1, dimensions={0}",
        "ROOT %e = f32[1024]{0} all-gather-done(%g)",
    )
    found = measure(text)
    assert found.bytes_accessed == 1024 + 4096
    assert found.collectives == {"all-gather": {"f32": 4096}}


def test_a_collective_counts_the_whole_array():
    text = entry(
        "%a = bf16[1024]{0} parameter(0)",
        "%b = bf16[256]{0} reduce-scatter(%a), channel_id=1, to_apply=%sum",
        "%c = bf16[256]{0} reduce-scatter(%a), channel_id=1, to_apply=%sum",
        "ROOT %d = (f32[8]{0}, bf16[4]{0}) all-reduce(%x, %y), channel_id=2, to_apply=%sum",
        "%x = f32[8]{0} parameter(1)",
        "%y = bf16[4]{0} parameter(2)",
    )
    assert measure(text).collectives == {
        "reduce-scatter": {"bf16": 2 * 2048},
        "all-reduce": {"f32": 32, "bf16": 8},
    }


PARTS = """HloModule m

%start (p: bf16[64]) -> bf16[256] {
  %p = bf16[64]{0} parameter(0)
  ROOT %g = bf16[256]{0} all-gather(%p), channel_id=7, dimensions={0}
}

%async_collective_fusion.1 (p: bf16[64]) -> bf16[256] {
  %p.1 = bf16[64]{0} parameter(0)
  ROOT %g.1 = bf16[256]{0} all-gather(%p.1), channel_id=7, dimensions={0}
}

%all-reduce-scatter (p: f32[64]) -> f32[16] {
  %p.2 = f32[64]{0} parameter(0)
  %r = f32[64]{0} all-reduce(%p.2), channel_id=8, to_apply=%sum
  ROOT %s = f32[16]{0} dynamic-slice(%r), dynamic_slice_sizes={16}
}

ENTRY %main (a: bf16[64]) -> f32[16] {
  %a = bf16[64]{0} parameter(0)
  %b = f32[64]{0} parameter(1)
  %async-collective-start = bf16[256]{0} fusion(%a), kind=kCustom, calls=%start
  %m = bf16[256]{0} fusion(%a), kind=kOutput, calls=%async_collective_fusion.1
  %async-collective-done = bf16[256]{0} fusion(%a), kind=kCustom, calls=%start
  ROOT %n = f32[16]{0} fusion(%b), kind=kCustom, calls=%all-reduce-scatter
}
"""


def test_the_parts_of_a_collective_of_tpus_count_once():
    assert measure(PARTS).collectives == {
        "all-gather": {"bf16": 512},
        "reduce-scatter": {"f32": 256},
    }


def test_a_text_is_complete_if_it_has_the_end_of_the_entry():
    text = LOOP.replace("TRIPS", "")
    assert hlo.is_complete(text)
    lines = text.splitlines(keepends=True)
    assert not any(hlo.is_complete("".join(lines[:n])) for n in range(len(lines)))


def test_a_text_without_an_entry_is_no_program():
    with pytest.raises(ValueError, match="ENTRY"):
        hlo.parse("HloModule m\n")
