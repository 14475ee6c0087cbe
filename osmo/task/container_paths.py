"""The paths of a task's container, and the environment variable that moves each.

On this machine the runner sets the variables, so that nothing needs root and concurrent tasks do not share a path.
"""

import os
from pathlib import Path

CONTAINER_PATHS = {
    "BAGS_DIR": "/data/rosbags",
    "BLOB_DEST_DIR": "/data/rosbags",
    "CONVERT_CONFIG_FILE": "/workspace/convert.yaml",
    "CONFIG_FILE": "/workspace/config.yaml",
    "OUTPUT_DIR": "/output/train-rosbag-act",
}
ROOTS = ("/data", "/workspace", "/output")


def container_path(variable: str) -> Path:
    """Return the path that the environment variable names, else the path in the container."""
    return Path(os.environ.get(variable) or CONTAINER_PATHS[variable])


def moved(path: str, root: Path) -> str:
    """Return a path of the container as a path below `root`; other texts are returned unchanged."""
    if any(path == top or path.startswith(f"{top}/") for top in ROOTS):
        return str(root / path.lstrip("/"))
    return path
