"""Changes that make LeRobot's own dataset one of another tool."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

DATA = Path("data/chunk-000/file-000.parquet")


def change_cells(
    root: Path, column: str, change: Callable[[list[Any]], object], kind: pa.DataType | None = None
) -> None:
    """Change the values of a column of the only data file in place, and its type where one is given."""
    table = pq.read_table(root / DATA)
    cells = table.column(column).to_pylist()
    change(cells)
    place = table.schema.get_field_index(column)
    values = pa.array(cells, kind or table.schema.field(place).type)
    changed = table.set_column(place, column, values).replace_schema_metadata(None)
    pq.write_table(changed, root / DATA)


def change_info(root: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change meta/info.json in place."""
    path = root / "meta" / "info.json"
    info = json.loads(path.read_text())
    change(info)
    path.write_text(json.dumps(info))


def rename_columns(root: Path, names: dict[str, str]) -> None:
    """Give features of a dataset other names, in the data files, in meta/info.json and in the statistics."""
    for file in root.glob("data/*/*.parquet"):
        table = pq.read_table(file, partitioning=None)
        renamed = table.rename_columns([names.get(name, name) for name in table.column_names])
        pq.write_table(renamed.replace_schema_metadata(None), file)
    for name in ("info.json", "stats.json"):
        path = root / "meta" / name
        tree = json.loads(path.read_text())
        part = tree["features"] if name == "info.json" else tree
        new = {names.get(key, key): value for key, value in part.items()}
        path.write_text(json.dumps(tree | {"features": new} if name == "info.json" else new))
