"""Stamps that go back, repeat, jump or start late, and topics that are missing, are handled by a rule and counted.

The rules stand in docs/conversion.md under "Time", the counts in meta/conversion.json.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.cli.command import UserError
from common.cli.config import load
from stage1_convert.align.episodes import make_plan
from stage1_convert.align.resample import grid
from stage1_convert.config import Config
from stage1_convert.streams.arrays import Int64
from stage1_convert.streams.clock import choose_clock
from tests.reliability.harness import loops
from tests.stage1_convert.align.test_episodes import planned, steady
from tests.stage1_convert.conversion import convert_one, jpegs, reason, report, run, sources_of
from tests.stage1_convert.recording import (
    JOINT_TOPIC,
    JPEG_TOPIC,
    MS,
    START_NS,
    RecordedMessage,
    Recording,
    cell,
    decode,
    header,
    joint_state,
    number_in,
    stamp_of,
    with_joints,
)

T0 = 1_700_000_000 * 10**9
MINUTE_NS = 60 * 10**9


def test_a_clock_that_jumped_by_years_is_refused() -> None:
    with pytest.raises(UserError, match="a clock jumped"):
        grid(0, T0, 30)


def test_header_stamps_that_go_back_are_refused_when_they_are_demanded(tmp_path: Path) -> None:
    recording = with_joints(
        cell(), 80, 81, lambda said: joint_state(stamp_of(said) - 50 * MS, said.message.name, said.message.position)
    )
    assert "go back 1 times, first at message 80" in reason(tmp_path, recording, "data.time_source=header")


def test_a_wrong_topic_is_refused_with_the_topics_there_are(tmp_path: Path) -> None:
    text = reason(tmp_path, cell(), "data.cameras.color=/cam")
    assert "/cam/compressed or /cam" in text
    assert f"{JPEG_TOPIC} (sensor_msgs/msg/CompressedImage)" in text
    assert JOINT_TOPIC in text


def test_streams_that_never_overlap_are_refused(tmp_path: Path) -> None:
    recording = cell(seconds=3.0)
    recording.joints, recording.images = recording.joints[:50], recording.images[60:]
    assert "color (header time) begins 1.512 s after joints (header time) has ended" in reason(tmp_path, recording)


def test_streams_of_two_clocks_are_refused_and_the_clocks_named() -> None:
    with pytest.raises(UserError, match=r"joints \(header time\) begins .* look at data.time_source"):
        planned(steady(2), steady(2, 30, start_ns=5))


def stamped(said: RecordedMessage, stamp_ns: int) -> RecordedMessage:
    """Return a message with another header stamp, received when it was."""
    fields = {name: getattr(said.message, name) for name in said.message.__dataclass_fields__ if name[0] != "_"}
    return said._replace(message=type(said.message)(**{**fields, "header": header(stamp_ns)}))


def shifted(said: RecordedMessage, by_ns: int) -> RecordedMessage:
    """Return a message that was stamped and received later."""
    return stamped(said, stamp_of(said) + by_ns)._replace(receive_ns=said.receive_ns + by_ns)


def restamp(change: Callable[[int, int], int]) -> Callable[[Recording], None]:
    """Change the stamps of the camera's headers, each by its number and what it was."""

    def spoil(recording: Recording) -> None:
        recording.images = [stamped(said, change(at, stamp_of(said))) for at, said in enumerate(recording.images)]

    return spoil


def set_recorder_ahead(recording: Recording) -> None:
    for stream in (recording.joints, recording.images):
        half = len(stream) // 2
        stream[half:] = [shifted(said, MINUTE_NS) for said in stream[half:]]


def add_publisher(recording: Recording) -> None:
    """Let a second node publish each image again, with a stamp of its own clock."""
    recording.images += [
        stamped(said, stamp_of(said) - 40 * MS)._replace(receive_ns=said.receive_ns + 1) for said in recording.images
    ]


