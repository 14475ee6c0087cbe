"""Sources of bags: a folder, one bag, or a prefix of blobs in Azure Storage."""

from pathlib import Path

from common.cli.command import UserError
from stage1_convert.sources.folder import LocalBags
from stage1_convert.sources.source import BagSource


def open_source(src: str, keep_downloads: bool, join: bool = False) -> BagSource:
    """Return the source that --src names; raises UserError when it holds no bag."""
    if is_remote(src):
        if join:
            raise UserError("--join takes bags in a folder: download the blobs first, and give their folder as --src")
        from stage1_convert.sources.azure import AzureBags  # the SDK takes a third of a second to import

        return AzureBags(src, keep_downloads)
    return LocalBags(Path(src), join)


def is_remote(src: str) -> bool:
    """Return whether --src names blobs: `azure`, azure://..., https://... or http://..."""
    return src == "azure" or src.lower().startswith(("azure:", "https:", "http:"))
