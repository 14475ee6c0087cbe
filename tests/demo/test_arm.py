import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from demo.arm import frames, joints_pointing_down, tool_position
from demo.expert import HOVER_M, START_Z_M
from demo.scene import WORKSPACE_X_M, WORKSPACE_Y_M

in_workspace = st.tuples(st.floats(*WORKSPACE_X_M), st.floats(*WORKSPACE_Y_M), st.floats(HOVER_M, START_Z_M[1]))


@pytest.mark.parametrize(
    ("degrees", "expected_m"),
    [
        ([0, 0, 0, 0, 0, 0], [-(0.6127 + 0.57155), -(0.17415 + 0.11655), 0.1807 - 0.11985]),  # stretched along minus x
        ([0, -90, 0, -90, 0, 0], [0.0, -(0.17415 + 0.11655), 0.1807 + 0.6127 + 0.57155 + 0.11985]),  # upright
    ],
)
def test_the_tool_is_as_far_away_as_the_links_are_long(degrees: list[float], expected_m: list[float]) -> None:
    np.testing.assert_allclose(tool_position(np.radians(degrees)), expected_m, atol=1e-12)


@given(in_workspace)
def test_the_inverse_brings_the_tool_to_the_point_straight_down_with_one_heading(
    xyz: tuple[float, float, float],
) -> None:
    joints = joints_pointing_down(xyz)
    np.testing.assert_allclose(tool_position(joints), xyz, atol=1e-9)
    np.testing.assert_allclose(frames(joints)[6, :3, :3], [[0, 1, 0], [1, 0, 0], [0, 0, -1]], atol=1e-9)
    assert np.abs(joints).max() < np.pi - 0.2, "angles wrap at half a turn"


@given(in_workspace, in_workspace)
def test_neighboring_points_have_neighboring_joints(
    here: tuple[float, float, float], there: tuple[float, float, float]
) -> None:
    path = np.linspace(here, there, 200)
    step_m = np.linalg.norm(path[1] - path[0])
    turns = np.abs(np.diff(joints_pointing_down(path), axis=0))
    assert turns.max() <= 8 * step_m + 1e-9  # rad per meter; a change of branch would be a jump


@pytest.mark.parametrize("xyz", [(-1.5, 0.0, 0.1), (-0.1, 0.05, 0.1)])
def test_a_point_out_of_reach_is_refused(xyz: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="out of the arm's reach"):
        joints_pointing_down(xyz)