def receive_in_bursts(recording: Recording) -> None:
    """Let the recorder receive all images of a fifth of a second at once."""
    burst_ns = 200 * MS
    recording.images = [
        said._replace(receive_ns=-(-said.receive_ns // burst_ns) * burst_ns) for said in recording.images
    ]


class Trouble(NamedTuple):
    """What happens to a recording of 3 s, and what the record then tells of the camera's clock, the gaps and the ends."""

    spoil: Callable[[Recording], None]
    source: str = "header"
    reason: str = "in order and near the receive times"
    gaps: int = 0  # each of them divides the recording
    silent: Sequence[str] = ("color",)
    warm_up_s: float = 0.0
    tail_s: float = 0.0


BACK = "go back {} times, first at message {}"
TROUBLE = {
    "none": Trouble(lambda recording: None),
    "one goes back": Trouble(restamp(lambda at, ns: ns - (at == 40) * 70 * MS), "receive", BACK.format(1, 40)),
    "each second goes back": Trouble(restamp(lambda at, ns: ns - at % 2 * 50 * MS), "receive", BACK.format(45, 1)),
    "some are zero": Trouble(
        restamp(lambda at, ns: 0 if at % 9 == 4 else ns), "receive", "10 of 90 header stamps are zero"
    ),
    "a clock since the start": Trouble(
        restamp(lambda at, ns: ns - START_NS + 1), "receive", "before the receive times"
    ),
    "a clock in the future": Trouble(restamp(lambda at, ns: ns + MINUTE_NS), "receive", "lie up to 59.990 s after"),
    "set ahead": Trouble(restamp(lambda at, ns: ns + (at >= 45) * 2 * 10**9), "receive", "up to 1.990 s after"),
    "set ahead at last": Trouble(restamp(lambda at, ns: ns + (at >= 88) * 2 * 10**9), "receive", "up to 1.983 s after"),
    "set back to what it should be": Trouble(
        restamp(lambda at, ns: ns - (at < 45) * 600 * MS), "receive", "wander by 0.6"
    ),
    "set ahead a little": Trouble(restamp(lambda at, ns: ns + (at >= 45) * 300 * MS), gaps=1, tail_s=0.3),
    "runs fast": Trouble(restamp(lambda at, ns: ns - 400 * MS + at * 10 * MS), "receive", "wander by 0.799 s"),
    "pairs": Trouble(
        restamp(lambda at, ns: START_NS + at // 2 * 10**9 // 15), reason="times; 45 repeat the one before"
    ),
    "starts late": Trouble(lambda recording: recording.images.__delitem__(slice(0, 30)), warm_up_s=1.0),
    "ends early": Trouble(lambda recording: recording.images.__delitem__(slice(60, 90)), tail_s=1.0),
    "is silent": Trouble(lambda recording: recording.images.__delitem__(slice(40, 50)), gaps=1),
    "two publishers": Trouble(add_publisher, "receive", "go back 90 times, first at message 1"),
    "received in bursts": Trouble(receive_in_bursts),
    "the recorder's clock is set ahead": Trouble(set_recorder_ahead, gaps=1, silent=("joints", "color")),
}


@pytest.mark.parametrize("trouble", TROUBLE)
def test_each_trouble_has_its_rule_and_is_counted(trouble: str, tmp_path: Path) -> None:
    expected = TROUBLE[trouble]
    recording = cell(3.0, size=(16, 64))
    expected.spoil(recording)
    dataset = convert_one(tmp_path, recording)
    (bag,) = report(dataset)["bags"]
    assert bag["clock"]["joints"]["source"] == "header"
    assert bag["clock"]["color"]["source"] == expected.source
    assert expected.reason in bag["clock"]["color"]["reason"]
    assert [gap["streams"] for gap in bag["gaps"]] == [list(expected.silent)] * expected.gaps
    assert len(bag["episodes"]) == expected.gaps + 1
    assert bag["warm_up_s"] == pytest.approx(expected.warm_up_s, abs=0.05)  # up to a period of the grid later
    assert bag["tail_s"] == pytest.approx(expected.tail_s, abs=0.12)
    no_frame_shows_the_future(dataset)


def no_frame_shows_the_future(out: Path) -> None:
    """Assert that every frame shows a sample not after it and at most 100 ms old, and that no image comes back."""
    traced = sources_of(out)
    assert len(traced) > 40
    for stream in ("joints", "color"):
        ages_ns = traced["tick_ns"] - traced[f"{stream}.stamp_ns"]
        assert ages_ns.between(0, 100 * MS).all()
        assert (traced[f"{stream}.message"].diff().dropna() >= 0).all()
    numbers = [number_in(decode(data)) for data in jpegs(out)]
    assert numbers == sorted(numbers)


@pytest.mark.parametrize("topic", [JOINT_TOPIC, JPEG_TOPIC])
def test_a_topic_that_is_missing_is_named_and_the_other_bags_are_converted(tmp_path: Path, topic: str) -> None:
    recording = cell(size=(16, 64))
    if topic == JOINT_TOPIC:
        recording.joints = []
    else:
        recording.images = []
    recording.write(tmp_path / "src" / "lacks")
    cell(size=(16, 64)).write(tmp_path / "src" / "whole")
    ((bag, text),) = run(tmp_path / "src", tmp_path / "out").refused
    assert (bag, topic in text) == ("lacks", True)
    assert [bag["status"] for bag in report(tmp_path / "out")["bags"]] == ["refused", "converted"]


steps_ms = st.one_of(st.integers(1, 60), st.sampled_from([0, 0, -1, -40, -700, 300, 700, 100_000]))
streams = st.lists(st.tuples(steps_ms, st.integers(0, 30)), min_size=5, max_size=80)


def stamps_of(stream: list[tuple[int, int]]) -> tuple[Int64, Int64]:
    """Return header stamps that do what they like, and the receive times of the messages, which never go back."""
    steps = np.array(stream, np.int64) * MS
    ahead_ns = T0 + np.cumsum(np.maximum(steps[:, 0], 0))
    header_ns = T0 + np.cumsum(steps[:, 0])
    return header_ns, np.maximum.accumulate(ahead_ns + steps[:, 1])


@settings(deadline=None, max_examples=loops(100, 5_000))
@given(streams, streams, st.sampled_from(["auto", "in_order", "hold", "nearest", "linear"]))
def test_whatever_the_stamps_do_no_frame_shows_what_its_rule_forbids(one: Any, two: Any, rule: str) -> None:
    clocks = {}
    for name, stream in (("joints", one), ("color", two)):
        header_ns, receive_ns = stamps_of(stream)
        clocks[name] = choose_clock(header_ns, receive_ns, "auto")
        chosen, steps = clocks[name], np.diff(header_ns)
        assert (np.diff(chosen.stamps_ns) >= 0).all()
        np.testing.assert_array_equal(chosen.stamps_ns, header_ns if chosen.source == "header" else receive_ns)
        if (steps < 0).any():
            assert chosen.source == "receive"
            assert f"go back {(steps < 0).sum()} times, first at message {np.argmax(steps < 0) + 1}" in chosen.reason
        assert chosen.source == "receive" or (header_ns - receive_ns <= 500 * MS).all()
        if chosen.source == "header" and (steps == 0).any():
            assert f"{(steps == 0).sum()} repeat the one before" in chosen.reason
    config = load(Config, None, [f"data.resample={rule}", "data.min_episode_s=0"])
    angles = np.zeros((len(one), 1))
    try:
        plan = make_plan(clocks, {"joints": angles}, {}, np.zeros(0, np.int64), config)
    except UserError as error:
        assert any(words in str(error) for words in ("too short", "never overlap", "a clock jumped"))
        return
    for span in plan.episodes:
        ticks_ns = plan.ticks_ns[span.start : span.stop]
        for name, of in clocks.items():
            shown = plan.picks[name][span.start : span.stop]
            off_ns = ticks_ns - of.stamps_ns[shown]
            limit_ns = (50 if rule in ("nearest", "linear") else 100) * MS
            assert (np.abs(off_ns) <= limit_ns).all()
            assert (np.diff(shown) >= 0).all()
            assert (off_ns >= 0).all() or rule != "hold"
            if rule == "hold":  # of messages with one stamp the last counts
                last = np.searchsorted(of.stamps_ns, of.stamps_ns[shown], side="right") - 1
                np.testing.assert_array_equal(shown, last)
