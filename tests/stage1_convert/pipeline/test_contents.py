"""What a dataset holds besides positions and JPEGs: more numbers, commands, ages, tasks, and other ways to store images."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from common.cli.command import UserError
from common.cli.config import load
from common.lerobot.dataset import Dataset
from common.storage.files import read_json
from stage1_convert.check import check
from stage1_convert.config import Config
from stage1_convert.dataset.schema import action_info
from stage1_convert.pipeline.convert import Options, RefusedError, convert
from stage1_convert.sources.folder import LocalBags
from tests.stage1_convert.conversion import (
    actions_of,
    convert_one,
    jpegs,
    report,
    rows,
    run,
    shown,
    sources_of,
    states_of,
    tree,
)
from tests.stage1_convert.recording import (
    JOINT_STATE,
    JOINTS,
    MS,
    TYPES,
    RecordedMessage,
    Recording,
    cell,
    compressed_image,
    joint_state,
    stamp_of,
)

GRIPPER, COMMANDS = "/gripper/state", "/commands"
FIELD = f"data.state_fields={{gripper: '{GRIPPER}:data'}}"


def equipped() -> Recording:
    """Return a recording with velocities, a gripper's opening at 50 Hz and commands that run ahead of the joints."""
    recording = cell(size=(16, 64))
    for n, said in enumerate(recording.joints):
        said.message.velocity = np.arange(6.0) + n
        opening = TYPES.types["std_msgs/msg/Float64"](n / 100)
        if n % 2 == 0:
            recording.others.append(RecordedMessage(said.receive_ns, GRIPPER, "std_msgs/msg/Float64", opening))
        command = joint_state(stamp_of(said), JOINTS, np.roll(said.message.position, 1) + 0.25)
        recording.others.append(RecordedMessage(said.receive_ns, COMMANDS, JOINT_STATE, command))
    return recording


