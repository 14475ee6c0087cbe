"""Divides the joints of a topic into groups that come together, and finds publishers that contradict each other. Pure.

Arm and gripper often have publishers of their own on one topic. A message then holds some joints only, and each group of
joints has its own newest message.
"""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from stage1_convert.config import Config, ResampleRule, rule_of
from stage1_convert.streams.angles import interpolate, shortest
from stage1_convert.streams.arrays import Bool, Float64, Int64
from stage1_convert.streams.clock import SECOND_NS

MIN_LEAP_RAD = 0.05  # more than the noise of an encoder, whatever the time between two messages
MIN_LEAPS = 3  # fewer are faults of single messages
MIN_DIFFERENCES = 2  # of messages that name the joints in another order
COMPARED_WITHIN_NS = SECOND_NS // 5


class JointGroup(NamedTuple):
    """Joints, by their place in joint_order, that come in the same messages; `rows` (samples,) marks these messages."""

    joints: list[int]
    rows: Bool


def group_joints(names: Sequence[Sequence[str]], labels: Int64, whole: str, config: Config) -> dict[str, JointGroup]:
    """Divide the joints of `whole`, which is joints or command, by the messages they come in, their rule and their limit.

    Returns the groups by the names of their streams: the largest one has the plain name, each other that of its first joint,
    such as joints.finger_joint. `names` are the different sequences of names in the messages, `labels` (samples,) which of
    them a message has: -1 for one that is damaged, which counts for every joint. Messages without any names, such as arrays,
    hold all joints.
    """
    joints = config.conventions.joint_order
    carried = np.ones((len(names) + 1, len(joints)), np.bool_)  # the last row is that of label -1
    for label, given in enumerate(names):
        carried[label] = [not given or joint in given for joint in joints]
    together: dict[tuple[bytes, ResampleRule], list[int]] = {}
    for number, joint in enumerate(joints):
        rule = rule_of(f"{whole}.{joint}", config.data)
        together.setdefault((carried[:, number].tobytes(), rule), []).append(number)
    largest, *others = sorted(together.values(), key=lambda group: -len(group))
    named = {whole: largest, **{f"{whole}.{joints[group[0]]}": group for group in others}}
    return {name: JointGroup(group, carried[labels, group[0]]) for name, group in named.items()}


def partly_missing(groups: Sequence[JointGroup]) -> list[JointGroup]:
    """Return the groups that only some messages of another group's joints hold: they are no publisher's own joints."""
    return [
        group
        for group in groups
        if any((group.rows & other.rows).any() and (other.rows & ~group.rows).any() for other in groups)
    ]


def find_contradiction(stamps_ns: Int64, angles: Float64, labels: Int64, max_speed_rad_s: float) -> str | None:
    """Return how two publishers of the same joints contradict each other, None when they do not.

    `angles` (samples, joints) are in radians; messages with the same of the `labels` (samples,) name them in the same order.
    """
    leaps = _leaps(stamps_ns, angles, max_speed_rad_s)
    if np.count_nonzero(leaps) >= MIN_LEAPS:
        side = np.cumsum(np.concatenate([[False], leaps[1:] | leaps[:-1]])) % 2
        first, second = _counts(labels if len(np.unique(labels)) > 1 else side)
        return (
            f"joints leap faster than data.max_joint_speed_rad_s={max_speed_rad_s:g} and leap back, "
            f"{np.count_nonzero(leaps)} times, between {first} messages of one and {second} of the other"
        )
    return _different_values(stamps_ns, angles, labels)


def _leaps(stamps_ns: Int64, angles: Float64, max_speed_rad_s: float) -> Bool:
    """Return (samples,), which messages lie apart from both of their neighbors, which themselves agree.

    Joints are taken one by one, and only where they move far: an hour of messages must not be in memory several times.
    """
    found = np.zeros(len(stamps_ns), np.bool_)
    for column in angles.T if len(stamps_ns) > 2 else ():
        with np.errstate(invalid="ignore", over="ignore"):
            far = np.abs(np.diff(column)) > MIN_LEAP_RAD
            middle = np.flatnonzero(far[:-1] & far[1:]) + 1
            out, back = (np.abs(shortest(column[middle + step] - column[middle])) for step in (-1, 1))
            apart = np.minimum(out, back)
            needed_s = np.minimum(stamps_ns[middle] - stamps_ns[middle - 1], stamps_ns[middle + 1] - stamps_ns[middle])
            fast = apart > np.maximum(MIN_LEAP_RAD, max_speed_rad_s * needed_s / SECOND_NS)
            agree = np.abs(shortest(column[middle + 1] - column[middle - 1])) < apart / 4
        found[middle[fast & agree]] = True
    return found


def _different_values(stamps_ns: Int64, angles: Float64, labels: Int64) -> str | None:
    """Compare messages of every order of names with those of the commonest around them."""
    (usual, count), *others = Counter(labels.tolist()).most_common()
    reference = np.flatnonzero(labels == usual)
    for label, other_count in others if len(reference) > 1 else ():
        rows = np.flatnonzero(labels == label)
        left = np.searchsorted(stamps_ns[reference], stamps_ns[rows], side="right") - 1
        inside = (left >= 0) & (left < len(reference) - 1)
        rows, left = rows[inside], left[inside]
        before, after = reference[left], reference[left + 1]
        near = stamps_ns[after] - stamps_ns[before] <= COMPARED_WITHIN_NS
        rows, left, before, after = rows[near], left[near], before[near], after[near]
        is_angle = np.ones(angles.shape[1], np.bool_)
        expected = interpolate(stamps_ns[reference], angles[reference], stamps_ns[rows], left, is_angle)
        with np.errstate(invalid="ignore"):
            apart = np.abs(shortest(angles[rows] - expected))
            moved = np.abs(shortest(angles[after] - angles[before]))
            differs = apart > moved + MIN_LEAP_RAD
        if np.count_nonzero(differs.any(axis=1)) >= MIN_DIFFERENCES:
            return (
                f"{other_count} messages name the joints in another order than {count} others do between which they come, "
                f"and differ from them by up to {apart[differs].max():.2f} rad"
            )
    return None


def _counts(sides: Int64) -> tuple[int, int]:
    """Return the numbers of messages of the two commonest sides."""
    counts = [count for _, count in Counter(sides.tolist()).most_common(2)]
    return counts[0], counts[1] if len(counts) > 1 else 0
