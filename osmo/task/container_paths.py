"""Where things lie in a task's container, and the environment variable that moves each.

On a machine of one's own the runner sets these variables, so that nothing needs root and tasks side by side do not meet.
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
    """Where a thing lies: what the environment says, else the container's place."""
    return Path(os.environ.get(variable) or CONTAINER_PATHS[variable])


def moved(path: str, root: Path) -> str:
    """Return a container's path as it is below `root`; texts that are no path of ours stay as they are."""
    if any(path == top or path.startswith(f"{top}/") for top in ROOTS):
        return str(root / path.lstrip("/"))
    return path
