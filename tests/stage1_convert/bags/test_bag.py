"""Opening bags of every format, also damaged ones."""

import re
import shutil
import sqlite3
from collections import Counter
from collections.abc import Collection
from pathlib import Path

import numpy as np
import pytest
import yaml
import zstandard
from mcap.reader import make_reader
from mcap.writer import CompressionType
from mcap.writer import Writer as McapWriter
from rosbags.rosbag2 import Reader

from common.cli.command import UserError
from stage1_convert.bags.bag import Bag, open_bag
from stage1_convert.pipeline.convert import RefusedError
from stage1_convert.sources.folder import find_bags
from tests.recordings import ros1
from tests.stage1_convert.conversion import jpegs, rows, run, tree
from tests.stage1_convert.recording import (
    JOINT_STATE,
    JOINT_TOPIC,
    JPEG_TOPIC,
    MS,
    RAW_TOPIC,
    START_NS,
    TYPES,
    Compression,
    Recording,
    Storage,
    cell,
    joint_state,
)

SHARED = Path(__file__).parents[3].parent / "shared" / "bags"


def stamps(path: Path, scratch: Path, topics: tuple[str, ...] = (JOINT_TOPIC, JPEG_TOPIC)) -> list[int]:
    """Return the receive times of a bag's messages."""
    with open_bag(path, scratch, "humble") as bag:
        return [record.receive_ns for record in bag.records(topics)]


def deserialized(bag: Bag, topics: Collection[str]) -> int:
    """Deserialize the messages of these topics; return how many there are."""
    return sum(bag.deserialize(record.topic, record.data) is not None for record in bag.records(topics))


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_a_bare_storage_file_gives_the_same_messages_as_its_folder(tmp_path: Path, storage: Storage) -> None:
    bag = cell().write(tmp_path / "bag", storage)
    (file,) = [path for path in bag.iterdir() if path.name != "metadata.yaml"]
    assert len(stamps(bag, tmp_path)) == 195
    assert stamps(file, tmp_path) == stamps(bag, tmp_path)


def split(recording: Recording, folder: Path, cut: int, images: int) -> Path:
    """Write a recording as two files of one bag, cut before these messages; the later file is listed first."""
    late, early = Recording(), Recording()
    late.joints, early.joints = recording.joints[cut:], recording.joints[:cut]
    late.images, early.images = recording.images[images:], recording.images[:images]
    first = late.write(folder / "late")
    second = early.write(folder / "early")
    shutil.move(second / "early.mcap", first / "part_1.mcap")
    metadata = first / "metadata.yaml"
    metadata.write_text(metadata.read_text().replace("- late.mcap", "- late.mcap\n  - part_1.mcap"))
    return first


@pytest.mark.parametrize("images", [18, 45], ids=["one after the other", "overlapping"])
def test_the_parts_of_a_split_bag_are_read_in_the_order_of_receive_times(tmp_path: Path, images: int) -> None:
    bag = split(cell(), tmp_path, 60, images)
    found = stamps(bag, tmp_path)
    assert len(found) == 195
    assert found == sorted(found)


def test_a_part_of_a_split_bag_that_is_missing_is_reported(tmp_path: Path) -> None:
    bag = split(cell(), tmp_path, 60, 18)
    (bag / "part_1.mcap").unlink()
    with open_bag(bag, tmp_path, "humble") as opened:
        assert opened.warnings == ["part_1.mcap is missing"]


def test_a_folder_whose_storage_is_gone_is_refused(tmp_path: Path) -> None:
    bag = cell().write(tmp_path / "bag")
    (bag / "bag.mcap").unlink()
    assert len(find_bags(tmp_path)) == 1
    with pytest.raises(UserError, match="no storage file"), open_bag(bag, tmp_path, "humble"):
        pass


def test_qos_text_in_the_metadata_that_differs_from_the_storage_loses_nothing(tmp_path: Path) -> None:
    bag = cell().write(tmp_path / "bag", "sqlite3")
    with sqlite3.connect(bag / "bag.db3") as database:
        database.execute("UPDATE topics SET offered_qos_profiles = ?", ["[]"])
    assert len(stamps(bag, tmp_path)) == 195


def test_a_bag_without_message_definitions_is_read_with_those_of_the_configured_distro(tmp_path: Path) -> None:
    bag = cell().write(tmp_path / "bag", "sqlite3")
    with sqlite3.connect(bag / "bag.db3") as database:
        database.execute("DELETE FROM message_definitions")
    assert len(stamps(bag, tmp_path)) == 195


