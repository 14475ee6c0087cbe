"""The urls and datasets of a workflow as folders of this machine, filled as OSMO would fill them.

A url is the folder that --map gives it, else a folder below urls/ in the work folder; a dataset is one below datasets/.
"""

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from common.cli.command import UserError
from osmo.local.task_graph import Dataset, Entry

CONNECTION = "AZURE_STORAGE_CONNECTION_STRING"  # what OSMO's DATA credential holds, too


def transfer(source: Path, target: Path, regex: str = "", link: bool = True, prefix: str = "") -> None:
    """Copy the files below `source` to `target` as OSMO's upload does: linked folders and empty folders are left out.

    `regex` must match the start of `prefix` + relative path, which is the name below `target`. Files become hard links
    where the disk allows it, else copies.
    """
    files = (
        [source] if source.is_file() else [Path(folder, name) for folder, _, names in os.walk(source) for name in names]
    )
    for file in files:
        name = prefix + file.relative_to(source if source.is_dir() else source.parent).as_posix()
        if re.match(regex, name) and file.is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            _copy(file.resolve(), target / name, link)


def _copy(file: Path, target: Path, link: bool) -> None:
    if not link and target.exists():
        here, there = file.stat(), target.stat()
        if (here.st_size, here.st_mtime_ns) == (there.st_size, there.st_mtime_ns):
            return
    target.unlink(missing_ok=True)
    try:
        if link:
            target.hardlink_to(file)
            return
    except OSError:  # another disk, or a file of another user: a copy does as well
        pass
    shutil.copy2(file, target)


class Storage:
    """Everything outside the tasks' own folders: urls and datasets."""

    def __init__(self, work: Path, maps: Mapping[str, Path], written_urls: Sequence[str]) -> None:
        self._work = work
        self._maps = {key.rstrip("/"): path for key, path in maps.items()}
        self._written = [url.rstrip("/") for url in written_urls]

    def require(self, entry: Entry) -> None:
        """Raise UserError, before anything runs, when an input cannot be found on this machine."""
        if entry.url:
            url = entry.url.rstrip("/")
            folder = self._mapped(url)
            if self._is_written_here(url) or (folder is None and os.environ.get(CONNECTION)):
                return
            if folder is None:
                raise UserError(f"input {entry.url} is not on this machine: give its folder with --map {url}=FOLDER")
            if not folder.exists():
                raise UserError(
                    f"input {entry.url} is not on this machine: --map makes it {folder}, which does not exist"
                )
        elif entry.dataset:
            self._dataset(entry.dataset)
        elif entry.task and ":" in entry.task:
            raise UserError(
                f"input task {entry.task} is of an earlier run in the cluster, which is not on this machine"
            )

    def holds(self, url: str) -> bool:
        """Whether there is something on this machine at a url."""
        return (self._mapped(url) or self._own_folder(url)).exists()

    def fetch(self, entry: Entry, target: Path) -> None:
        """Fill `target` with what an input holds."""
        target.mkdir(parents=True)
        if entry.task:
            transfer(self._work / entry.task / "output", target, entry.regex)
        elif entry.dataset:
            dataset = entry.dataset
            transfer(self._dataset(dataset), target / _plain_name(dataset.name), dataset.regex)
        elif entry.url:
            folder = self._mapped(entry.url)
            if folder is None and not self._is_written_here(entry.url):
                _download(entry.url, target, entry.regex)
            else:
                transfer(folder or self._own_folder(entry.url), target, entry.regex)

    def keep(self, entry: Entry, output: Path) -> None:
        """Copy a task's output folder to where an entry of `outputs` says."""
        if entry.url:
            self.upload(output, entry.url, entry.regex)
        elif dataset := entry.dataset or entry.update_dataset:
            folder = self._work / "datasets" / _plain_name(dataset.name)
            if entry.dataset:  # a new version, not an addition
                shutil.rmtree(folder, ignore_errors=True)
            transfer(output, folder / dataset.path, dataset.regex)

    def upload(self, source: Path, url: str, regex: str, link: bool = True, prefix: str = "") -> None:
        """Copy files to a url."""
        transfer(source, self._mapped(url) or self._own_folder(url), regex, link, prefix)

    def _mapped(self, url: str) -> Path | None:
        url = url.rstrip("/")
        for key in sorted(self._maps, key=len, reverse=True):
            if url == key or url.startswith(f"{key}/"):
                return self._maps[key] / url[len(key) :].lstrip("/")
        return None

    def _is_written_here(self, url: str) -> bool:
        """Whether this workflow writes to the url: before it does, the url is an empty folder and no mistake."""
        return self._own_folder(url).exists() or any(url.rstrip("/").startswith(written) for written in self._written)

    def _own_folder(self, url: str) -> Path:
        return self._work / "urls" / url.replace("://", "/").rstrip("/")

    def _dataset(self, dataset: Dataset) -> Path:
        name = _plain_name(dataset.name)
        for folder in (dataset.localpath, self._maps.get(name), self._work / "datasets" / name):
            if folder is not None and folder.exists():
                return folder
        raise UserError(f"dataset {name} is not on this machine: give its folder with --map {name}=FOLDER")


def _plain_name(name: str) -> str:
    """Return the name of a dataset without its bucket and tag: [BUCKET/]NAME[:TAG]."""
    return name.rpartition("/")[2].partition(":")[0]


def _download(url: str, target: Path, regex: str) -> None:
    """Download the blobs below an azure:// url from the account of $AZURE_STORAGE_CONNECTION_STRING, such as Azurite's."""
    from azure.core.exceptions import AzureError
    from azure.storage.blob import ContainerClient

    parts = urlsplit(url)
    container, _, prefix = parts.path.strip("/").partition("/")
    client = ContainerClient.from_connection_string(os.environ[CONNECTION], container)
    if parts.scheme != "azure" or client.account_name != parts.netloc:
        raise UserError(
            f"{CONNECTION} is of account {client.account_name}, not of {url}; use --map {url}=FOLDER instead"
        )
    try:
        for blob in client.list_blobs(name_starts_with=f"{prefix}/" if prefix else None):
            name = blob.name[len(prefix) :].lstrip("/")
            if re.match(regex, name):
                path = target / name
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("wb") as file:
                    client.download_blob(blob.name).readinto(file)
    except AzureError as error:
        raise UserError(f"{url} cannot be downloaded: {type(error).__name__}; see {CONNECTION}") from error
