"""A window leaves out what cannot be placed in time."""

from stage1_convert.live.window import Sample, Window

MS = 1_000_000


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
