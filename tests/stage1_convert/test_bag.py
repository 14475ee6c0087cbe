"""Finding and opening bags, also in odd shapes."""

import shutil
import sqlite3
from pathlib import Path

import pytest

from common.command import UserError
from stage1_convert.bag import open_bag
from stage1_convert.convert import RefusedError
from stage1_convert.source import find_bags
from tests.stage1_convert.conversion import run
from tests.stage1_convert.recording import JOINT_TOPIC, JPEG_TOPIC, Recording, Storage, cell

SHARED = Path(__file__).parents[2].parent / "shared" / "bags"


def stamps(path: Path, scratch: Path, topics: tuple[str, ...] = (JOINT_TOPIC, JPEG_TOPIC)) -> list[int]:
    """Return the receive times of a bag's messages."""
    with open_bag(path, scratch, "humble") as bag:
        return [message.receive_ns for message in bag.messages(topics)]


def test_bags_are_found_at_any_depth_in_the_order_of_their_names(tmp_path: Path) -> None:
    cell(seconds=0.1).write(tmp_path / "b" / "c" / "one")
    cell(seconds=0.1).write(tmp_path / "a" / "two")
    cell(seconds=0.1).write(tmp_path / "a-1")
    bare = cell(seconds=0.1).write(tmp_path / "elsewhere") / "elsewhere.mcap"
    shutil.copy(bare, tmp_path / "a" / "bare.mcap")
    shutil.copy(bare, tmp_path / "a" / ".hidden.mcap")
    (tmp_path / "b" / "metadata.yaml").write_text("title: holiday pictures")
    (tmp_path / "b" / "loop").symlink_to(tmp_path / "b")
    assert [source.name for source in find_bags(tmp_path)] == ["a-1", "a/bare.mcap", "a/two", "b/c/one", "elsewhere"]


def test_a_bag_folder_given_as_the_source_is_named_after_itself(tmp_path: Path) -> None:
    cell(seconds=0.1).write(tmp_path / "episode_7")
    assert [source.name for source in find_bags(tmp_path / "episode_7")] == ["episode_7"]


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_a_bare_storage_file_gives_the_same_messages_as_its_folder(tmp_path: Path, storage: Storage) -> None:
    bag = cell().write(tmp_path / "bag", storage)
    (file,) = [path for path in bag.iterdir() if path.name != "metadata.yaml"]
    assert len(stamps(bag, tmp_path)) == 195
    assert stamps(file, tmp_path) == stamps(bag, tmp_path)


def split(recording: Recording, folder: Path, cut: int, pictures: int) -> Path:
    """Write a recording as two files of one bag, cut before these messages; the later file is listed first."""
    late, early = Recording(), Recording()
    late.joints, early.joints = recording.joints[cut:], recording.joints[:cut]
    late.pictures, early.pictures = recording.pictures[pictures:], recording.pictures[:pictures]
    first = late.write(folder / "late")
    second = early.write(folder / "early")
    shutil.move(second / "early.mcap", first / "part_1.mcap")
    metadata = first / "metadata.yaml"
    metadata.write_text(metadata.read_text().replace("- late.mcap", "- late.mcap\n  - part_1.mcap"))
    return first


@pytest.mark.parametrize("pictures", [18, 45], ids=["one after the other", "overlapping"])
def test_the_parts_of_a_split_bag_are_read_in_the_order_of_time(tmp_path: Path, pictures: int) -> None:
    bag = split(cell(), tmp_path, 60, pictures)
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


def test_messages_that_stand_only_in_a_write_ahead_log_are_not_lost_silently(tmp_path: Path) -> None:
    bag = cell().write(tmp_path / "bag", "sqlite3")
    (bag / "bag.db3-wal").write_bytes(bytes(4096))
    with pytest.raises(UserError, match=r"bag\.db3-wal .* wal_checkpoint"), open_bag(bag, tmp_path, "humble"):
        pass


def test_a_damaged_message_is_one_clear_line(tmp_path: Path) -> None:
    bag = cell().write(tmp_path / "bag", "sqlite3")
    with sqlite3.connect(bag / "bag.db3") as database:
        database.execute("UPDATE messages SET data = substr(data, 1, 40) WHERE id = 80")
    with pytest.raises(UserError, match="cannot be read: "):
        stamps(bag, tmp_path)


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/bags (real public bags)")
class TestPublicBags:
    """Real recordings by others: whatever is in them, reading ends well or in one clear line."""

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
        "damaged/db3_meta_missing/talker.db3": 20,
        "damaged/mcap_meta_garbage": 20,
        "damaged/split5_one_missing": 4834,
    }
    REFUSED = ("damaged/so_nofooter", "damaged/db3_wal_only/wbag_0.db3", "damaged/db3_pageflip")

    @pytest.mark.parametrize("name", COUNTS)
    def test_every_message_is_found(self, name: str, tmp_path: Path) -> None:
        with open_bag(SHARED / name, tmp_path, "humble") as bag:
            assert sum(1 for _ in bag._raw(bag.topics)) == self.COUNTS[name]

    @pytest.mark.parametrize("name", REFUSED)
    def test_what_cannot_be_read_whole_is_refused(self, name: str, tmp_path: Path) -> None:
        with pytest.raises(UserError), open_bag(SHARED / name, tmp_path, "humble"):
            pass

    def test_no_public_bag_crashes_the_conversion(self, tmp_path: Path) -> None:
        with pytest.raises(RefusedError, match="none of the 24 bags could be converted") as caught:
            run(SHARED, tmp_path / "out")
        for bag, text in caught.value.refused:
            assert "has no topic /joint_states" in text or bag in self.REFUSED
