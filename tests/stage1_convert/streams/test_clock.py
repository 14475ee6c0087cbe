"""Header stamps are given up for a fault of theirs, and not for one of the recorder's."""

from pathlib import Path

import numpy as np
import pytest

from stage1_convert.streams.clock import choose_clock
from tests.stage1_convert.conversion import report, run
from tests.stage1_convert.recording import MS, START_NS, cell

HEADER_NS = START_NS + np.arange(300, dtype=np.int64) * 10 * MS


@pytest.mark.parametrize("untimed", [0, 20, 299, 300])
def test_receive_times_of_zero_do_not_count_against_the_header_stamps(untimed: int) -> None:
    receive_ns = HEADER_NS + MS
    receive_ns[:untimed] = 0
    clock = choose_clock(HEADER_NS, receive_ns, "auto")
    assert clock.source == "header"
    assert np.array_equal(clock.stamps_ns, HEADER_NS)
    assert clock.latency_ms == (1.0 if untimed < 300 else None)
    assert (f"; {untimed} receive times are zero" in clock.reason) == bool(untimed)


def test_a_header_clock_that_is_ahead_is_given_up_also_beside_receive_times_of_zero() -> None:
    receive_ns = HEADER_NS - 10**9
    receive_ns[:20] = 0
    clock = choose_clock(HEADER_NS, receive_ns, "auto")
    assert (clock.source, clock.reason) == ("receive", "header stamps lie up to 1.000 s after the receive times")


def test_a_recorder_that_waited_for_simulation_time_costs_no_frame(tmp_path: Path) -> None:
    cell().write(tmp_path / "whole" / "bag")
    waited = cell()
    for stream in (waited.joints, waited.images):
        stream[: len(stream) // 5] = [said._replace(receive_ns=0) for said in stream[: len(stream) // 5]]
    waited.write(tmp_path / "src" / "bag")
    frames = [run(tmp_path / name, tmp_path / f"out {name}").frames for name in ("whole", "src")]
    assert frames[0] == frames[1] > 30
    clocks = report(tmp_path / "out src")["bags"][0]["clock"]
    assert {clock["source"] for clock in clocks.values()} == {"header"}
