"""Bags from a blob service on loopback, downloaded by stage 1 with a SAS, and by the runner in place of OSMO."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.record import record
from osmo.local.__main__ import run
from tests.azurite import ACCOUNT, Azurite, running, sas
from tests.osmo.conftest import OSMO, TINY, log_of


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Azurite]:
    """The container `datasets` with two bags below houston_recordings/, and one file beside that prefix."""
    bags = tmp_path_factory.mktemp("bags") / "bags"
    record(bags, 2, 4)
    with running() as azurite, azurite.container("datasets") as container:
        for path in sorted(path for path in bags.rglob("*") if path.is_file()):
            container.upload_blob(f"houston_recordings/{path.relative_to(bags).as_posix()}", path.read_bytes())
        container.upload_blob("houston_recordings2/other.mcap", b"not ours")
        yield azurite


@pytest.mark.slow
def test_blob_yaml_downloads_by_itself_with_a_sas(
    service: Azurite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = sas()
    monkeypatch.setenv("AZURE_STORAGE_SAS_TOKEN", token)
    monkeypatch.setenv("AZURE_STORAGE_BLOB_ENDPOINT", f"http://127.0.0.1:{service.port}/{ACCOUNT}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    values = {"auth": "sas", "account": ACCOUNT, "steps": 2, "warmup_steps": 1, "train_overrides": TINY}
    result = run(OSMO / "blob.yaml", values, tmp_path / "work")
    assert result.status == "completed", {name: log_of(result, name).read_text() for name in result.tasks}
    assert (tmp_path / "work/datasets/ur10e-act-checkpoint/train-rosbag-act/checkpoint_000002").is_dir()
    written = [path for path in (tmp_path / "work").rglob("*") if path.is_file()]
    signature = token.partition("sig=")[2].partition("&")[0].encode()
    assert not [path for path in written if signature in path.read_bytes()]


def test_the_runner_downloads_what_osmo_would(
    service: Azurite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", service.connection_string)
    (tmp_path / "flow.yaml").write_text(f"""\
workflow:
  name: toy
  resources: {{default: {{cpu: 1}}}}
  tasks:
  - name: look
    image: registry/image
    command: [bash, -c, 'cd "{{{{input:0}}}}"; find . -type f | sort']
    inputs:
    - {{url: "azure://{ACCOUNT}/datasets/houston_recordings", regex: '.*yaml$'}}
default-values: {{a: 1}}
""")
    result = run(tmp_path / "flow.yaml", work=tmp_path / "work")
    found = log_of(result, "look").read_text().split()
    assert found == [
        f"./episode_000{i}/metadata.yaml" for i in range(2)
    ]  # the prefix is a folder: no houston_recordings2
