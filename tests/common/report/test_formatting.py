"""Numbers are written for people: units they can picture, digits they can read, and a dash for what is unknown."""

from common.report.formatting import MINUS, UNKNOWN, angle, counted, duration, milliseconds, number, ratio, share, words


def test_numbers_have_three_digits_and_no_exponent() -> None:
    values = (0.00012345, 1234.5, 0.0, -2.5, 1e-12, None, float("nan"))
    assert [number(value) for value in values] == ["0.000123", "1230", "0", MINUS + "2.5", "0", UNKNOWN, UNKNOWN]


def test_radians_are_shown_in_degrees_and_other_units_as_they_are() -> None:
    assert angle(0.01, "rad") == "0.57°"
    assert angle(0.01, "the dataset's units") == "0.01"
    assert angle(None, "rad") == UNKNOWN


def test_ratios_shares_and_times() -> None:
    assert [ratio(1.234), ratio(None)] == ["1.2 \N{MULTIPLICATION SIGN}", UNKNOWN]
    assert [share(value) for value in (0, 0.0001, 0.5)] == ["0 %", "under 0.1 %", "50.0 %"]
    assert [duration(seconds) for seconds in (3, 150, 9000)] == ["3.0 s", "2.5 min", "2.5 h"]
    assert [milliseconds(0.0123), milliseconds(None)] == ["12.3 ms", UNKNOWN]


def test_nouns_agree_with_their_number() -> None:
    assert [counted(count, "bag") for count in (0, 1, 1200)] == ["0 bags", "1 bag", "1,200 bags"]
    assert [counted(count, "process") for count in (1, 2)] == ["1 process", "2 processes"]
    assert words("next_position") == "next position"
