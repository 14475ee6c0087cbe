"""The second reading gives each sample its own image, of messages and of video packets, and decodes no others."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from common.cli.command import UserError
from common.cli.config import load
from stage1_convert.bags.bag import Bag, open_bag
from stage1_convert.bags.message_types import FFMPEG, FOXGLOVE
from stage1_convert.config import Config
from stage1_convert.images.image import CameraImage
from stage1_convert.images.video_topic import FollowsDamageError, starts_video
from stage1_convert.pipeline.camera import read_images
from stage1_convert.streams.bad_messages import BadMessage
from stage1_convert.streams.reader import read_streams
from stage1_convert.streams.stream import BagStreams, Stream, without
from tests.stage1_convert.images.video import packets, write_video_bag
from tests.stage1_convert.recording import JPEG_TOPIC, RAW_TOPIC, START_NS, cell, compressed_image, number_in

ONE_JOINT = "conventions.joint_order=[a]"


class Camera:
    """The camera of an open bag."""

    def __init__(self, bag: Bag, bag_streams: BagStreams) -> None:
        self.bag, self._bag_streams = bag, bag_streams
        self.stream: Stream = bag_streams.streams["color"]

    def numbers(self, every: int = 1) -> list[tuple[int, int]]:
        """Return (sample, number drawn into its image) of every n-th sample."""
        needed = np.arange(len(self.stream.numbers)) % every == 0
        found: list[tuple[int, int]] = []
        for camera, sample, image in read_images(self.bag, self._bag_streams, {"color": needed}, Config().data):
            assert camera == "color"
            if isinstance(image, UserError):
                raise image
            found.append((sample, number_in(image.rgb())))
        return found

    def faults(self) -> dict[int, UserError]:
        """Return what is wrong with each sample that gives no image."""
        needed = {"color": np.ones(len(self.stream.numbers), np.bool_)}
        images = read_images(self.bag, self._bag_streams, needed, Config().data)
        return {sample: image for _, sample, image in images if isinstance(image, UserError)}

    def without(self, faults: dict[int, UserError]) -> "Camera":
        """Return the camera without the samples with a fault."""
        bad = [BadMessage(int(self.stream.numbers[sample]), 0, str(fault)) for sample, fault in faults.items()]
        return Camera(self.bag, without(self._bag_streams, {"color": bad}, load(Config, None, [ONE_JOINT])))


@contextmanager
def opened(path: Path, *overrides: str) -> Iterator[Camera]:
    with open_bag(path, path.parent, "humble") as bag:
        yield Camera(bag, read_streams(bag, load(Config, None, overrides), starts_video))


@pytest.mark.parametrize("msgtype", [FFMPEG, FOXGLOVE])
@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_every_packet_of_a_video_gives_its_own_image(tmp_path: Path, msgtype: str, codec: str) -> None:
    path = write_video_bag(tmp_path / "bag", msgtype, codec, packets(codec, 25), defined=codec == "libx264")
    with opened(path, ONE_JOINT) as camera:
        assert camera.numbers() == [(n, n) for n in range(25)]
        assert camera.numbers(4) == [(n, n) for n in range(0, 25, 4)]
        assert camera.stream.clock.source == "header"
        assert not camera.bag.warnings


def test_images_that_were_sent_out_of_order_go_with_their_own_packets(tmp_path: Path) -> None:
    stream = packets("libx264", 25, b_frames=2)
    order = [packet.number for packet in stream]
    assert order != sorted(order)
    with opened(write_video_bag(tmp_path / "bag", FOXGLOVE, "libx264", stream), ONE_JOINT) as camera:
        assert camera.numbers() == list(enumerate(order))


@pytest.mark.parametrize("msgtype", [FFMPEG, FOXGLOVE])
def test_packets_before_the_first_key_frame_carry_no_image_and_are_reported(tmp_path: Path, msgtype: str) -> None:
    stream = packets("libx264", 25)[4:]  # the recorder was started in the middle; the next key frame is the tenth
    with opened(write_video_bag(tmp_path / "bag", msgtype, "libx264", stream), ONE_JOINT) as camera:
        assert camera.numbers() == [(n, n + 10) for n in range(15)]
        assert camera.stream.numbers.tolist() == list(range(6, 21))
        assert camera.stream.read == 21
        assert camera.bag.warnings == [f"topic {RAW_TOPIC}: 6 packets before the first key frame carry no image"]


@pytest.mark.parametrize("b_frames", [0, 2])
@pytest.mark.parametrize("damage", [lambda data: data[:20] + bytes(40), lambda data: b""])
def test_a_damaged_packet_costs_the_images_until_the_next_key_frame(
    tmp_path: Path, b_frames: int, damage: Callable[[bytes], bytes]
) -> None:
    stream = packets("libx264", 25, b_frames)
    key = next(at for at, packet in enumerate(stream) if at > 5 and packet.is_key)
    stream[5] = stream[5]._replace(data=damage(stream[5].data))
    with opened(write_video_bag(tmp_path / "bag", FFMPEG, "libx264", stream), ONE_JOINT) as camera:
        faults = camera.faults()
        assert [sample for sample, fault in faults.items() if not isinstance(fault, FollowsDamageError)] == [5]
        assert "the packet" in str(faults[5])
        assert max(faults) == key - 1
        assert set(range(5, key)) <= set(faults)
        left = camera.without(faults)
        assert left.numbers() == [(n, stream[int(at)].number) for n, at in enumerate(left.stream.numbers)]
        assert not left.faults()


def test_only_the_images_that_frames_need_are_decoded(tmp_path: Path) -> None:
    recording = cell()
    said = recording.images[7]
    recording.images[7] = said._replace(message=compressed_image(START_NS, b"junk"))
    with opened(recording.write(tmp_path / "bag"), "data.time_source=receive") as camera:
        assert camera.numbers(2) == [(n, n) for n in range(0, 45, 2)]
        with pytest.raises(UserError, match="the image is neither"):
            camera.numbers(7)


def test_trusted_images_are_not_decoded(tmp_path: Path) -> None:
    with open_bag(cell().write(tmp_path / "bag"), tmp_path, "humble") as bag:
        bag_streams = read_streams(bag, load(Config, None, []), starts_video)
        needed = {"color": np.ones(45, np.bool_)}
        images = [image for _, _, image in read_images(bag, bag_streams, needed, Config().data)]
    assert len(images) == 45
    assert all(isinstance(image, CameraImage) and image.file and image.pixels is None for image in images)
    assert bag_streams.streams["color"].topic == JPEG_TOPIC


def test_an_encoding_for_a_video_is_refused(tmp_path: Path) -> None:
    path = write_video_bag(tmp_path / "bag", FFMPEG, "libx264", packets("libx264", 5))
    config = load(Config, None, [ONE_JOINT, "data.encodings={color: bgr8}"])
    with open_bag(path, tmp_path, "humble") as bag:
        images = read_images(bag, read_streams(bag, config, starts_video), {"color": np.ones(5, np.bool_)}, config.data)
        with pytest.raises(UserError, match=r"data.encodings={color: bgr8} cannot describe the video .*; remove it"):
            next(images)