@pytest.fixture(scope="module")
def src(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("streams")
    equipped().write(folder / "bag")
    return folder


@pytest.fixture(scope="module")
def full(src: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset with velocities, the gripper in state and action, and the age of every sample."""
    out = tmp_path_factory.mktemp("full") / "out"
    fields = "data.joint_fields=[position, velocity]", "conventions.action_fields=[gripper]"
    run(src, out, FIELD, *fields, "data.sync_columns=true")
    return out


def test_velocities_and_fields_of_other_topics_join_the_state(full: Path) -> None:
    dataset = Dataset.open(full)
    names = (*JOINTS, *(f"{joint}.velocity" for joint in JOINTS), "gripper")
    assert dataset.features["observation.state"].names == names
    assert dataset.joint_names == (*JOINTS, "gripper")
    states, actions, traced = states_of(full), actions_of(full), sources_of(full)
    # The driver's order is shoulder_lift ... wrist_3, shoulder_pan: the velocity of the pan joint is the last one.
    np.testing.assert_allclose(states[:, 6], traced["joints.message"] + 5)
    np.testing.assert_allclose(states[:, 7], traced["joints.message"])
    np.testing.assert_allclose(states[:, 12], traced["gripper.message"] * 2 / 100, rtol=1e-6)
    np.testing.assert_allclose(actions[:-1, 6], np.diff(states[:, 12]), atol=1e-6)


def test_the_info_of_the_action_names_what_is_no_joints_position(full: Path) -> None:
    info = read_json(full / "meta/info.json")["features"]["action"]["info"]
    assert info == {"action_meaning": "delta", "wrapped": False, "unit": "radian", "other_units": ["gripper"]}
    assert "in radians, but for gripper |" in (full / "README.md").read_text()
    assert not check(full).findings


@pytest.mark.parametrize(
    ("path", "is_other"),
    [
        ("/joint_states:position.finger_joint", False),
        ("/joint_states:position[arm/7]", False),
        ("/joint_states:position.6", False),
        ("/joint_states:velocity.finger_joint", True),
        ("/gripper:position", True),
        ("/gripper:command.position", True),
        ("/pose:position.x", True),
        ("/twist:twist.linear.x", True),
    ],
)
def test_only_the_position_of_a_joint_is_an_angle_beside_joints(path: str, is_other: bool) -> None:
    names = ["other"] if is_other else None
    field = f"data.state_fields={{other: '{path}', unused: '/x:data'}}", "conventions.action_fields=[other]"
    for overrides in (field, (f"data.action_paths={{other: '{path}'}}", "conventions.action=next_position")):
        assert action_info(load(Config, None, overrides)).get("other_units") == names
    alone = "conventions.action=command", f"data.action_paths={{other: '{path}'}}"
    assert "other_units" not in action_info(load(Config, None, alone))


def test_the_age_of_every_sample_is_a_column_on_demand(full: Path) -> None:
    table, traced = rows(full), sources_of(full)
    for stream in ("joints", "color", "gripper"):
        age_ms = table[f"sync.{stream}_age_ms"]
        assert age_ms.dtype == np.float32
        np.testing.assert_allclose(age_ms, (traced["tick_ns"] - traced[f"{stream}.stamp_ns"]) / 1e6, rtol=1e-6)
        assert 0 <= age_ms.min() <= age_ms.max() <= 100
    features = list(read_json(full / "meta/info.json")["features"])
    assert features == pq.read_schema(full / "data/chunk-000/file-000.parquet").names


def test_a_field_is_interpolated_as_a_number_and_not_as_an_angle(tmp_path: Path) -> None:
    recording = equipped()
    for n, said in enumerate(said for said in recording.others if said.topic == GRIPPER):
        said.message.data = n * 10.0  # steps of more than a turn
    dataset = convert_one(tmp_path, recording, FIELD, "data.resample_by_stream={gripper: linear}")
    steps = np.diff(states_of(dataset)[:, 6])
    assert 14 < steps.min() < steps.max() < 19
    streams = report(dataset)["streams"]
    assert [streams[name]["resample"] for name in ("joints", "color", "gripper")] == ["hold", "auto", "linear"]


def test_commands_are_stored_as_they_were_published(src: Path, tmp_path: Path) -> None:
    run(src, tmp_path / "out", "conventions.action=command", f"data.command_topic={COMMANDS}")
    states, actions = states_of(tmp_path / "out"), actions_of(tmp_path / "out")
    same = (
        sources_of(tmp_path / "out")["joints.stamp_ns"] == sources_of(tmp_path / "out")["command.stamp_ns"]
    ).to_numpy()
    assert same.mean() > 0.9
    np.testing.assert_allclose(actions[same], states[same] + 0.25, rtol=0, atol=1e-6)
    info = read_json(tmp_path / "out/meta/info.json")["features"]["action"]["info"]
    assert info == {"action_meaning": "command", "wrapped": False, "unit": "radian", "topic": COMMANDS}


def test_a_measured_field_beside_commands_asks_for_its_next_value(src: Path, tmp_path: Path) -> None:
    fields = FIELD, "conventions.action_fields=[gripper]", "conventions.action=command"
    run(src, tmp_path / "out", *fields, f"data.command_topic={COMMANDS}")
    opening, asked = states_of(tmp_path / "out")[:, -1], actions_of(tmp_path / "out")[:, -1]
    assert np.ptp(opening) > 0
    assert asked.tolist() == [*opening[1:], opening[-1]]


def tagged(bag: Path, **custom: str) -> None:
    path = bag / "metadata.yaml"
    text = "".join(f"\n    {key}: '{value}'" for key, value in custom.items())
    path.write_text(path.read_text().replace("custom_data: null", f"custom_data:{text}"))


def test_tasks_and_success_come_from_the_bags_custom_data(tmp_path: Path) -> None:
    tags = [
        {"task": "Push.", "success": "true"},
        {"success": "no"},
        {"task": "Push.", "success": "half"},
        {"task": "Pull."},
    ]
    for seed, custom in enumerate(tags):
        tagged(cell(seed=seed, seconds=1.0, size=(16, 64)).write(tmp_path / "src" / f"bag{seed}"), **custom)
    run(tmp_path / "src", tmp_path / "out", "data.task_from=bag", "data.task=Move.", workers=2)
    tasks = pd.read_parquet(tmp_path / "out/meta/tasks.parquet")
    assert list(tasks.index) == ["Push.", "Move.", "Pull."]
    table = rows(tmp_path / "out")
    assert table.groupby("episode_index")["task_index"].unique().map(list).tolist() == [[0], [1], [0], [2]]
    assert [bag["success"] for bag in report(tmp_path / "out")["bags"]] == [True, False, "half", None]
    episodes = pd.read_parquet(tmp_path / "out/meta/episodes/chunk-000/file-000.parquet")
    assert [list(names) for names in episodes["tasks"]] == [["Push."], ["Move."], ["Push."], ["Pull."]]
    assert read_json(tmp_path / "out/meta/info.json")["total_tasks"] == 3


def test_tasks_come_from_folder_names(tmp_path: Path) -> None:
    for seed, name in enumerate(["open_the_door/1", "open_the_door/2", "odd"]):
        cell(seed=seed, seconds=1.0, size=(16, 64)).write(tmp_path / "src" / name)
    run(tmp_path / "src", tmp_path / "out", "data.task_from=folder", "data.task_pattern=^(.+)/", "data.task=Move.")
    assert list(pd.read_parquet(tmp_path / "out/meta/tasks.parquet").index) == ["Move.", "open the door"]


def test_only_the_bags_that_were_asked_for_are_converted(tmp_path: Path) -> None:
    for seed, name in enumerate(["day1/a", "day1/b", "day2/a"]):
        cell(seed=seed, seconds=1.0, size=(16, 64)).write(tmp_path / "src" / name)
    run(tmp_path / "src", tmp_path / "out", "data.include=[day1/*]", "data.exclude=['*/b']")
    assert [bag["bag"] for bag in report(tmp_path / "out")["bags"]] == ["day1/a"]
    with pytest.raises(UserError, match="leave none of the 3 bags"):
        run(tmp_path / "src", tmp_path / "out", "data.include=[day3/*]")


def test_an_image_that_the_camera_sent_twice_is_counted(tmp_path: Path) -> None:
    recording = cell(size=(16, 64))
    for n in (20, 21, 30):
        said = recording.images[n]
        again = compressed_image(stamp_of(said), recording.images[n - 1].message.data.tobytes())
        recording.images[n] = said._replace(message=again)
    dataset = convert_one(tmp_path, recording)
    (episode,) = report(dataset)["bags"][0]["episodes"]
    seen = set(shown(dataset))
    assert episode["identical"]["color"] == len(seen & {20, 21, 30}) > 0


@pytest.mark.parametrize(
    ("settings", "declared"),
    [
        (["data.storage=png"], {"storage": "png"}),
        (
            ["conventions.image_resize=[8, 32]", "conventions.jpeg_quality=80"],
            {"storage": "jpeg", "quality": 80, "resize": "pixel area where both sides shrink, else bilinear"},
        ),
    ],
)
def test_a_camera_declares_how_its_images_are_stored(
    settings: list[str], declared: dict[str, object], src: Path, tmp_path: Path
) -> None:
    run(src, tmp_path / "out", *settings)
    assert read_json(tmp_path / "out/meta/info.json")["features"]["observation.images.color"]["info"] == declared


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of two bags, one with two episodes, whose images are videos."""
    folder = tmp_path_factory.mktemp("film")
    for seed in range(2):
        recording = cell(seed=seed, seconds=2.5, size=(16, 64))
        if seed:
            del recording.images[30:40]
        recording.write(folder / "src" / f"bag{seed}")
    run(folder / "src", folder / "out", "data.storage=video", workers=2)
    return folder / "out"


def test_a_video_holds_exactly_the_rows_at_exact_times(film: Path) -> None:
    import av

    episodes = pd.read_parquet(film / "meta/episodes/chunk-000/file-000.parquet")
    assert len(episodes) == 3
    key = "videos/observation.images.color"
    for number, episode in episodes.iterrows():
        path = film / f"videos/observation.images.color/chunk-000/file-{number:03d}.mp4"
        with av.open(str(path)) as file:
            times = [frame.time for frame in file.decode(video=0)]
        np.testing.assert_allclose(times, np.arange(episode["length"]) / 30, rtol=0, atol=1e-9)
        place = [episode[f"{key}/{name}"] for name in ("chunk_index", "file_index", "from_timestamp")]
        assert place == [0, number, 0]
        assert episode[f"{key}/to_timestamp"] == episode["length"] / 30


def test_a_video_dataset_declares_its_codec_and_has_no_image_column(film: Path) -> None:
    info = read_json(film / "meta/info.json")
    feature = info["features"]["observation.images.color"]
    assert (feature["dtype"], feature["shape"]) == ("video", [16, 64, 3])
    golden = read_json(Path(__file__).parents[2] / "golden/dataset_video/meta/info.json")
    assert feature["info"].keys() == golden["features"]["observation.images.color"]["info"].keys()
    assert (feature["info"]["video.codec"], feature["info"]["video.fps"]) == ("h264", 30)
    assert "observation.images.color" not in pq.read_schema(film / "data/chunk-000/file-000.parquet").names
    assert info["video_path"].startswith("videos/{video_key}/")


def test_a_video_of_odd_size_is_refused(tmp_path: Path) -> None:
    cell(size=(15, 64)).write(tmp_path / "src" / "bag")
    with pytest.raises(RefusedError, match="15x64 needs an even height and width"):
        run(tmp_path / "src", tmp_path / "out", "data.storage=video")


def test_trusted_images_give_the_same_rows_and_the_record_says_so(src: Path, tmp_path: Path) -> None:
    run(src, tmp_path / "out")
    convert(LocalBags(src), tmp_path / "trusted", load(Config, None), Options(trust_images=True))
    assert jpegs(tmp_path / "out") == jpegs(tmp_path / "trusted")
    assert [report(tmp_path / name)["pictures_verified"] for name in ("out", "trusted")] == [True, False]
    verified, trusted = (read_json(tmp_path / name / "meta" / "stats.json") for name in ("out", "trusted"))
    assert trusted == verified


def test_the_clock_of_a_single_stream_can_be_set(src: Path, tmp_path: Path) -> None:
    run(src, tmp_path / "out", "data.time_source_by_stream={color: receive}")
    clock = report(tmp_path / "out")["bags"][0]["clock"]
    assert (clock["color"]["source"], clock["color"]["reason"]) == ("receive", "configured")
    assert clock["joints"]["reason"] != "configured"
    assert 9 < clock["color"]["latency_ms"] < 21


def test_an_episode_starts_at_every_message_on_the_marker_topic(tmp_path: Path) -> None:
    recording = cell(seconds=3.0, size=(16, 64))
    started = TYPES.types["std_msgs/msg/Empty"]()
    at_ns = [recording.joints[100].receive_ns, recording.joints[200].receive_ns + MS]
    recording.others = [RecordedMessage(stamp_ns, "/episode", "std_msgs/msg/Empty", started) for stamp_ns in at_ns]
    recording.write(tmp_path / "src" / "bag")
    assert run(tmp_path / "src", tmp_path / "out", "data.split_topic=/episode").episodes == 3
    first, second, third = report(tmp_path / "out")["bags"][0]["episodes"]
    assert [first["begins"], second["begins"], third["begins"]] == ["start", "marker", "marker"]
    for episode, marker_ns in ((second, at_ns[0]), (third, at_ns[1])):
        assert 0 <= episode["start_ns"] - marker_ns < 10**9 // 30
    assert tree(tmp_path / "out").keys() >= {"data/chunk-000/file-002.parquet"}
