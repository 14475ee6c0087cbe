"""Messages with something wrong in them: what makes a message of numbers bad, and how many bad ones are too many.

An image is bad when it does not decode, which the pipeline finds out; here it is a number and a reason like any other.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from common.cli.command import UserError
from stage1_convert.config import Config
from stage1_convert.streams.angles import is_angle
from stage1_convert.streams.arrays import Float64, Int64

MAX_NUMBER = 1e9  # no force, angle or distance of a robot is larger: such a number is damaged
MAX_ANGLE_RAD = 1e4  # more than a thousand turns
MAX_BAD_SHARE = 0.05  # of a stream's messages that were looked at


class BadMessage(NamedTuple):
    """A message that is left out: its number on its topic, its stamp, and what is wrong.

    Nothing is wrong with one that `follows` a damaged packet of a video, but it does not decode without that packet.
    """

    number: int
    stamp_ns: int
    reason: str
    follows: bool = False


def require_few(subject: str, bad: Sequence[BadMessage], looked_at: int) -> None:
    """Raise UserError, with the count and the first reason, when more than MAX_BAD_SHARE of the messages are bad."""
    damaged = [message for message in bad if not message.follows]
    if len(damaged) > MAX_BAD_SHARE * looked_at:
        first = damaged[0]
        raise UserError(
            f"{subject}: {len(damaged)} of the {looked_at} messages that were looked at are bad, more than "
            f"{MAX_BAD_SHARE:.0%}; data.exclude leaves the bag out. The first one is "
            f"message {first.number} stamped {first.stamp_ns} ns: {first.reason}"
        )


def number_faults(
    names: Sequence[str], numbers: Int64, values: Float64, faults: Mapping[int, str], config: Config
) -> dict[int, str]:
    """Return what is wrong with messages, by their number: those of `faults`, and numbers that no robot has.

    `numbers` (samples,) are the messages of `values` (samples, names); images have no names.
    """
    if not names:
        return {int(number): faults[int(number)] for number in numbers[np.isin(numbers, list(faults))]}
    limits, found = np.where(is_angle(names, config), MAX_ANGLE_RAD, MAX_NUMBER), {}
    usable = ((-limits <= values) & (values <= limits)).all(axis=1)  # false for NaN, too; no copy of the values
    for row in np.flatnonzero(~usable):
        number = int(numbers[row])
        found[number] = faults.get(number) or _out_of_range(values[row], limits, names)
    return found


def _out_of_range(values: Float64, limits: Float64, names: Sequence[str]) -> str:
    wrong = [
        f"{name} is {value}{' rad' if limit == MAX_ANGLE_RAD else ''}"
        for name, value, limit in zip(names, values, limits, strict=True)
        if not abs(value) <= limit
    ]
    return ", ".join(wrong)
