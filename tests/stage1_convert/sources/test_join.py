"""Bags that were recorded side by side become one when that is asked for."""

from pathlib import Path

import numpy as np
import pytest
import yaml

from common.cli.command import UserError
from common.cli.config import load
from stage1_convert.__main__ import main
from stage1_convert.config import Config
from stage1_convert.pipeline.convert import Options, RefusedError, convert
from stage1_convert.sources.folder import LocalBags
from tests.stage1_convert.conversion import jpegs, report, rows, run
from tests.stage1_convert.recording import Recording, cell


def write_side_by_side(folder: Path, name: str, later_ns: int = 0) -> None:
    """Write the arm and the camera of a cell as two bags."""
    whole = cell()
    for stream in (whole.joints, whole.images):
        stream[:] = [said._replace(receive_ns=said.receive_ns + later_ns) for said in stream]
    Recording(joints=whole.joints).write(folder / f"{name}_arm")
    Recording(images=whole.images).write(folder / f"{name}_cam", "sqlite3")


def test_the_arm_in_one_bag_and_the_camera_in_another_convert_as_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_side_by_side(tmp_path / "src", "ep0")
    cell().write(tmp_path / "whole" / "bag")
    hint = "ep0_arm and ep0_cam were recorded at the same time with different topics: --join makes one bag of them"
    with pytest.raises(RefusedError, match=f"has no topic .*; {hint}$"):
        run(tmp_path / "src", tmp_path / "out")
    main(["--inspect", str(tmp_path / "src"), "--out", str(tmp_path / "look")])
    main(["--src", str(tmp_path / "src"), "--dry-run"])
    assert capsys.readouterr().out.count(hint) == 2
    source = LocalBags(tmp_path / "src", join=True)
    assert [bag.name for bag in source.bags] == ["ep0_arm+ep0_cam"]
    summary = convert(source, tmp_path / "out", load(Config, None, []), Options(0))
    assert (summary.refused, summary.warnings) == ([], [])
    run(tmp_path / "whole", tmp_path / "expected")
    one, two = rows(tmp_path / "out"), rows(tmp_path / "expected")
    assert len(one) > 30
    assert np.array_equal(np.stack(one["observation.state"]), np.stack(two["observation.state"]))
    assert jpegs(tmp_path / "out") == jpegs(tmp_path / "expected")


def test_only_bags_of_the_same_time_and_of_other_topics_are_joined(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_side_by_side(tmp_path, "ep0")
    write_side_by_side(tmp_path, "ep1", 60 * 10**9)
    cell(seed=1).write(tmp_path / "whole")
    (tmp_path / "broken.mcap").write_bytes(b"no bag")
    names = [bag.name for bag in LocalBags(tmp_path, join=True).bags]
    assert names == ["broken.mcap", "ep0_arm+ep0_cam", "ep1_arm+ep1_cam", "whole"]
    assert capfd.readouterr().err == ""


def test_bags_of_other_times_are_not_told_to_join(tmp_path: Path) -> None:
    write_side_by_side(tmp_path, "ep0")
    write_side_by_side(tmp_path, "ep1", 60 * 10**9)
    source = LocalBags(tmp_path)
    assert source.hint(["ep0_arm", "ep1_cam"]) == ""
    more = source.hint([bag.name for bag in source.bags])
    assert more.startswith(
        "ep0_arm and ep0_cam were recorded at the same time with different topics, and so were 1 more"
    )


def test_a_joined_bag_keeps_the_custom_data_of_all(tmp_path: Path) -> None:
    write_side_by_side(tmp_path / "src", "ep0")
    for name, custom in (("ep0_arm", {"task": "pour"}), ("ep0_cam", {"task": "other", "success": "yes"})):
        path = tmp_path / "src" / name / "metadata.yaml"
        tree = yaml.safe_load(path.read_text())
        tree["rosbag2_bagfile_information"]["custom_data"] = custom
        path.write_text(yaml.safe_dump(tree))
    config = load(Config, None, ["data.task_from=bag"])
    convert(LocalBags(tmp_path / "src", join=True), tmp_path / "out", config, Options(0))
    (bag,) = report(tmp_path / "out")["bags"]
    assert (bag["task"], bag["success"]) == ("pour", True)


def test_join_without_anything_to_join_is_refused(tmp_path: Path) -> None:
    cell().write(tmp_path / "src" / "bag")
    with pytest.raises(UserError, match="--join: no two bags were recorded at the same time"):
        main(["--src", str(tmp_path / "src"), "--out", str(tmp_path / "out"), "--join"])
    with pytest.raises(UserError, match="--join takes bags in a folder"):
        main(["--src", "azure://acct/c", "--out", str(tmp_path / "out"), "--join"])
