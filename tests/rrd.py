"""Reads .rrd files with Rerun's own reader: entity -> a row of components for each frame."""

from pathlib import Path
from typing import Any

import numpy as np
from rerun.chunk import RrdReader

Rows = dict[int, dict[str, Any]]


def read_entities(path: Path) -> dict[str, Rows]:
    """Entity path -> frame -> component or timeline -> value, of everything that has a frame."""
    entities: dict[str, Rows] = {}
    for chunk in RrdReader(path).stream().to_chunks():
        table = chunk.to_record_batch()
        if "frame" not in table.schema.names:
            continue
        rows = entities.setdefault(chunk.entity_path, {})
        for row in table.to_pylist():
            found = {name.rpartition(":")[2]: value for name, value in row.items()}
            rows[found["frame"]] = {k: v[0] if isinstance(v, list) and len(v) == 1 else v for k, v in found.items()}
    return entities


def curve(rows: Rows) -> Any:
    """The scalars of an entity in the order of their frames, without gaps from the first on."""
    frames = sorted(rows)
    assert frames == list(range(frames[0], frames[0] + len(frames)))
    return np.array([rows[frame]["scalars"] for frame in frames])