def test_messages_that_are_only_in_a_write_ahead_log_are_read_and_the_recording_is_left_unchanged(
    tmp_path: Path,
) -> None:
    bag = cell().write(tmp_path / "bag", "sqlite3")
    whole = stamps(bag, tmp_path)
    recorder = sqlite3.connect(bag / "bag.db3")
    recorder.execute("PRAGMA journal_mode=WAL")
    recorder.execute("UPDATE messages SET timestamp = timestamp + 1")
    recorder.commit()
    killed = tmp_path / "killed"  # what a recorder leaves that never closes its file
    shutil.copytree(bag, killed)
    recorder.close()
    assert (killed / "bag.db3-wal").stat().st_size
    before = tree(killed)
    with open_bag(killed, tmp_path / "scratch", "humble") as opened:
        assert [record.receive_ns for record in opened.records(opened.topics)] == [stamp + 1 for stamp in whole]
        assert opened.warnings == ["bag.db3-wal was never merged into bag.db3: it was read merged into a copy"]
    assert tree(killed) == before


def test_reading_leaves_no_file_beside_a_recording(tmp_path: Path) -> None:
    bag = cell().write(tmp_path / "bag", "sqlite3")
    with sqlite3.connect(bag / "bag.db3") as recorder:
        recorder.execute("PRAGMA journal_mode=WAL")
    recorder.close()
    before = tree(bag)
    with open_bag(bag, tmp_path / "scratch", "humble") as opened:
        assert sum(1 for _ in opened.records(opened.topics)) == 195
        assert tree(bag) == before
    assert tree(bag) == before


def cut_off(bag: Path, kept: float) -> Path:
    """Cut the end off a bag's storage file, as a full disk or a lost battery does."""
    (storage,) = [path for path in bag.iterdir() if path.name != "metadata.yaml"]
    storage.write_bytes(storage.read_bytes()[: int(storage.stat().st_size * kept)])
    return bag


@pytest.mark.parametrize("compression", ["none", "storage"])
@pytest.mark.parametrize("kept", [0.99, 0.6])
def test_every_complete_chunk_of_a_cut_off_mcap_is_salvaged_and_reported(
    tmp_path: Path, kept: float, compression: Compression
) -> None:
    size = (240, 320)  # several chunks
    bag = cell(topic=RAW_TOPIC, size=size).write(tmp_path / "bag", "mcap", compression)
    whole = stamps(bag, tmp_path, (JOINT_TOPIC, RAW_TOPIC))
    with open_bag(cut_off(bag, kept), tmp_path, "humble") as opened:
        found = [record.receive_ns for record in opened.records(opened.topics)]
        (warning,) = opened.warnings
        declared = sum(topic.declared for topic in opened.topics.values())
    assert found == whole[: len(found)]
    assert len(whole) * (kept - 0.2) < len(found) <= len(whole)
    assert "bag.mcap was not closed properly (" in warning
    assert f"): {len(found)} messages before the damage are salvaged" in warning
    assert declared == len(whole)


def test_only_the_messages_of_a_damaged_chunk_are_missing_and_that_is_reported(tmp_path: Path) -> None:
    bag = cell(topic=RAW_TOPIC, size=(240, 320)).write(tmp_path / "bag", "mcap", "storage")
    whole = stamps(bag, tmp_path, (JOINT_TOPIC, RAW_TOPIC))
    storage = bag / "bag.mcap"
    data = bytearray(storage.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 4096] = bytes(4096)
    storage.write_bytes(data)
    with open_bag(bag, tmp_path, "humble") as opened:
        found = [record.receive_ns for record in opened.records(opened.topics)]
        assert any("bag.mcap: the chunk at byte" in warning for warning in opened.warnings)
    assert len(whole) / 2 < len(found) < len(whole)
    assert set(found) < set(whole)


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
@pytest.mark.parametrize("compression", ["none", "file", "message", "storage"])
def test_compression_changes_nothing(tmp_path: Path, storage: Storage, compression: Compression) -> None:
    if (storage, compression) == ("sqlite3", "storage"):
        pytest.skip("sqlite3 has no compression of its own")
    plain = cell().write(tmp_path / "plain", storage)
    packed = cell().write(tmp_path / "packed", storage, compression)
    with open_bag(plain, tmp_path / "a", "humble") as one, open_bag(packed, tmp_path, "humble") as two:
        assert list(one.records(one.topics)) == list(two.records(two.topics))
        assert one.topics == two.topics


