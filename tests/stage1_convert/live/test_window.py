"""A window of samples picks, tick by tick, what the rules pick from a whole stream, and forgets the rest."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stage1_convert.align.resample import RULES, grid
from stage1_convert.live.window import Sample, Window

MS = 1_000_000
START_NS = 10**9


@pytest.mark.parametrize("rule", ["hold", "in_order"])
@given(
    steps_ms=st.lists(st.integers(0, 120), min_size=1, max_size=60),
    limit_ms=st.integers(0, 200),
    phase_ms=st.integers(0, 99),
)
def test_a_window_picks_what_the_rule_picks_from_the_whole_stream(
    rule: str, steps_ms: list[int], limit_ms: int, phase_ms: int
) -> None:
    stamps_ns = START_NS + np.cumsum(steps_ms) * MS
    ticks_ns = grid(int(stamps_ns[0]) + phase_ms * MS, int(stamps_ns[-1]) + 500 * MS, 30)
    expected = RULES[rule](stamps_ns, ticks_ns, limit_ms * MS)
    window, sent = Window(rule, limit_ms * MS, 30, 1000), 0
    for tick_ns, sample, within in zip(ticks_ns.tolist(), expected.samples, expected.within, strict=True):
        while sent < len(stamps_ns) and stamps_ns[sent] <= tick_ns:
            assert window.add(Sample(sent, int(stamps_ns[sent])))
            sent += 1
        choice = window.choose(tick_ns)
        assert choice is not None
        assert choice.within == within
        assert window.show(choice.place).number == sample
        assert window.samples[0].number == sample, "what is older is forgotten"


def test_stamps_that_are_zero_or_go_back_are_left_out() -> None:
    window = Window("hold", MS, 30, 10)
    assert [window.add(Sample(number, stamp_ns)) for number, stamp_ns in enumerate([0, 5, 4, 5, 6])] == [
        False,
        True,
        False,
        True,
        True,
    ]
    assert [sample.number for sample in window.samples] == [1, 3, 4]
