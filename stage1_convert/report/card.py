"""The card of a dataset, its README.md: what it holds, how it was made, how to open and publish it.

Equal datasets give equal bytes. The thumbnails are a file beside it, meta/thumbnails.jpg.
"""

from pathlib import Path

import cv2
import numpy as np

from common.lerobot.dataset import Dataset
from common.lerobot.frames import read_frames
from common.lerobot.images import Image
from common.lerobot.metadata import VERSION
from common.report import render
from common.report.card import ACTIONS, CARD, front_matter
from common.report.images import FILM_PX, JPEG_QUALITY, film_frames
from common.storage.files import write_file
from stage1_convert.dataset.record import RECORD_PATH, ConversionRecord, read_record
from stage1_convert.report.issues import report_episodes, report_streams

THUMBNAILS = "meta/thumbnails.jpg"
LISTED = 50  # bags and tasks; meta/conversion.json has them all


def write_card(root: Path) -> None:
    """Write the card of the dataset at `root`, whose meta/conversion.json and files are complete."""
    record, dataset = read_record(root), Dataset.open(root)
    assert record is not None, f"{root / RECORD_PATH} is written before the card"
    write_file(root / THUMBNAILS, draw_thumbnails(dataset))
    write_file(root / CARD, draw_card(record, dataset).encode(errors="backslashreplace"))


def draw_card(record: ConversionRecord, dataset: Dataset) -> str:
    """Return the card as Markdown with the hub's metadata."""
    license_ = record.config["data"].get("license")
    robot = dataset.info.robot_type
    metadata = {
        "license": license_,
        "task_categories": ["robotics"],
        "tags": ["LeRobot", *([robot] if robot else [])],
        "configs": [{"config_name": "default", "data_files": "data/*/*.parquet"}],
    }
    reports = report_episodes(record, dataset.fps)
    return render(
        "stage1_convert.report",
        "card.md.j2",
        front_matter=front_matter(metadata),
        record=record,
        license=license_,
        dataset=dataset,
        version=VERSION,
        robot=robot or "a robot",
        converted=[bag for bag in record.bags if bag.is_converted],
        refused=[bag for bag in record.bags if not bag.is_converted],
        tasks=sorted({report.bag.task for report in reports}),
        streams=report_streams(record, reports),
        reports=reports,
        thumbnails=THUMBNAILS,
        listed=LISTED,
        lost=sum(sum(report.entry.lost.values()) for report in reports),
        unavoidable=sum(sum(report.entry.unavoidable.values()) for report in reports),
        gaps=sum(len(bag.gaps) for bag in record.bags),
        bad_messages=sum(bag.n_bad_messages for bag in record.bags),
        actions=ACTIONS[record.action["action_meaning"]],
    )


def draw_thumbnails(dataset: Dataset) -> bytes:
    """Return a JPEG file with some moments of the first episode from left to right, a row for each camera."""
    episode = dataset.episodes[0]
    rows = [
        np.hstack([_thumbnail(image) for image in read_frames(dataset, episode, camera, film_frames(episode.length))])
        for camera in dataset.cameras
    ]
    done, encoded = cv2.imencode(".jpg", np.vstack(rows)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    assert done, "OpenCV cannot encode JPEG"
    return encoded.tobytes()


def _thumbnail(image: Image) -> Image:
    height, width, _ = image.shape
    size = (FILM_PX, max(1, round(height * FILM_PX / width)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)  # type: ignore[return-value]
