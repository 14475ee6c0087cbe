"""Renders the camera image of a cell: a table, a red target disc and the arm.

A pinhole camera looks down at the workspace. Images are drawn larger and averaged down, so that they change smoothly, by
less than a pixel, when the arm or the target moves a little.
"""

from functools import cache
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from demo.arm import Array, origins

Image = npt.NDArray[np.uint8]
Color = tuple[int, int, int]
Point = tuple[float, float, float]

HEIGHT_PX, WIDTH_PX = 64, 96
WORKSPACE_X_M, WORKSPACE_Y_M = (-1.0, -0.55), (-0.3, 0.3)
TARGET_RADIUS_M = 0.04
NEAREST_M = 0.1  # links closer to the camera are not drawn
GRID_M = 0.1

OVERSAMPLING = 2
SUBPIXEL_BITS = 4  # OpenCV takes coordinates as integers in units of 1/2**bits pixels

TARGET: Color = (226, 24, 34)
TARGET_CENTER: Color = (255, 120, 120)
METAL: Color = (150, 158, 170)
BLUE: Color = (64, 128, 196)
YELLOW: Color = (216, 176, 44)
DARK: Color = (44, 50, 60)
TIP: Color = (40, 220, 70)


class Link(NamedTuple):
    """A straight part of the arm between two DH frames, with its thickness."""

    start: int
    end: int
    radius_m: float
    color: Color


class Cell(NamedTuple):
    """Where the camera is and looks to, and how table, shadow and arm are painted; the last link is the tip."""

    camera_m: Point
    look_at_m: Point
    fov_deg: float  # from the top of the image to its bottom
    table: Color
    grid: Color
    shadow: Color  # of 255: the light that remains below the arm
    links: tuple[Link, ...]


def _links(radii_m: tuple[float, ...], colors: tuple[Color, ...]) -> tuple[Link, ...]:
    """Return the links of a chain from the base to the tool, and the tip."""
    chain = [Link(k, k + 1, *looks) for k, looks in enumerate(zip(radii_m, colors, strict=True))]
    return *chain, Link(len(chain), len(chain), 0.018, TIP)


CELLS = {
    "front": Cell(
        camera_m=(-1.3, 0.0, 1.2),
        look_at_m=(-0.75, 0.0, 0.03),
        fov_deg=25.5,
        table=(206, 202, 192),
        grid=(190, 186, 176),
        shadow=(158, 158, 158),
        links=_links((0.075, 0.060, 0.045, 0.036, 0.036, 0.018), (METAL, METAL, METAL, METAL, BLUE, DARK)),
    ),
    "side": Cell(
        camera_m=(-1.1, 0.8, 1.1),
        look_at_m=(-0.8, 0.06, 0.03),
        fov_deg=29.0,
        table=(150, 166, 172),
        grid=(128, 146, 152),
        shadow=(185, 185, 185),
        links=_links((0.085, 0.070, 0.055, 0.030, 0.040, 0.022), (DARK, YELLOW, YELLOW, DARK, YELLOW, DARK)),
    ),
}
FRONT = CELLS["front"]
SHADING = ((1.0, 0.55), (0.82, 1.0), (0.35, 1.25))  # (share of the thickness, brightness), from the rim inwards


class Projected(NamedTuple):
    """Points in the image: pixel coordinates (N, 2), depth (N,), and pixels per meter at that depth (N,)."""

    pixels: Array
    depth_m: Array
    px_per_m: Array


def project(
    points_m: npt.ArrayLike, height_px: int = HEIGHT_PX, width_px: int = WIDTH_PX, cell: Cell = FRONT
) -> Projected:
    """Project points (N, 3) onto an image of height_px x width_px; (0, 0) is the corner of the top left pixel."""
    in_camera = (np.asarray(points_m, np.float64) - cell.camera_m) @ _camera_axes(cell).T
    depth_m = np.maximum(in_camera[:, 2], NEAREST_M)
    px_per_m = height_px / 2 / np.tan(np.radians(cell.fov_deg) / 2) / depth_m
    pixels = in_camera[:, :2] * px_per_m[:, None] + (width_px / 2, height_px / 2)
    return Projected(pixels, in_camera[:, 2], px_per_m)


def render(
    joints: npt.ArrayLike,
    target_xy_m: npt.ArrayLike,
    height_px: int = HEIGHT_PX,
    width_px: int = WIDTH_PX,
    cell: Cell = FRONT,
) -> Image:
    """Return the camera image, (height_px, width_px, 3) uint8 RGB, for joint angles (6,) and a target at xy (2,)."""
    size = height_px * OVERSAMPLING, width_px * OVERSAMPLING
    points = origins(joints)
    canvas = _table(*size, cell).copy()
    _draw_target(canvas, np.asarray(target_xy_m, np.float64), cell)
    canvas = _with_shadow(canvas, points, cell)
    _draw_arm(canvas, points, cell)
    return np.asarray(cv2.resize(canvas, (width_px, height_px), interpolation=cv2.INTER_AREA), np.uint8)


