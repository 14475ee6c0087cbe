"""The columns of a dataset and what their values mean, from the configuration and the sizes of the images."""

from collections.abc import Mapping
from typing import Any

from common.lerobot.metadata import ACTION, IMAGES, INDEX_COLUMNS, STATE, Feature
from stage1_convert.config import Config
from stage1_convert.dataset.video_file import video_info

RESIZE_METHOD = "pixel area where both sides shrink, else bilinear"


def describe_features(config: Config, sizes: Mapping[str, tuple[int, int]]) -> dict[str, Feature]:
    """Return the columns of a dataset, in order; `sizes` maps a camera to its images' (height, width)."""
    axes = ("height", "width", "channels")
    dtype = "video" if config.data.storage == "video" else "image"
    vectors = {
        STATE: Feature("float32", (len(config.state_names),), config.state_names, {}),
        ACTION: Feature("float32", (len(config.action_names),), config.action_names, action_info(config)),
    }
    images = {
        IMAGES + camera: Feature(dtype, (*sizes[camera], 3), axes, image_info(config, sizes[camera]))
        for camera in config.data.cameras
    }
    ages = {}
    if config.data.sync_columns:
        ages = {f"sync.{stream}_age_ms": Feature("float32", (1,), None, {}) for stream in config.streams}
    scalars = {key: Feature(dtype, (1,), None, {}) for key, dtype in INDEX_COLUMNS.items()}
    return {**vectors, **images, **ages, **scalars}


def action_info(config: Config) -> dict[str, Any]:
    """Return what the numbers of the action mean."""
    rules = config.conventions
    data, of_joints = config.data, config.has_commands or rules.action != "command"
    info: dict[str, Any] = {
        "action_meaning": rules.action,
        "wrapped": rules.wrap_angles,
        "unit": "radian" if of_joints else "as published",
    }
    if config.has_commands:
        info["topic"] = data.command_topic
    if of_joints and config.other_units:
        info["other_units"] = config.other_units
    if data.action_paths:
        info["paths"] = data.action_paths
    return info


def image_info(config: Config, size: tuple[int, int]) -> dict[str, Any]:
    """Return how the images of a camera, stored with this (height, width), were made."""
    rules, storage = config.conventions, config.data.storage
    info: dict[str, Any] = {"storage": storage}
    if storage == "jpeg":
        info["quality"] = rules.jpeg_quality
    if storage == "video":
        info = {"video.height": size[0], "video.width": size[1], **video_info(config.data.fps)}
    return info | ({"resize": RESIZE_METHOD} if rules.image_resize else {})
