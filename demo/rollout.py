"""Lets a trained policy drive the simulated cell in closed loop: prints a table, writes rollouts.json, rollout.png and a film.

The policy sees images and joint angles only; its images are as old as those of the recordings. Its targets come from a
stream of random numbers that recordings never draw from (see demo.expert), so none of them is in the training data.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from common.cli.command import Parser, UserError, run
from common.lerobot.metadata import STATE, image_key
from common.policy import Policy
from common.storage.files import write_file, write_json
from demo.arm import JOINT_NAMES, Array, tool_position
from demo.expert import ROLLOUT_STREAM, Task, hover_point, picture, sample_task, task_rng
from demo.film import write_film
from demo.record import CAMERA_LATENCY_S
from demo.scene import CELLS, HEIGHT_PX, WIDTH_PX, Image

DEFAULT_FPS = 30
ROLLOUT_S = 2.5
SUCCESS_M = 0.03
SETTLED_STEPS = 5  # the final distance is the mean over these last steps, so that passing the target does not count

STRIP_ROLLOUTS, STRIP_TIMES = 4, 6
FILMED_ROLLOUTS = 4
STRIP_TILE_PX = 192  # least height of a tile of the strip
CAPTION_PX = 20


@dataclass(frozen=True)
class Rollouts:
    """The motion of the arm in N tasks: joint angles (N, steps + 1, 6), the start included, at `fps` per second."""

    tasks: list[Task]
    joints: Array
    fps: int

    @property
    def distances_m(self) -> Array:
        """Distance of the tool tip from the hover point, (N, steps + 1)."""
        goals = hover_point(np.stack([task.target_xy_m for task in self.tasks]))
        distances: Array = np.linalg.norm(tool_position(self.joints) - goals[:, None], axis=-1)
        return distances

    @property
    def final_m(self) -> Array:
        """Mean distance over the last SETTLED_STEPS steps, (N,)."""
        final: Array = self.distances_m[:, -SETTLED_STEPS:].mean(axis=1)
        return final

    @property
    def successes(self) -> int:
        """Number of tasks that ended within SUCCESS_M of the hover point."""
        return int(np.count_nonzero(self.final_m <= SUCCESS_M))


def held_out_tasks(seed: int, count: int, cell: str = "front") -> list[Task]:
    """Draw `count` tasks from the random stream of the rollouts."""
    return [sample_task(task_rng(seed, ROLLOUT_STREAM, index), CELLS[cell]) for index in range(count)]


def rollout(policy: Policy, tasks: Sequence[Task]) -> Rollouts:
    """Drive the simulated arm with the policy for ROLLOUT_S seconds, all tasks as one batch.

    An image shows the arm CAMERA_LATENCY_S before the joint angles that come with it: what a live camera gives, and about
    what the dataset's frames pair. Between two steps the joints turn steadily.

    Raises UserError when the policy is for another robot or the meaning of its actions is unknown.
    """
    _require_fit(policy)
    order = [JOINT_NAMES.index(name) for name in policy.joint_names]
    fps = policy.fps or DEFAULT_FPS
    joints = np.stack([task.start for task in tasks])
    steps = [joints]
    policy.reset()
    for _ in range(round(ROLLOUT_S * fps)):
        lag = min(CAMERA_LATENCY_S * fps, 1.0)  # of a step
        filmed = joints - lag * (joints - steps[-2]) if len(steps) > 1 else joints
        action = policy.select_action(_observe(policy, order, joints, filmed, tasks)).detach().cpu().numpy()
        joints = joints.copy()
        joints[:, order] = action + (joints[:, order] if policy.action_meaning == "delta" else 0.0)
        steps.append(joints)
    return Rollouts(list(tasks), np.stack(steps, axis=1), fps)


def describe(rollouts: Rollouts) -> str:
    """Return the table to print: a line per target and the number of successes."""
    lines = [" target     x cm     y cm   start cm   final cm   closest cm"]
    for index, (task, distances_m, final_m) in enumerate(
        zip(rollouts.tasks, rollouts.distances_m, rollouts.final_m, strict=True)
    ):
        x_cm, y_cm = task.target_xy_m * 100
        start_cm, closest_cm = distances_m[0] * 100, distances_m.min() * 100
        lines.append(f"{index:7d} {x_cm:8.1f} {y_cm:8.1f} {start_cm:10.1f} {final_m * 100:10.1f} {closest_cm:12.1f}")
    return "\n".join([*lines, f"{rollouts.successes} of {len(rollouts.tasks)} within {SUCCESS_M * 100:.0f} cm"])


def to_json(rollouts: Rollouts) -> list[dict[str, Any]]:
    """Return one JSON record per rollout, in meters and radians."""
    return [
        {
            "target_xy_m": task.target_xy_m.tolist(),
            "start_joints": dict(zip(JOINT_NAMES, task.start.tolist(), strict=True)),
            "start_distance_m": float(distances_m[0]),
            "final_distance_m": float(final_m),
            "closest_distance_m": float(distances_m.min()),
            "success": bool(final_m <= SUCCESS_M),
        }
        for task, distances_m, final_m in zip(rollouts.tasks, rollouts.distances_m, rollouts.final_m, strict=True)
    ]


def draw_strip(rollouts: Rollouts, height_px: int = HEIGHT_PX, width_px: int = WIDTH_PX) -> Image:
    """Return an RGB image of the first rollouts as the policy saw them: one per row, time from left to right."""
    steps = np.linspace(0, rollouts.joints.shape[1] - 1, STRIP_TIMES).round().astype(int)
    distances_m = rollouts.distances_m
    rows = []
    for index, task in enumerate(rollouts.tasks[:STRIP_ROLLOUTS]):
        tiles = []
        for step in steps:
            image = picture(task, rollouts.joints[index, step], height_px, width_px)
            caption = f"target {index}  {step / rollouts.fps:.1f} s  {distances_m[index, step] * 100:.1f} cm"
            tiles.append(_tile(image, caption))
        rows.append(np.concatenate(tiles, axis=1))
    return np.concatenate(rows)


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, roll out, print and save."""
    parser = Parser(prog="python -m demo.rollout", description="Let a trained policy drive the simulated cell.")
    parser.add_argument("--checkpoint", type=Path, required=True, help="pretrained_model folder")
    parser.add_argument("--targets", type=int, default=20, help="number of held-out targets (%(default)s)")
    parser.add_argument("--seed", type=int, default=1000, help="determines targets and starts (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("rollouts"), help="folder for the results (%(default)s)")
    parser.add_argument("--untrained", action="store_true", help="use random weights, for comparison")
    parser.add_argument("--cell", choices=CELLS, default="front", help="the cell of the recordings (%(default)s)")
    args = parser.parse_args(argv)
    if args.targets < 1 or args.seed < 0:
        raise UserError(f"--targets {args.targets} --seed {args.seed}: expected at least 1 and 0")
    policy = Policy.load(args.checkpoint, device="cpu")
    untrained, tasks = policy.with_random_weights(args.seed), held_out_tasks(args.seed, args.targets, args.cell)
    policy = untrained if args.untrained else policy
    rollouts = rollout(policy, tasks)
    print(describe(rollouts))
    args.out.mkdir(parents=True, exist_ok=True)
    summary = {"seed": args.seed, "untrained": args.untrained, "fps": rollouts.fps, "success_m": SUCCESS_M}
    counts = {"targets": args.targets, "successes": rollouts.successes}
    write_json(args.out / "rollouts.json", {**summary, **counts, "rollouts": to_json(rollouts)})
    height_px, width_px, _ = next(iter(policy.cameras.values()), (HEIGHT_PX, WIDTH_PX, 3))
    write_file(args.out / "rollout.png", _png(draw_strip(rollouts, height_px, width_px)))
    if not args.untrained:
        write_film(args.out, rollouts, rollout(untrained, tasks[:FILMED_ROLLOUTS]), SUCCESS_M)
    print(f"the results are in {args.out}")
    return 0


def _require_fit(policy: Policy) -> None:
    if sorted(policy.joint_names) != sorted(JOINT_NAMES):
        raise UserError(
            f"the policy moves the joints {', '.join(policy.joint_names)}; those of this cell are {', '.join(JOINT_NAMES)}"
        )
    if policy.action_meaning not in ("delta", "next_position"):
        raise UserError(
            f"the meaning of the policy's actions is {policy.action_meaning!r}: the cell supports delta and next_position; "
            "give a checkpoint whose train_config.json states one of them"
        )


def _observe(
    policy: Policy, order: list[int], joints: Array, filmed: Array, tasks: Sequence[Task]
) -> dict[str, Tensor]:
    """Return the observations of all tasks: the joint angles, and images of the arm as it was `filmed`, (tasks, 6) each."""
    observation = {STATE: torch.from_numpy(joints[:, order].astype(np.float32))}
    for camera, (height_px, width_px, _) in policy.cameras.items():
        images = [picture(task, q, height_px, width_px) for q, task in zip(filmed, tasks, strict=True)]
        observation[image_key(camera)] = torch.from_numpy(np.stack(images))
    return observation


def _tile(image: Image, caption: str) -> Image:
    """Enlarge an image by an integer factor and write the caption below it."""
    scale = -(-STRIP_TILE_PX // image.shape[0])
    enlarged = image.repeat(scale, axis=0).repeat(scale, axis=1)
    tile = np.pad(enlarged, ((0, CAPTION_PX), (0, 4), (0, 0)), constant_values=255)
    position = (4, tile.shape[0] - 6)
    cv2.putText(tile, caption, position, cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 1, cv2.LINE_AA)
    return tile


def _png(image: Image) -> bytes:
    _, encoded = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    return encoded.tobytes()


if __name__ == "__main__":
    run(main)
