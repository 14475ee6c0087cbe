"""Duration of an optimizer step of ACT, against its own bare operations and against ACT as it is usually written.

`python -m bench.step [--batch 4] [--size 480 640] [--rounds 3] [--profile]`, on a CPU; `python -m bench.gpu` measures a GPU.
"""

import copy
import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from bench.bars import cpu_seconds, has_bf16, print_bar
from bench.plain import plain_act, plain_step
from common.act.config import ActConfig
from common.act.network import Act
from common.cli.command import Parser, run
from common.storage.allocator import keep_freed_memory
from stage2_train.config import TrainingConfig
from stage2_train.loss import act_loss
from stage2_train.optimizer import Optimizer

STATE = ACTION = 6
# The operations that do the arithmetic. Everything else in a step, copies, additions, masks, Python, is overhead.
ATTENTION = ("flash_attention_for_cpu", "flash_attention", "efficient_attention")
WITH_BACKWARD: tuple[str, ...] = ("convolution", "native_layer_norm", "max_pool2d_with_indices")
WITH_BACKWARD += tuple(f"_scaled_dot_product_{kind}" for kind in ATTENTION)
PRIMITIVES = {
    *WITH_BACKWARD,
    *(f"{name}_backward" for name in WITH_BACKWARD),
    *("mm", "addmm", "bmm", "baddbmm", "_softmax", "_softmax_backward_data", "mkldnn_max_pool2d"),
    *("relu_", "threshold_backward", "_fused_adamw_"),
}


class Record(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records every primitive that runs, with the tensors it ran on."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        """Record an operation and run it."""
        if func.overloadpacket.__name__ in PRIMITIVES:
            self.calls.append((func, args, kwargs or {}))
        return func(*args, **(kwargs or {}))

    def replay(self) -> None:
        """Run the recorded primitives again, and nothing else."""
        with torch.no_grad():
            for func, args, kwargs in self.calls:
                func(*args, **kwargs)


def random_inputs(batch: int, size: Sequence[int], chunk: int) -> list[Any]:
    """Return state, images, actions, padding and noise, normalized."""
    image = torch.randn(batch, *size, 3).permute(0, 3, 1, 2)  # channels last, as the loader gives it
    is_pad = torch.arange(chunk).expand(batch, -1) >= chunk - 10
    action = torch.randn(batch, chunk, ACTION)
    return [torch.randn(batch, STATE), [image], action, is_pad, torch.randn(batch, 32)]


def trainer_step(act: Act, inputs: list[Any], amp: bool) -> Callable[[], object]:
    """Return one step as the trainer does it."""
    network = copy.deepcopy(act)
    optimizer = Optimizer(network, TrainingConfig())

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=amp):
            output = network(*inputs)
        optimizer.backward(act_loss(output, inputs[2], inputs[3], 10.0).total)
        optimizer.step(0)

    return step


def bare_step(act: Act, inputs: list[Any], amp: bool) -> Callable[[], object]:
    """Return the primitives of the trainer's step, without the rest of it."""
    step, record = trainer_step(act, inputs, amp), Record()
    step()
    with record:
        step()
    return record.replay


def _require_same_output(act: Act, inputs: list[Any]) -> None:
    """Check that the baseline computes the same function, without which the comparison would mean nothing."""
    network, plain = copy.deepcopy(act).eval(), plain_act(act).eval()
    with torch.no_grad():
        torch.testing.assert_close(network(*inputs)[0], plain(*inputs)[0], atol=1e-4, rtol=1e-4)


def _profile(step: Callable[[], object]) -> None:
    from torch.profiler import ProfilerActivity, profile

    step()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        step()
    print(profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=16, max_name_column_width=44))


def main(argv: Sequence[str] | None = None) -> int:
    """Time all sides in turn and print the bars."""
    parser = Parser("python -m bench.step", description=__doc__)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--size", type=int, nargs=2, default=[480, 640])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--profile", action="store_true", help="show where a step's time goes instead")
    flags = parser.parse_args(argv)
    logging.getLogger().setLevel(logging.WARNING)
    torch.manual_seed(0)
    keep_freed_memory()  # as the trainer does
    torch.set_num_threads(1)  # CPU time then does not depend on how busy the machine is
    act = Act(ActConfig(), STATE, ACTION, n_cameras=1).train()
    inputs = random_inputs(flags.batch, flags.size, act.config.chunk_size)
    if flags.profile:
        _profile(trainer_step(act, inputs, amp=False))
        return 0
    _require_same_output(act, inputs)
    contiguous = [inputs[0], [image.contiguous() for image in inputs[1]], *inputs[2:]]
    sides = [trainer_step(act, inputs, False), bare_step(act, inputs, False), plain_step(act, lambda: contiguous)]
    sides += [trainer_step(act, inputs, True), bare_step(act, inputs, True)] if has_bf16() else []
    for side in sides:
        side()
    step_s, bare_s, plain_s, *half = cpu_seconds(sides, flags.rounds)
    print(f"float32: step {step_s:.3f} s, bare {bare_s:.3f} s, plain {plain_s:.3f} s")
    print_bar("step", "bare primitives / step in fp32 >= 0.85", bare_s / step_s, bare_s / step_s >= 0.85)
    print_bar("step", "plain / step in fp32 >= 1", plain_s / step_s, plain_s >= step_s)
    if half:
        half_s, half_bare_s = half
        print(f"bfloat16: step {half_s:.3f} s, bare {half_bare_s:.3f} s")
        print_bar("step", "plain in fp32 / step in bf16 >= 1.6", plain_s / half_s, plain_s / half_s >= 1.6)
    else:
        print("bfloat16: not on this CPU, which only emulates it")
    return 0


if __name__ == "__main__":
    run(main)
