"""Decodes the packets of a compressed video topic, in order, to one image each.

Packets are ffmpeg_image_transport's FFMPEGPacket and foxglove's CompressedVideo. Most carry only what changed, so they
are decoded one after the other; those before the first key frame carry no image.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import av
import numpy as np

from common.cli.command import UserError, one_line
from common.lerobot.images import MAX_PIXELS, Image
from stage1_convert.images.image import OTHER_TOPIC

KEY_FLAG = 1  # AV_PKT_FLAG_KEY
MAX_REORDERED = 32  # packets that B-frames may hold an image back for; H.264 and H.265 allow 16


class Codec(NamedTuple):
    """A decoder, how a NAL unit's first byte gives its type, and the types of units that need no other image."""

    name: str
    shift: int
    mask: int
    key_types: range


H264 = Codec("h264", 0, 0x1F, range(5, 6))  # ITU-T H.264, 7.4.1
H265 = Codec("hevc", 1, 0x3F, range(16, 22))  # ITU-T H.265, 7.4.2
CODECS = {"264": H264, "avc": H264, "265": H265, "hevc": H265}  # part of the name that a packet gives -> codec


def starts_video(packet: Any) -> bool:
    """Tell whether decoding can begin with this packet."""
    if hasattr(packet, "flags"):  # an FFMPEGPacket
        return bool(packet.flags & KEY_FLAG)
    codec = _codec(packet)
    units = (unit[0] for unit in packet.data.tobytes().split(b"\0\0\1")[1:] if unit)
    return any(first >> codec.shift & codec.mask in codec.key_types for first in units)


class FollowsDamageError(UserError):
    """A packet of a video that is whole, but does not decode without a damaged one before it."""


class VideoStream:
    """Decodes the packets of one topic from a key frame on; behind one that is damaged or left out it waits for the next."""

    def __init__(self) -> None:
        self._context: Any = None  # none while it waits for a key frame
        self._decoded: dict[int, Image] = {}
        self._next = self._last = -1  # the packet whose image comes next, and the one that was taken last

    def add(self, number: int, packet: Any) -> Iterator[tuple[int, Image | UserError]]:
        """Take packet `number`; yield the images that are ready, by packet, and in place of one what is wrong with it."""
        try:
            if self._context is None:
                if not starts_video(packet):
                    text = "it does not decode without the packets before it, which are left out"
                    yield number, FollowsDamageError(text)
                    return
                self._open(number, packet)
            data = packet.data.tobytes()
            if not data:
                raise UserError("the packet is empty")
            unit = av.Packet(data)
            unit.pts = unit.dts = self._last = number
            yield from self._decode(unit)
        except UserError as error:
            yield from self.damaged(number, error)

    def damaged(self, number: int, error: UserError) -> Iterator[tuple[int, Image | UserError]]:
        """Give up on packet `number` and those whose images have not come, and go on with the next key frame."""
        first = number if self._context is None else min(self._next, number)
        for held_back in range(first, number):
            yield held_back, FollowsDamageError(f"its image has not come before packet {number}, which is damaged")
        yield number, error
        self._context = None

    def end(self) -> Iterator[tuple[int, Image | UserError]]:
        """Give what is still held back, as before a packet that is left out."""
        if self._context is not None:
            try:
                yield from self._decode(None)
                if self._next <= self._last:
                    raise UserError(f"packet {self._next} gave no image")
            except UserError as error:
                yield from self.damaged(self._last, error)
            self._context = None

    def _open(self, number: int, packet: Any) -> None:
        """Begin to decode with packet `number`."""
        self._context = av.CodecContext.create(_codec(packet).name, "r")
        self._context.thread_count = 1
        self._context.options = {"err_detect": "explode", "max_pixels": str(MAX_PIXELS)}
        self._decoded, self._next = {}, number

    def _decode(self, unit: Any) -> Iterator[tuple[int, Image]]:
        """Decode a packet, None for the end of the video; yield the images that are ready, by packet, in order."""
        try:
            for frame in self._context.decode(unit):
                if frame.is_corrupt:
                    raise UserError("the packet is damaged: so is the image it decodes to")
                self._decoded[frame.pts] = np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
        except av.FFmpegError as error:
            raise UserError(f"the packet does not decode: {one_line(error)}") from error
        while self._next in self._decoded:
            yield self._next, self._decoded.pop(self._next)
            self._next += 1
        if len(self._decoded) > MAX_REORDERED:
            raise UserError(f"packet {self._next} gave no image")


def _codec(packet: Any) -> Codec:
    name = str(packet.encoding if hasattr(packet, "encoding") else packet.format)
    codec = next((codec for part, codec in CODECS.items() if part in name.lower()), None)
    if codec is None:
        raise UserError(f"video of format {name!r} is not supported; supported: h264, h265: {OTHER_TOPIC}")
    return codec
