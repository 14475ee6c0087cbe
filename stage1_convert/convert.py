"""A folder of bags in; one dataset, converted by several processes and independent of their number, out."""

import concurrent.futures
import contextlib
import itertools
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pyarrow as pa

from common.command import UserError, progress
from common.config import to_dict
from common.dataset import data_file
from common.files import new_folder, write_json
from stage1_convert.config import Config
from stage1_convert.episode import Converted, Piece, convert_bag
from stage1_convert.lerobot import DatasetWriter, describe_features
from stage1_convert.source import Source, find_bags

REPORT = "meta/conversion.json"
SOURCES_PATH = "meta/sync/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"


class Summary(NamedTuple):
    """What a conversion gave; `refused` and `warnings` are pairs of a bag's name and what is wrong with it."""

    bags: int
    episodes: int
    frames: int
    refused: list[tuple[str, str]]
    warnings: list[tuple[str, str]]


class RefusedError(UserError):
    """Too little could be converted; `refused` holds pairs of a bag's name and the reason."""

    def __init__(self, text: str, refused: list[tuple[str, str]]) -> None:
        super().__init__(text)
        self.refused = refused


def convert(src: Path, out: Path, config: Config, workers: int, strict: bool = False) -> Summary:
    """Convert the bags below `src` into a dataset that takes the name `out` when it is complete.

    A bag that cannot be converted is left out and reported. Raises UserError when `src` or `out` is unfit, and its
    subclass RefusedError when no bag can be converted or, with `strict`, not every one.
    """
    src, out = src.resolve(), out.resolve()
    sources = find_bags(src)
    _check_out(src, out)
    with new_folder(out, manifest=False) as root:
        scratch = root / "scratch"
        with contextlib.closing(_converted(sources, scratch, config, workers)) as results:
            writer, reports = _assemble(root, progress(results, len(sources), "convert", "bag"), config)
        refused = [(report["bag"], report["reason"]) for report in reports if report["status"] == "refused"]
        if writer is None:
            first = "bag {}: {}".format(*refused[0])
            raise RefusedError(f"none of the {len(sources)} bags could be converted; the first: {first}", refused)
        if refused and strict:
            raise RefusedError(
                f"{len(refused)} of {len(sources)} bags are refused and --strict is given: {out} is not written",
                refused,
            )
        shutil.rmtree(scratch)
        writer.finish()
        write_json(root / REPORT, _describe(config, reports))
    warnings = [(report["bag"], warning) for report in reports for warning in report["warnings"]]
    return Summary(len(sources), writer.n_episodes, writer.n_frames, refused, warnings)


def _check_out(src: Path, out: Path) -> None:
    if out == src or out in src.parents or src in out.parents:
        raise UserError(f"--out {out} and --src {src} lie inside each other; choose another --out")
    if out.exists() and not (out / REPORT).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out {out} holds something else than a converted dataset; choose another --out or remove it")
    parent = next(folder for folder in out.parents if folder.exists())
    if not (parent.is_dir() and os.access(parent, os.W_OK)):
        raise UserError(f"--out {out} cannot be made: {parent} is not a folder that may be written to")


def _converted(
    sources: Sequence[Source], scratch: Path, config: Config, workers: int
) -> Generator[Converted, None, None]:
    """Yield what became of each bag, in the order of `sources`."""
    folders = [scratch / f"{number}" for number in range(len(sources))]
    workers = min(workers, len(sources))
    if workers <= 1:
        yield from map(convert_bag, sources, folders, itertools.repeat(config))
        return
    context = multiprocessing.get_context("spawn")  # fork would copy the threads of numpy, OpenCV and Arrow halfway
    pool = concurrent.futures.ProcessPoolExecutor(workers, context, initializer=_become_worker)
    try:
        yield from pool.map(convert_bag, sources, folders, itertools.repeat(config))
    except BrokenProcessPool as error:
        raise UserError(
            f"a worker process died, probably for want of memory; run again with fewer than --workers {workers}"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _become_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is answered once, by the parent
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    cv2.setNumThreads(1)
    pa.set_cpu_count(1)


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()  # a parent that was killed cannot tell its workers, who would wait for work for ever
    os._exit(1)


def _assemble(
    root: Path, results: Iterator[Converted], config: Config
) -> tuple[DatasetWriter | None, list[dict[str, Any]]]:
    """Number the episodes in the order of the bags and write their files; the first good bag sets the picture size."""
    writer, reports = None, []
    sizes: dict[str, tuple[int, int]] = {}
    model = ""
    for result in results:
        report, pieces = result.report, result.pieces
        if pieces and writer is None:
            sizes, model = {camera: result.sizes[camera] for camera in config.data.cameras}, report["bag"]
            features = describe_features(config.conventions.joint_order, sizes, _action_info(config))
            writer = DatasetWriter(root, features, config.data.fps, config.data.robot_type, config.data.task)
        if pieces and result.sizes != sizes:
            pieces = []
            report |= {"status": "refused", "reason": _size_fault(result.sizes, sizes, model)}
        episodes = [_add(root, writer, piece) for piece in pieces if writer is not None]
        reports.append({**report, "episodes": episodes})
    return writer, reports


def _size_fault(found: dict[str, tuple[int, int]], sizes: dict[str, tuple[int, int]], model: str) -> str:
    camera = next(camera for camera in sizes if found[camera] != sizes[camera])
    here, there = ("{}x{}".format(*of[camera]) for of in (found, sizes))
    return f"camera {camera} gives {here} pictures, in bag {model} {there}; set conventions.image_resize"


def _add(root: Path, writer: DatasetWriter, piece: Piece) -> dict[str, Any]:
    with pa.memory_map(str(piece.rows)) as file:
        number = writer.add(pa.ipc.open_file(file).read_all(), piece.histograms)
    piece.rows.unlink()
    chunk, place = data_file(number)
    path = root / SOURCES_PATH.format(chunk_index=chunk, file_index=place)
    path.parent.mkdir(parents=True, exist_ok=True)
    piece.sources.rename(path)
    return {"episode_index": number, **piece.report}


def _action_info(config: Config) -> dict[str, Any]:
    rules = config.conventions
    return {"action_meaning": rules.action, "wrapped": rules.wrap_angles, "unit": "radian"}


def _describe(config: Config, reports: list[dict[str, Any]]) -> dict[str, Any]:
    libraries = {"rosbags": version("rosbags"), "numpy": np.__version__, "opencv": cv2.__version__}
    return {
        "format": 1,
        "tool": {"name": "stage1_convert", **libraries, "pyarrow": pa.__version__},
        "config": to_dict(config),
        "action": _action_info(config),
        "joint_names": config.conventions.joint_order,
        "cameras": list(config.data.cameras),
        "bags": reports,
    }