@pytest.mark.parametrize("compression", ["", "lz4", "zstd"])
@pytest.mark.parametrize("chunked", [True, False])
def test_an_mcap_of_another_writer_is_read_like_its_own_library_reads_it(
    tmp_path: Path, compression: str, chunked: bool
) -> None:
    path = tmp_path / "foreign.mcap"
    kinds = {"": CompressionType.NONE, "lz4": CompressionType.LZ4, "zstd": CompressionType.ZSTD}
    with path.open("wb") as file:
        writer = McapWriter(file, chunk_size=5000, compression=kinds[compression], use_chunking=chunked)
        writer.start()  # no ros2 profile, and a schema that nobody here can parse
        odd = writer.register_schema("x.Odd", "protobuf", b"\xff\x00")
        wanted = writer.register_schema(
            JOINT_STATE, "ros2msg", TYPES.generate_msgdef(JOINT_STATE, ros_version=2)[0].encode()
        )
        channels = [
            writer.register_channel("/odd", "protobuf", odd),
            writer.register_channel(JOINT_TOPIC, "cdr", wanted),
        ]
        rng = np.random.default_rng(0)
        for at in range(300):  # recorders with several threads write slightly out of order
            data = bytes(TYPES.serialize_cdr(joint_state(at, ["a"], [at]), JOINT_STATE))
            writer.add_message(channels[at % 2], START_NS + at * MS + int(rng.integers(5 * MS)), data, at)
        writer.finish()  # type: ignore[no-untyped-call]
    with path.open("rb") as file:
        reader = make_reader(file)
        expected = [(message.log_time, message.data) for _, _, message in reader.iter_messages([JOINT_TOPIC])]
    with open_bag(path, tmp_path, "humble") as bag:
        assert [(record.receive_ns, record.data) for record in bag.records([JOINT_TOPIC])] == expected
        assert bag.topics[JOINT_TOPIC] == (JOINT_STATE, 150)
        assert not bag.warnings
        with pytest.raises(UserError, match="/odd is serialized as 'protobuf'"):
            list(bag.records(["/odd"]))


@pytest.mark.parametrize("version", [4, 5, 6, 7, 8, 9])
def test_every_version_of_the_metadata_is_read(tmp_path: Path, version: int) -> None:
    bag = cell().write(tmp_path / "bag", "sqlite3")
    tree = yaml.safe_load((bag / "metadata.yaml").read_text())
    information = tree["rosbag2_bagfile_information"]
    information["version"] = version
    for entry in information["topics_with_message_count"]:
        if version < 9:
            entry["topic_metadata"]["offered_qos_profiles"] = "- history: 3\n  depth: 0\n"
        if version < 7:
            entry["topic_metadata"].pop("type_description_hash", None)
    for key, since in (("files", 5), ("custom_data", 6), ("ros_distro", 8)):
        if version < since:
            information.pop(key, None)
    if version >= 6:
        information["custom_data"] = {"task": "pick", "success": True}
    (bag / "metadata.yaml").write_text(yaml.safe_dump(tree))
    with open_bag(bag, tmp_path, "humble") as opened:
        assert {name: topic.declared for name, topic in opened.topics.items()} == {JOINT_TOPIC: 150, JPEG_TOPIC: 45}
        assert opened.custom == ({"task": "pick", "success": "True"} if version >= 6 else {})
        assert not opened.warnings


def test_a_storage_file_that_the_metadata_does_not_list_is_reported_and_not_read(tmp_path: Path) -> None:
    bag = cell().write(tmp_path / "bag")
    shutil.copy(bag / "bag.mcap", bag / "other.mcap")
    with open_bag(bag, tmp_path, "humble") as opened:
        assert opened.warnings == ["metadata.yaml does not list other.mcap, which is not read"]
        assert sum(1 for _ in opened.records(opened.topics)) == 195


def test_a_file_of_zero_bytes_is_reported_as_empty_and_not_as_damaged(tmp_path: Path) -> None:
    (tmp_path / "nothing.mcap").touch()
    with pytest.raises(UserError, match="is empty"), open_bag(tmp_path / "nothing.mcap", tmp_path, "humble"):
        pass