def target_pixels(image: Image) -> int:
    """Count the pixels of the target in an RGB image (H, W, 3): nothing else in the cell is red."""
    red, green, blue = np.moveaxis(image.astype(np.int16), -1, 0)
    return int(np.count_nonzero(red - np.maximum(green, blue) > 60))


@cache
def _camera_axes(cell: Cell) -> Array:
    """Return the right, down and forward directions of the camera as the rows of a (3, 3) matrix."""
    forward = np.subtract(cell.look_at_m, cell.camera_m)
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(forward, right), forward])


@cache
def _table(height_px: int, width_px: int, cell: Cell) -> Image:
    """Return the image of the empty table with grid lines every GRID_M."""
    canvas = np.full((height_px, width_px, 3), cell.table, np.uint8)
    (x_from, x_to), (y_from, y_to) = (-1.2, 0.4), (-0.8, 0.8)
    across = [[(x, y_from, 0), (x, y_to, 0)] for x in np.arange(x_from, x_to, GRID_M)]
    along = [[(x_from, y, 0), (x_to, y, 0)] for y in np.arange(y_from, y_to, GRID_M)]
    for ends in across + along:
        first, second = _fixed(project(ends, height_px, width_px, cell).pixels)
        cv2.line(canvas, first, second, cell.grid, 2, cv2.LINE_AA, SUBPIXEL_BITS)
    return canvas


def _draw_target(canvas: Image, target_xy_m: Array, cell: Cell) -> None:
    angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    circle = np.stack([np.cos(angle), np.sin(angle), np.zeros_like(angle)], axis=-1)
    center = np.append(target_xy_m, 0.0)
    for radius_m, color in ((TARGET_RADIUS_M, TARGET), (TARGET_RADIUS_M / 3, TARGET_CENTER)):
        outline = project(center + radius_m * circle, canvas.shape[0], canvas.shape[1], cell).pixels
        cv2.fillConvexPoly(canvas, _fixed(outline), color, cv2.LINE_AA, SUBPIXEL_BITS)


def _with_shadow(canvas: Image, points_m: Array, cell: Cell) -> Image:
    """Darken what is straight below the arm: shadow and tip together show where the tool is and how high."""
    light = np.full_like(canvas, 255)
    projected = project(points_m * (1, 1, 0), canvas.shape[0], canvas.shape[1], cell)
    for outline, in_front in zip(_outlines(projected, cell, 1.0), _in_front(projected, cell), strict=True):
        if in_front:
            cv2.fillConvexPoly(light, outline, cell.shadow, cv2.LINE_AA, SUBPIXEL_BITS)
    return np.asarray(cv2.multiply(canvas, light, scale=1 / 255), np.uint8)


def _draw_arm(canvas: Image, points_m: Array, cell: Cell) -> None:
    """Draw the links from the farthest to the nearest, each as a dark capsule with brighter ones inside.

    The tip is drawn last, over everything else: it must be visible in every image.
    """
    projected = project(points_m, canvas.shape[0], canvas.shape[1], cell)
    layers = [(_outlines(projected, cell, share), brightness) for share, brightness in SHADING]
    in_front = _in_front(projected, cell)
    *chain, tip = range(len(cell.links))
    far_to_near = sorted(chain, key=lambda k: -projected.depth_m[[cell.links[k].start, cell.links[k].end]].sum())
    for k in (*far_to_near, tip):
        if in_front[k]:
            for outlines, brightness in layers:
                color = tuple(min(255, round(channel * brightness)) for channel in cell.links[k].color)
                cv2.fillConvexPoly(canvas, outlines[k], color, cv2.LINE_AA, SUBPIXEL_BITS)


def _outlines(projected: Projected, cell: Cell, share: float) -> npt.NDArray[np.int32]:
    """Return the outline (links, corners, 2) of each link: a thick line with round ends, thinner where it is farther away."""
    starts, ends, radii_m, _ = (np.array(column) for column in zip(*cell.links, strict=True))
    along = projected.pixels[ends] - projected.pixels[starts]
    heading = np.arctan2(along[:, 1], along[:, 0])[:, None]
    half_turn = np.linspace(-np.pi / 2, np.pi / 2, 12)
    caps = []
    for points, turn in ((ends, heading + half_turn), (starts, heading + half_turn + np.pi)):
        radius_px = (share * radii_m * projected.px_per_m[points])[:, None, None]
        caps.append(projected.pixels[points, None] + radius_px * np.stack([np.cos(turn), np.sin(turn)], axis=-1))
    return _fixed(np.concatenate(caps, axis=1))


def _in_front(projected: Projected, cell: Cell) -> npt.NDArray[np.bool_]:
    """Return which links (links,) are entirely in front of the camera; others have no valid outline."""
    depths_m = projected.depth_m[[(link.start, link.end) for link in cell.links]]
    in_front: npt.NDArray[np.bool_] = depths_m.min(axis=1) > NEAREST_M
    return in_front


def _fixed(pixels: Array) -> npt.NDArray[np.int32]:
    """Return pixel lengths or positions as OpenCV's fixed-point numbers."""
    return np.asarray(np.rint(pixels * 2**SUBPIXEL_BITS), np.int32)
