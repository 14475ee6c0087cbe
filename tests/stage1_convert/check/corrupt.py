"""Edits of a dataset as corruptions.yaml names them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

COLOR = "observation.images.color"
FILES = {
    "info": "meta/info.json",
    "stats": "meta/stats.json",
    "tasks": "meta/tasks.parquet",
    "episodes": "meta/episodes/chunk-000/file-000.parquet",
    "data": "data/chunk-000/file-000.parquet",
    "second": "data/chunk-000/file-001.parquet",
    "video": f"videos/{COLOR}/chunk-000/file-000.mp4",
}
TYPES = {"double": pa.float64(), "list": pa.list_(pa.float32())}


def name_of(file: str) -> str:
    """Return the path of a file, relative to the dataset, by its short name."""
    return FILES.get(file, file)


def corrupt(root: Path, case: Mapping[str, Any]) -> None:
    """Edit the dataset as the case says.

    `json` edits a JSON file: `set` keys `to`, `drop` keys, or `add` to the number at these keys `by`. `table` edits a parquet
    file. `write`, `rename` (pairs), `remove` and `truncate` (`to` a size, or `by` bytes) edit any file. `film` replaces the
    video.
    """
    match case:
        case {"json": file}:
            _edit_json(root / name_of(file), case)
        case {"table": file}:
            _edit_table(root / name_of(file), case)
        case {"write": file}:
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            (root / file).write_text(case.get("text", ""))
        case {"rename": files}:
            for old, new in zip(files[::2], files[1::2], strict=True):
                (root / name_of(old)).rename(root / name_of(new))
        case {"remove": file}:
            (root / name_of(file)).unlink()
        case {"truncate": file}:
            data = (root / name_of(file)).read_bytes()
            (root / name_of(file)).write_bytes(data[: case["to"] if "to" in case else -case["by"]])
        case {"film": facts}:
            _film(root / FILES["video"], {"frames": 42, "height": 64, "width": 96, "fps": 30} | facts)


def _edit_json(path: Path, case: Mapping[str, Any]) -> None:
    tree = node = json.loads(path.read_text())
    *parents, last = next(case[name] for name in ("set", "drop", "add") if name in case)
    for key in parents:
        node = node[key]
    if "drop" in case:
        del node[last]
    else:
        node[last] = case["to"] if "set" in case else node[last] + case["by"]
    path.write_text(json.dumps(tree))


def _edit_table(path: Path, case: Mapping[str, Any]) -> None:
    table = pq.read_table(path, partitioning=None)
    if "without" in case:
        table = table.drop_columns(case["without"])
    elif "extra" in case:
        table = table.append_column(case["extra"], pa.array(np.zeros(len(table), np.float32)))
    elif "no_metadata" in case:
        table = table.replace_schema_metadata(None)
    elif "take" in case:
        ends = [part.split("-") for part in str(case["take"]).split()]
        table = table.take(
            [row for first, *last in ends for row in range(int(first), int(last[0] if last else first) + 1)]
        )
    else:
        table = _edit_column(table, case)
    pq.write_table(table, path)


def _edit_column(table: pa.Table, case: Mapping[str, Any]) -> pa.Table:
    index = table.schema.get_field_index(case["column"])
    cells = table.column(index).to_pylist()
    if "row" in case:
        cells[case["row"]] = _edit_cell(cells[case["row"]], case)
    new = pa.array(cells, TYPES[case["type"]] if "type" in case else table.schema.field(index).type)
    return table.set_column(index, pa.field(case["column"], new.type), new)


def _edit_cell(cell: Any, case: Mapping[str, Any]) -> Any:
    if "by" in case:
        return [value + case["by"] for value in cell] if isinstance(cell, list) else cell + case["by"]
    if "cut" in case:
        return cell | {"bytes": cell["bytes"][: -case["cut"]]}
    if "hit" in case:  # zeros in the middle of the data of an image
        middle = len(cell["bytes"]) // 2
        return cell | {"bytes": cell["bytes"][:middle] + bytes(40) + cell["bytes"][middle + 40 :]}
    if "path" in case:
        return cell | {"path": case["path"]}
    if "black" in case:
        return {"bytes": cv2.imencode(".png", np.zeros((*case["black"], 3), np.uint8))[1].tobytes(), "path": None}
    return case["to"]


def _film(path: Path, facts: Mapping[str, int]) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=facts["fps"])
        stream.height, stream.width, stream.pix_fmt = facts["height"], facts["width"], "yuv420p"
        still = np.full((facts["height"], facts["width"], 3), 120, np.uint8)
        for _ in range(facts["frames"]):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(still, format="rgb24")))
        container.mux(stream.encode())
