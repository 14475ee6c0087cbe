import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from demo.arm import DH_A_M, frames, joints_pointing_down, origins, tool_position
from demo.expert import HOVER_M, START_Z_M
from demo.scene import WORKSPACE_X_M, WORKSPACE_Y_M

in_workspace = st.tuples(st.floats(*WORKSPACE_X_M), st.floats(*WORKSPACE_Y_M), st.floats(HOVER_M, START_Z_M[1]))


def test_all_joints_at_zero_stretch_the_arm_along_minus_x() -> None:
    expected = [-(0.6127 + 0.57155), -(0.17415 + 0.11655), 0.1807 - 0.11985]
    np.testing.assert_allclose(tool_position(np.zeros(6)), expected, atol=1e-12)


def test_the_height_of_the_upright_pose_is_the_sum_of_the_link_lengths() -> None:
    upright = np.radians([0, -90, 0, -90, 0, 0])
    expected = [0.0, -(0.17415 + 0.11655), 0.1807 + 0.6127 + 0.57155 + 0.11985]
    np.testing.assert_allclose(tool_position(upright), expected, atol=1e-12)


def test_turning_the_shoulder_pan_turns_every_origin_about_the_base() -> None:
    joints = np.array([0.0, -1.2, 2.0, -2.4, -1.5, 0.3])
    quarter = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    turned = joints + np.array([np.pi / 2, 0, 0, 0, 0, 0])
    np.testing.assert_allclose(origins(turned), origins(joints) @ quarter.T, atol=1e-12)


@given(st.lists(st.floats(-7, 7), min_size=6, max_size=6))
def test_the_links_keep_their_lengths_in_any_pose(joints: list[float]) -> None:
    lengths = np.linalg.norm(np.diff(origins(joints), axis=0), axis=1)
    np.testing.assert_allclose(lengths, [0.1807, *-DH_A_M[1:3], 0.17415, 0.11985, 0.11655], atol=1e-12)


def test_a_batch_gives_the_same_as_its_rows() -> None:
    batch = np.random.default_rng(0).uniform(-3, 3, (4, 5, 6))
    np.testing.assert_array_equal(frames(batch)[2, 3], frames(batch[2, 3]))


@given(in_workspace)
def test_the_inverse_brings_the_tool_exactly_to_the_point(xyz: tuple[float, float, float]) -> None:
    np.testing.assert_allclose(tool_position(joints_pointing_down(xyz)), xyz, atol=1e-9)


@given(in_workspace)
def test_the_inverse_points_the_tool_straight_down_with_one_heading(xyz: tuple[float, float, float]) -> None:
    heading = [[0, 1, 0], [1, 0, 0], [0, 0, -1]]
    np.testing.assert_allclose(frames(joints_pointing_down(xyz))[6, :3, :3], heading, atol=1e-9)


@given(in_workspace)
def test_the_inverse_keeps_the_elbow_above_the_line_from_shoulder_to_wrist(xyz: tuple[float, float, float]) -> None:
    _, shoulder, elbow, wrist, *_ = origins(joints_pointing_down(xyz))
    assert elbow[2] > max(shoulder[2], wrist[2])


@given(in_workspace, in_workspace)
def test_neighboring_points_have_neighboring_joints(
    here: tuple[float, float, float], there: tuple[float, float, float]
) -> None:
    path = np.linspace(here, there, 200)
    step_m = np.linalg.norm(path[1] - path[0])
    turns = np.abs(np.diff(joints_pointing_down(path), axis=0))
    assert turns.max() <= 8 * step_m + 1e-9  # rad per meter; a change of branch would be a jump


@given(in_workspace)
def test_no_joint_comes_near_half_a_turn_where_angles_wrap(xyz: tuple[float, float, float]) -> None:
    assert np.abs(joints_pointing_down(xyz)).max() < np.pi - 0.2


@pytest.mark.parametrize("xyz", [(-1.5, 0.0, 0.1), (-0.1, 0.05, 0.1)])
def test_a_point_out_of_reach_is_refused(xyz: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="out of the arm's reach"):
        joints_pointing_down(xyz)
