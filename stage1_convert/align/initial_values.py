"""Puts the values of data.initial_values before the first messages of their streams. Pure."""

import numpy as np

from stage1_convert.align.streams import BagStreams
from stage1_convert.config import DataConfig


def with_initial_values(bag_streams: BagStreams, data: DataConfig) -> BagStreams:
    """Return the streams with a sample at the start of the bag for each initial value; its message number is -1."""
    streams = dict(bag_streams.streams)
    start_ns = np.concatenate([stream.clock.stamps_ns[:1] for stream in streams.values()]).min(keepdims=True)
    for name, value in data.initial_values.items():
        stream = streams[name]
        streams[name] = stream._replace(
            clock=stream.clock._replace(stamps_ns=np.concatenate([start_ns, stream.clock.stamps_ns])),
            numbers=np.concatenate([[-1], stream.numbers]),
            values=np.concatenate([[[value]], stream.values]),
            header_ns=np.concatenate([start_ns, stream.header_ns]),
            receive_ns=np.concatenate([start_ns, stream.receive_ns]),
        )
    return bag_streams._replace(streams=streams)
