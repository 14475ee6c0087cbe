"""Chooses the rosbags typestore that deserializes the messages of a type.

Its definition is the bag's, else that of a .msg file of data.msg_paths, else that of a ROS 2 distro.
"""

import functools
import struct

from rosbags.interfaces import MessageDefinition, MessageDefinitionFormat
from rosbags.interfaces.typing import Typesdict
from rosbags.serde import SerdeError
from rosbags.typesys import Stores, TypesysError, get_types_from_idl, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from common.cli.command import UserError, one_line
from stage1_convert.bags.message_files import MessageFile, find_text, referenced_types
from stage1_convert.bags.storage import DAMAGED, Bytes

HEADER = "std_msgs/msg/Header"
FFMPEG, FOXGLOVE = "ffmpeg_image_transport_msgs/msg/FFMPEGPacket", "foxglove_msgs/msg/CompressedVideo"
VIDEO_TYPES = (FFMPEG, FOXGLOVE)
IMAGE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage", *VIDEO_TYPES)
# Types outside the ROS distributions that older .db3 bags hold without defining them.
FOREIGN = {
    FFMPEG: "std_msgs/Header header\nint32 width\nint32 height\n"
    "string encoding\nuint64 pts\nuint8 flags\nbool is_bigendian\nuint8[] data\n",
    FOXGLOVE: "builtin_interfaces/Time timestamp\nstring frame_id\nuint8[] data\nstring format\n",
}
IDL_SEPARATOR = "=" * 80 + "\n"


@functools.cache
def typestore(
    msgtype: str, definition: MessageDefinition, distro: str = "humble", files: tuple[MessageFile, ...] = ()
) -> Typestore:
    """Return a typestore with `msgtype`: as the bag defines it, else as one of `files` or the ROS 2 `distro` does.

    Raises UserError when none of them does.
    """
    known = _known(distro)
    try:
        carried = _parse(msgtype, definition)
        if msgtype in carried:
            types = get_typestore(Stores.EMPTY)
            # ROS 1 has a `seq` in its headers, which rosbags leaves out on the way to CDR.
            types.register(carried | {HEADER: known.fielddefs[HEADER]})
            types.get_msgdef(msgtype)
            return types
        fault = "the bag carries no definition of it"
    except (TypesysError, KeyError, SyntaxError) as error:
        fault = f"the bag's definition is not understood ({one_line(error)})"
    if find_text(msgtype, files) is not None:
        return _with_files(msgtype, known, files)
    if msgtype not in known.fielddefs:
        raise UserError(
            f"messages of type {msgtype} cannot be read: {fault}, and ROS 2 {distro} has no such type; set data.msg_paths "
            f"to the folder with {msgtype.rpartition('/')[2]}.msg"
        )
    return known


def ros1_to_cdr(data: Bytes, msgtype: str, definition: MessageDefinition) -> bytes:
    """Return a serialized message of ROS 1 in the CDR form of ROS 2, DAMAGED for one that does not convert.

    `definition` is the one that its bag carries. Raises UserError when it is not understood.
    """
    types = typestore(msgtype, definition)
    try:
        return bytes(types.ros1_to_cdr(bytes(data), msgtype))
    except (SerdeError, struct.error, ValueError, IndexError, OverflowError):
        return DAMAGED


@functools.cache
def _known(distro: str) -> Typestore:
    types = get_typestore(Stores(f"ros2_{distro}"))
    for msgtype, text in FOREIGN.items():
        types.register(get_types_from_msg(text, msgtype))
    return types


def _with_files(msgtype: str, known: Typestore, files: tuple[MessageFile, ...]) -> Typestore:
    """Return a typestore with `msgtype` and the types within it as `files` define them, and with those of `known`."""
    defined: Typesdict = {}
    waiting = [msgtype]
    while waiting:
        wanted = waiting.pop()
        text = find_text(wanted, files)
        if wanted in defined or (text is None and wanted in known.fielddefs):
            continue
        if text is None:
            raise UserError(
                f"messages of type {msgtype} cannot be read: {wanted}, which is part of them, is in no .msg file; add its "
                "folder to data.msg_paths"
            )
        try:
            defined[wanted] = get_types_from_msg(text, wanted)[wanted]
        except (TypesysError, KeyError, SyntaxError) as error:
            raise UserError(
                f"data.msg_paths: the .msg file of {wanted} is not understood ({one_line(error)})"
            ) from error
        waiting += referenced_types(defined[wanted][1])
    types = get_typestore(Stores.EMPTY)
    types.register(known.fielddefs | defined)
    return types


def _parse(msgtype: str, definition: MessageDefinition) -> Typesdict:
    if definition.format is MessageDefinitionFormat.MSG:
        return get_types_from_msg(definition.data, msgtype)
    types: Typesdict = {}
    if definition.format is MessageDefinitionFormat.IDL:
        for part in definition.data.split(IDL_SEPARATOR):
            text = part.split("\n", 1)[1] if part.startswith("IDL: ") else part
            if text.strip():
                types |= get_types_from_idl(text)
    return types
