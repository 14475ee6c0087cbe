"""A ROS 2 node that drives a robot with a trained policy; it only prints its commands unless dry_run is false.

python examples/ros2_node.py --ros-args -p policy:=/output/train -p dataset:=/data/lerobot -p drive:=drive.yaml

It subscribes to the topics that the dataset was converted from and answers a tick of the dataset's frame rate once its delay
has passed, by the rules of the conversion. docs/on-the-robot.md says what it refuses and how to begin.
"""

import os
import threading
from pathlib import Path
from typing import Any

import rclpy
from builtin_interfaces.msg import Duration
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.executors import ExternalShutdownException, MultiThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rosidl_runtime_py.utilities import get_message
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from common.cli.command import UserError
from common.cli.config import load
from common.policy import Policy
from stage1_convert.bags.bag import Topic
from stage1_convert.bags.message_files import read_message_files
from stage1_convert.dataset.record import read_record
from stage1_convert.live.drive import CommandTopic, DriveConfig, Driver
from stage1_convert.live.observe import LiveStreams, Refusal
from stage1_convert.live.rules import LiveRules, RobotTopics

KINDS = {"trajectory": JointTrajectory, "array": Float64MultiArray}
DEPTH = 100  # messages that may wait while one is taken
SECOND_NS = 1_000_000_000


class PolicyNode(Node):  # type: ignore[misc]
    """Subscribes, waits until every stream has come, then answers ticks: by commands, or by a line that says why not."""

    def __init__(self) -> None:
        super().__init__("bag2act")
        settings = {"policy": "", "dataset": "", "drive": "", "bag": "", "device": "cpu", "dry_run": True}
        values = {name: self.declare_parameter(name, default).value for name, default in settings.items()}
        self.dry_run = bool(values["dry_run"])
        self.drive = load(DriveConfig, Path(values["drive"]))
        record = read_record(Path(values["dataset"]))
        if record is None:
            raise UserError(
                f"{values['dataset']} holds no meta/conversion.json of this version: convert the bags again"
            )
        self.rules = LiveRules.of(record, values["bag"] or None)
        self.fps = self.rules.config.data.fps
        self.delay_ns = round(self.drive.delay_ms * 1e6)
        self.driver = Driver(Policy.load(values["policy"], values["device"]), self.rules.config, self.drive)
        self.lock = threading.Lock()  # messages are taken while the network runs
        self.messages, self.ticking = MutuallyExclusiveCallbackGroup(), MutuallyExclusiveCallbackGroup()
        self.timer = self.create_timer(0.5, self._connect, callback_group=self.ticking)

    def _connect(self) -> None:
        """Wait until the robot publishes every topic, then subscribe to them."""
        topics = {name: Topic(types[0], 1) for name, types in self.get_topic_names_and_types()}
        data = self.rules.config.data
        distro, files = os.environ.get("ROS_DISTRO", data.ros_distro), read_message_files(tuple(data.msg_paths))
        try:
            self.live = LiveStreams(self.rules, RobotTopics(topics, distro, files))
        except UserError as error:
            self.get_logger().warning(f"waiting: the robot {error}", throttle_duration_sec=5.0)
            return
        self.timer.cancel()
        for topic in sorted(self.live.topics):
            self._subscribe(topic, topics[topic].type)
        commands = {} if self.dry_run else self.drive.commands
        self.outputs = {topic: self.create_publisher(KINDS[out.kind], topic, 10) for topic, out in commands.items()}
        self.timer = self.create_timer(0.1, self._begin, callback_group=self.ticking)

    def _subscribe(self, topic: str, msgtype: str) -> None:
        """Subscribe with what all publishers of a topic offer: reliable, and latched messages, where they are."""
        offers = [info.qos_profile for info in self.get_publishers_info_by_topic(topic)]
        reliable = all(offer.reliability == ReliabilityPolicy.RELIABLE for offer in offers)
        latched = bool(offers) and all(offer.durability == DurabilityPolicy.TRANSIENT_LOCAL for offer in offers)
        quality = QoSProfile(
            depth=DEPTH,
            reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
            durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
        )

        def take(data: bytes) -> None:
            with self.lock:
                self.live.add(topic, self._now_ns(), data)

        self.create_subscription(get_message(msgtype), topic, take, quality, raw=True, callback_group=self.messages)

    def _now_ns(self) -> int:
        return int(self.get_clock().now().nanoseconds)

    def _begin(self) -> None:
        """Wait until every stream has come; then begin the grid where the camera's images are half a period old."""
        with self.lock:
            first_ns = self.live.first_tick_ns(self._now_ns() - self.delay_ns)
        if first_ns is None:
            self.get_logger().warning("waiting for a message of every stream", throttle_duration_sec=2.0)
            return
        self.timer.cancel()
        wait_s = (first_ns + self.delay_ns - self._now_ns()) / SECOND_NS
        self.timer = self.create_timer(max(wait_s, 0.001), self._start, callback_group=self.ticking)

    def _start(self) -> None:
        self.timer.cancel()
        self.get_logger().info("dry run: nothing is published" if self.dry_run else "the policy drives the robot")
        self.timer = self.create_timer(1 / self.fps, self._tick, callback_group=self.ticking)

    def _tick(self) -> None:
        """Answer the tick whose delay has passed now."""
        with self.lock:
            seen, current = self.live.observe(self._now_ns() - self.delay_ns), self.live.newest()
        step = self.driver.step(seen, current)
        if isinstance(step, Refusal):
            why = "; ".join(f"{stream}: {reason}" for stream, reason in step.reasons.items())
            self.get_logger().warning(f"no command: {why}", throttle_duration_sec=1.0)
            return
        if step.limited:
            self.get_logger().warning(f"speed limit: {', '.join(step.limited)}", throttle_duration_sec=1.0)
        if self.dry_run:
            self.get_logger().info(str({name: round(value, 4) for name, value in step.targets.items()}))
        for topic, output in self.outputs.items():
            output.publish(self._message(self.drive.commands[topic], step.targets))

    def _message(self, command: CommandTopic, targets: dict[str, float]) -> Any:
        positions = [targets[name] for name in command.names]
        if command.kind == "array":
            return Float64MultiArray(data=positions)
        point = JointTrajectoryPoint(positions=positions)
        seconds, nanoseconds = divmod(SECOND_NS // self.fps, SECOND_NS)
        point.time_from_start = Duration(sec=seconds, nanosec=nanoseconds)
        return JointTrajectory(joint_names=list(command.names), points=[point])


def main() -> None:
    """Run the node until Ctrl-C."""
    rclpy.init()
    executor = MultiThreadedExecutor(num_threads=3)
    try:
        node = PolicyNode()
        executor.add_node(node)
        executor.spin()
    except UserError as error:
        raise SystemExit(f"error: {error}") from error
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        rclpy.try_shutdown()


if __name__ == "__main__":
    main()
