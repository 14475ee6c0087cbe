"""The bytes of a conversion change only together with CONVERSION_VERSION, by which converted bags are reused or not.

The digests of conversion_digests.yaml are of bags whose conversion does not depend on the processor: angles are fractions
of powers of two, and JPEGs are encoded and decoded alike by every libjpeg-turbo. `python -m
tests.stage1_convert.pipeline.test_conversion_version` writes them again.
"""

import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from common.storage.files import read_json
from stage1_convert.pipeline.cache import versions
from tests.stage1_convert.conversion import run
from tests.stage1_convert.recording import (
    JOINT_STATE,
    JOINT_TOPIC,
    JOINTS,
    JPEG_TOPIC,
    MS,
    RAW_TOPIC,
    START_NS,
    RecordedMessage,
    Recording,
    cell,
    joint_state,
)

DIGESTS = Path(__file__).with_name("conversion_digests.yaml")
KINDS: dict[str, tuple[str, list[str]]] = {
    "jpeg as recorded": (JPEG_TOPIC, []),
    "raw to jpeg": (RAW_TOPIC, []),
    "resized, next position, nearest, ages": (
        JPEG_TOPIC,
        [
            "conventions.image_resize=[12, 16]",
            "conventions.action=next_position",
            "data.resample=nearest",
            "data.sync_columns=true",
        ],
    ),
}


def recording(topic: str) -> Recording:
    """Return a recording with a gap, and angles that are exact in float32."""
    made = cell(seconds=2.0, seed=1, topic=topic, size=(24, 32))
    del made.images[20:26]
    stamps_ns = [START_NS + number * 10 * MS for number in range(200)]
    made.joints = [
        RecordedMessage(
            stamp_ns, JOINT_TOPIC, JOINT_STATE, joint_state(stamp_ns, JOINTS, np.arange(6) / 8 + number / 256)
        )
        for number, stamp_ns in enumerate(stamps_ns)
    ]
    return made


def digests(kind: str, folder: Path) -> dict[str, str]:
    """Convert the bag of a kind and return the start of the sha256 of its data, sync and statistics."""
    topic, settings = KINDS[kind]
    recording(topic).write(folder / "src" / "bag")
    assert run(folder / "src", folder / "out", *settings).episodes == 2
    files = {name: sorted((folder / "out" / name).rglob("*.parquet")) for name in ("data", "meta/sync")}
    content = {name: b"".join(path.read_bytes() for path in paths) for name, paths in files.items()}
    content["statistics"] = json.dumps(_rounded(read_json(folder / "out/meta/stats.json"))).encode()
    return {name: hashlib.sha256(data).hexdigest()[:16] for name, data in content.items()}


def _rounded(value: Any) -> Any:
    """Return nested numbers with nine digits: the last bits of a sum may differ between processors."""
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    return [_rounded(inner) for inner in value] if isinstance(value, list) else f"{value:.9g}"


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_change_only_with_the_conversion_version(kind: str, tmp_path: Path) -> None:
    expected = yaml.safe_load(DIGESTS.read_text())
    found, ours = digests(kind, tmp_path), expected["versions"].pop("conversion")
    libraries = versions()
    version = libraries.pop("conversion")
    if libraries != expected["versions"]:
        pytest.skip(f"the digests are of other libraries, {expected['versions']}, which are part of every bag's key")
    again = "python -m tests.stage1_convert.pipeline.test_conversion_version writes the digests again"
    if found != expected["bags"][kind]:
        assert version != ours, (
            f"the bytes of a conversion changed ({kind}: {found}): increase CONVERSION_VERSION in "
            f"stage1_convert/pipeline/cache.py, so that bags are converted again; {again}"
        )
    assert version == ours, f"CONVERSION_VERSION is {version}, the digests are of {ours}: {again}"


def write_digests() -> None:
    """Write the digests of the code and the libraries as they are now."""
    found = {}
    for kind in KINDS:
        with tempfile.TemporaryDirectory() as folder:
            found[kind] = digests(kind, Path(folder))
    DIGESTS.write_text(yaml.safe_dump({"versions": versions(), "bags": found}, sort_keys=False))


if __name__ == "__main__":
    write_digests()
