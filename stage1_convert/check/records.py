"""Our own rules, about our own record: meta/conversion.json, and what the declared meaning of actions implies for the rows.

LeRobot and the training do not read them; datasets of other tools have none.
"""

import math
from collections.abc import Iterator

import numpy as np
from pydantic import ValidationError

from common.cli.validation import explain
from common.lerobot.metadata import ACTION, STATE
from common.storage.files import read_json
from stage1_convert.check.findings import Finding, Opened, expect
from stage1_convert.dataset.record import FORMAT, RECORD_PATH, ConversionRecord


def check_record(opened: Opened) -> Iterator[Finding]:
    """Which bag became which episode, and whether that agrees with the episodes."""
    path = opened.root / RECORD_PATH
    tree = read_json(path) if path.is_file() else {"format": 0}
    version = tree.get("format") if isinstance(tree, dict) else None
    if isinstance(version, int) and version < FORMAT:
        return  # of another tool or an earlier release
    try:
        record = ConversionRecord.model_validate(tree)
    except ValidationError as error:
        yield Finding("own rule", f"{RECORD_PATH}: {explain(error, ConversionRecord)}")
        return
    entries = [entry for bag in record.bags for entry in bag.episodes]
    found = [(entry.episode_index, entry.frames) for entry in entries]
    expected = [(episode.number, episode.length) for episode in opened.dataset.episodes]
    yield from expect(RECORD_PATH, "episodes and their frames", found, expected, "own rule")


def check_actions(opened: Opened) -> Iterator[Finding]:
    """Actions that follow from the states, by the meaning that the action's `info` declares, are recomputed."""
    dataset, meaning = opened.dataset, opened.dataset.action_meaning
    state, action = dataset.features[STATE].names or (), dataset.features[ACTION].names or ()
    joints = [name for name in action if name in state]
    if meaning not in ("delta", "next_position") or not joints or not {STATE, ACTION} <= opened.columns.keys():
        return
    now = opened.columns[STATE][:, [state.index(joint) for joint in joints]].astype(np.float64)
    found = opened.columns[ACTION][:, [action.index(joint) for joint in joints]].astype(np.float64)
    following = np.concatenate([now[1:], now[-1:]])
    for episode in dataset.episodes:
        following[episode.stop - 1] = now[episode.stop - 1]
    expected = following - now if meaning == "delta" else following
    off = np.abs(found - expected)
    off = np.minimum(off, np.abs(off - 2 * math.pi)).max(axis=1)  # a delta takes the shortest arc
    limit = 1e-6 + 4e-7 * np.abs(now).max(initial=0.0)  # both states were rounded to float32
    for row in np.flatnonzero(off > limit)[:1]:
        what = f"found {found[row].tolist()}, expected {expected[row].tolist()} ({meaning})"
        yield Finding("own rule", f"{opened.place(row)}: action: {what}")