def test_a_compressed_file_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    packed = zstandard.compress((cell().write(tmp_path / "bag") / "bag.mcap").read_bytes())
    cut = tmp_path / "bag.mcap.zstd"
    cut.write_bytes(packed[: len(packed) // 2])
    with pytest.raises(UserError, match="copy or download it again"), open_bag(cut, tmp_path, "humble"):
        pass


@pytest.mark.parametrize("name", ["take.bag", "take.bag.active"])
def test_a_ros_1_recording_whose_recorder_was_killed_is_refused_with_the_command_that_mends_it(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / "src").mkdir()
    killed = ros1.kill_recorder(ros1.write_bag(cell(), tmp_path / "whole.bag"), tmp_path / "src" / name)
    assert [source.name for source in find_bags(tmp_path / "src")] == [name]
    for stop in (None, -5000):  # as it was left, and cut off
        killed.write_bytes(killed.read_bytes()[:stop])
        with (
            pytest.raises(UserError, match=re.escape(f"`rosbag reindex {name}`")),
            open_bag(killed, tmp_path, "humble"),
        ):
            pass


def test_a_ros_1_bag_that_was_copied_in_part_is_refused(tmp_path: Path) -> None:
    bag = ros1.write_bag(cell(), tmp_path / "take.bag")
    bag.write_bytes(bag.read_bytes()[:-5000])
    with pytest.raises(UserError, match="copy or download it again"), open_bag(bag, tmp_path, "humble"):
        pass


def test_a_bag_that_is_no_ros_1_bag_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "page.bag").write_bytes(b"<!DOCTYPE html>")
    with pytest.raises(UserError, match="is no ROS 1 bag"), open_bag(tmp_path / "page.bag", tmp_path, "humble"):
        pass


@pytest.mark.parametrize(
    ("content", "command"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"ab" * 32 + b"\nsize 33133865\n",
            "git lfs pull",
        ),
        (b"/annex/objects/SHA256E-s33133865--abab.mcap\n", "git annex get"),
    ],
)
@pytest.mark.parametrize("name", ["take.mcap", "take_0.db3", "take.bag", "take.mcap.zstd"])
def test_a_pointer_of_a_clone_names_the_command_that_brings_the_recording(
    tmp_path: Path, name: str, content: bytes, command: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with (
        pytest.raises(UserError, match=f"pointer and not the recording: run `{command}`"),
        open_bag(tmp_path / name, tmp_path, "humble"),
    ):
        pass


def test_a_damaged_message_is_one_clear_line(tmp_path: Path) -> None:
    bag = cell().write(tmp_path / "bag", "sqlite3")
    with sqlite3.connect(bag / "bag.db3") as database:
        database.execute("UPDATE messages SET data = substr(data, 1, 40) WHERE id = 80")
    with open_bag(bag, tmp_path, "humble") as opened, pytest.raises(UserError, match="cannot be read: "):
        deserialized(opened, [JOINT_TOPIC, JPEG_TOPIC])


@pytest.mark.parametrize("form", ["bag", "mcap"])
def test_a_recording_of_ros_1_converts_to_the_same_rows_as_its_ros_2_twin(tmp_path: Path, form: str) -> None:
    recording = cell()
    recording.write(tmp_path / "two" / "bag")
    write = ros1.write_bag if form == "bag" else ros1.write_mcap
    write(recording, tmp_path / "one" / f"bag.{form}")
    for version in ("one", "two"):
        assert run(tmp_path / version, tmp_path / f"out {version}").refused == []
    one, two = rows(tmp_path / "out one"), rows(tmp_path / "out two")
    assert len(one) > 30
    for name in ("observation.state", "action"):
        assert np.array_equal(np.stack(one[name]), np.stack(two[name]))
    assert jpegs(tmp_path / "out one") == jpegs(tmp_path / "out two")


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/bags (real public bags)")
class TestPublicBags:
    """Real recordings by others: reading each succeeds or ends with one clear line."""

    COUNTS = {  # noqa: RUF012
        "rb2_split5_db3": 6074,
        "rb2_split5_mcap": 6074,
        "rb2_talker_db3": 20,
        "rb2_services_mcap": 10,
        "rb2_bare_topics_and_services_db3/topics_and_services.db3": 13,
        "rb2_empty_db3": 0,
        "rb2hist_file_compression/file_compression_0.db3.zstd": 249,
        "bagel_db3_zstd_file": 6,
        "bagel_mcap_zstd_file": 6,
        "ritsrs_all_types_mcap": 188,
        "ait_images_bag": 3,
        "eyrc_mybag_small": 168,
        "eyantra24": 4434,
        "cougars_so_mcap": 2671,
        "ros1_example-bz2/example-bz2.bag": 8647,
        "damaged/so_nofooter": 2671,
        "damaged/db3_wal_only/wbag_0.db3": 1246,
        "damaged/db3_meta_missing/talker.db3": 20,
        "damaged/mcap_meta_garbage": 20,
        "damaged/split5_one_missing": 4834,
    }
    WARNED = {  # noqa: RUF012
        "damaged/so_nofooter": ["was not closed properly"],
        "damaged/db3_wal_only/wbag_0.db3": ["was never merged"],
        "damaged/mcap_meta_garbage": ["not readable"],
        "damaged/split5_one_missing": ["wbag_2.db3 is missing"],
    }

    @pytest.mark.parametrize("name", COUNTS)
    def test_every_message_is_found(self, name: str, tmp_path: Path) -> None:
        with open_bag(SHARED / name, tmp_path, "humble") as bag:
            read = Counter(record.topic for record in bag.records(bag.topics))
            assert read.total() == self.COUNTS[name]
            lost = {topic for topic in bag.topics if bag.topics[topic].declared != read[topic]}
            assert bool(lost) == (name == "damaged/split5_one_missing")
            assert any(word in " ".join(bag.warnings) for word in self.WARNED.get(name, [""]))
            assert bool(bag.warnings) == (name in self.WARNED)

    def test_a_broken_page_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="malformed"), open_bag(SHARED / "damaged/db3_pageflip", tmp_path, "humble"):
            pass

    def test_a_foreign_serialization_is_refused(self, tmp_path: Path) -> None:
        with open_bag(SHARED / "rb2_wrong_rmw_mcap", tmp_path, "humble") as bag:
            assert bag.topics["/test_topic"].declared
            with pytest.raises(UserError, match="/test_topic is serialized as 'wrong_format'"):
                list(bag.records(["/test_topic"]))

    @pytest.mark.parametrize("name", ["ritsrs_all_types_mcap", "ait_images_bag", "ros1_example-bz2/example-bz2.bag"])
    def test_every_message_can_be_deserialized(self, name: str, tmp_path: Path) -> None:
        with open_bag(SHARED / name, tmp_path, "humble") as bag:
            assert deserialized(bag, bag.topics) == self.COUNTS[name]

    @pytest.mark.parametrize(
        "name", ["rb2_split5_mcap/wbag_0.mcap", "eyantra24/my_bag_0.db3", "cougars_so_mcap/SO_bag_0.mcap"]
    )
    def test_a_sound_file_gives_what_rosbags_own_reader_gives(self, name: str, tmp_path: Path) -> None:
        with Reader(SHARED / name) as reader:
            expected = [(c.topic, receive_ns, data) for c, receive_ns, data in reader.messages()]
        with open_bag(SHARED / name, tmp_path, "humble") as bag:
            found = [(topic, receive_ns, bytes(data)) for topic, receive_ns, data in bag.records(bag.topics)]
            assert sorted(found) == sorted(expected)

    @pytest.mark.parametrize("name", ["rb2_services_mcap", "rb2_bare_topics_and_services_db3/topics_and_services.db3"])
    def test_a_type_that_cannot_be_parsed_does_not_affect_other_topics(self, name: str, tmp_path: Path) -> None:
        with open_bag(SHARED / name, tmp_path, "humble") as bag:
            events = [topic for topic in bag.topics if topic.endswith("_service_event")]
            others = [topic for topic in bag.topics if topic not in events]
            assert deserialized(bag, others)
            with pytest.raises(UserError, match="_Event cannot be read: "):
                deserialized(bag, events)

    def test_no_public_bag_crashes_the_conversion(self, tmp_path: Path) -> None:
        bags = find_bags(SHARED)
        with pytest.raises(RefusedError, match=f"none of the {len(bags)} bags could be converted") as caught:
            run(SHARED, tmp_path / "out")
        assert [bag for bag, _ in caught.value.refused] == [bag.name for bag in bags]
        assert "rb2hist_file_compression" in dict(caught.value.refused), "its four parts are one bag"
        for bag, text in caught.value.refused:
            expected = {"damaged/db3_pageflip": "is malformed", "rb2_empty_db3": "is empty"}
            assert re.search(
                expected.get(bag, "has no topic /|is malformed|is empty|holds no complete message"), text
            ), bag
