"""Kinematics of the UR10e: the positions of its frames for joint angles, and the joint angles for a tool that points down.

All positions are in the robot's `base` frame of the DH convention: meters, z up, the table at z = 0, and the arm at rest
reaching towards -x. Angles are in radians, in the order of JOINT_NAMES.
"""

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

JOINT_NAMES = (
    "shoulder_pan_joint",
    "shoulder_lift_joint",
    "elbow_joint",
    "wrist_1_joint",
    "wrist_2_joint",
    "wrist_3_joint",
)

# Universal Robots, "DH Parameters for calculations of kinematics and dynamics", table of the UR10e.
DH_D_M = np.array([0.1807, 0.0, 0.0, 0.17415, 0.11985, 0.11655])
DH_A_M = np.array([0.0, -0.6127, -0.57155, 0.0, 0.0, 0.0])
DH_ALPHA = np.array([np.pi / 2, 0.0, 0.0, np.pi / 2, -np.pi / 2, 0.0])


def frames(joints: npt.ArrayLike) -> Array:
    """Return the poses (..., 7, 4, 4) of the base and of the six DH frames for joint angles (..., 6)."""
    q = np.asarray(joints, np.float64)
    links = _link_transforms(q)
    poses = np.empty((*q.shape[:-1], 7, 4, 4))
    poses[..., 0, :, :] = np.eye(4)
    for joint in range(6):
        poses[..., joint + 1, :, :] = poses[..., joint, :, :] @ links[..., joint, :, :]
    return poses


def origins(joints: npt.ArrayLike) -> Array:
    """Return the origins (..., 7, 3) in meters of base, shoulder, elbow, three wrists and tool for angles (..., 6)."""
    points: Array = frames(joints)[..., :3, 3]
    return points


def tool_position(joints: npt.ArrayLike) -> Array:
    """Return the position (..., 3) of the tool tip in meters for joint angles (..., 6)."""
    return origins(joints)[..., 6, :]


def joints_pointing_down(xyz_m: npt.ArrayLike) -> Array:
    """Return the angles (..., 6) that bring the tool tip to xyz (..., 3) in meters, pointing straight down.

    Of the eight solutions, the one with the elbow up and the shoulder facing the point is returned, and the tool keeps
    its heading, so neighboring points have neighboring angles; over all points with x < 0 no angle wraps around.
    Raises ValueError when a point is out of reach.
    """
    x, y, z = np.moveaxis(np.asarray(xyz_m, np.float64), -1, 0)
    upper_m, fore_m = -DH_A_M[1], -DH_A_M[2]
    lateral_m, wrist_m, tool_m = DH_D_M[3:]
    # The arm moves in a vertical plane that passes the shoulder axis at distance `lateral_m`.
    forward_sq = x**2 + y**2 - lateral_m**2
    forward_m = np.sqrt(np.maximum(forward_sq, 0.0))
    pan = np.arctan2(-y, -x) - np.arctan2(lateral_m, forward_m)
    # Within that plane: the two long links must reach wrist 1, which is behind and above the tool tip.
    reach_m, rise_m = forward_m - wrist_m, z + tool_m - DH_D_M[0]
    cos_elbow = (reach_m**2 + rise_m**2 - upper_m**2 - fore_m**2) / (2 * upper_m * fore_m)
    if np.any(forward_sq < 0) or not np.all(np.abs(cos_elbow) <= 1):
        raise ValueError(f"out of the arm's reach: {np.asarray(xyz_m).tolist()}")
    elbow = np.arccos(cos_elbow)
    lift = -np.arctan2(rise_m, reach_m) - np.arctan2(fore_m * np.sin(elbow), upper_m + fore_m * np.cos(elbow))
    down = np.full_like(pan, -np.pi / 2)
    return np.stack([pan, lift, elbow, down - lift - elbow, down, pan], axis=-1)


def _link_transforms(q: Array) -> Array:
    """Return the transform (..., 6, 4, 4) of each joint, from its frame to the previous one."""
    cos_q, sin_q, cos_a, sin_a = np.cos(q), np.sin(q), np.cos(DH_ALPHA), np.sin(DH_ALPHA)
    links = np.zeros((*q.shape, 4, 4))
    links[..., 0, 0], links[..., 0, 1], links[..., 0, 2] = cos_q, -sin_q * cos_a, sin_q * sin_a
    links[..., 1, 0], links[..., 1, 1], links[..., 1, 2] = sin_q, cos_q * cos_a, -cos_q * sin_a
    links[..., 2, 1], links[..., 2, 2] = sin_a, cos_a
    links[..., 0, 3], links[..., 1, 3], links[..., 2, 3] = DH_A_M * cos_q, DH_A_M * sin_q, DH_D_M
    links[..., 3, 3] = 1.0
    return links
