"""How long an optimizer step of ACT takes, against its own bare operations and against ACT as it is usually written.

`python -m bench.step [--batch 4] [--size 480 640] [--rounds 3] [--profile]`; on CUDA as well: `--device cuda`.
"""

import copy
import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from bench.bars import cpu_seconds, print_bar, seconds
from bench.plain import PlainAct
from common.act.network import Act, ActConfig
from common.cli.command import Parser, run
from stage2_train.config import TrainingConfig
from stage2_train.loss import act_loss
from stage2_train.optimizer import Optimizer
from stage2_train.train import keep_freed_memory

STATE = ACTION = 6
# The operations that do the arithmetic. Whatever else a step does, copies, additions, masks, Python, is on top of them.
PRIMITIVES = (
    *("convolution", "convolution_backward", "mm", "addmm", "bmm", "baddbmm", "native_layer_norm", "_softmax"),
    *(
        "native_layer_norm_backward",
        "_softmax_backward_data",
        "max_pool2d_with_indices",
        "max_pool2d_with_indices_backward",
    ),
    *("_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_flash_attention_for_cpu_backward"),
    *("_scaled_dot_product_flash_attention", "_scaled_dot_product_flash_attention_backward"),
    *("_scaled_dot_product_efficient_attention", "_scaled_dot_product_efficient_attention_backward"),
    *("mkldnn_max_pool2d", "_fused_adamw_", "relu_", "threshold_backward"),
)


class Record(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Keeps every primitive that runs, with the very tensors it ran on."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        """Note an operation and run it."""
        if func.overloadpacket.__name__ in PRIMITIVES:
            self.calls.append((func, args, kwargs or {}))
        return func(*args, **(kwargs or {}))

    def replay(self) -> None:
        """Run them all once more, and nothing else."""
        with torch.no_grad():
            for func, args, kwargs in self.calls:
                func(*args, **kwargs)


def inputs(batch: int, size: Sequence[int], chunk: int, device: torch.device) -> list[Any]:
    """Return state, images, actions, padding and noise, normalized, on the device."""
    image = torch.randn(batch, *size, 3, device=device).permute(0, 3, 1, 2)  # as the loader gives it: channels last
    is_pad = torch.arange(chunk, device=device).expand(batch, -1) >= chunk - 10
    action = torch.randn(batch, chunk, ACTION, device=device)
    return [torch.randn(batch, STATE, device=device), [image], action, is_pad, torch.randn(batch, 32, device=device)]


def ours(act: Act, given: list[Any], amp: bool) -> Callable[[], object]:
    """Return one step as the trainer does it."""
    network = copy.deepcopy(act)
    optimizer = Optimizer(network, TrainingConfig())
    device = given[0].device.type

    def step() -> None:
        with torch.autocast(device, torch.bfloat16, enabled=amp):
            output = network(*given)
        optimizer.backward(act_loss(output, given[2], given[3], 10.0).total, 0)
        optimizer.step(0)
        _wait(device)

    return step


def plain(act: Act, given: list[Any]) -> Callable[[], object]:
    """Return one step as it is usually written."""
    network = PlainAct(copy.deepcopy(act))
    parameters = list(network.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=1e-5, weight_decay=1e-4, foreach=True)
    contiguous = [given[0], [image.contiguous() for image in given[1]], *given[2:]]

    def step() -> None:
        loss = act_loss(network(*contiguous), given[2], given[3], 10.0)
        loss.total.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(parameters, 10.0)
        optimizer.step()
        optimizer.zero_grad()
        for value in (*loss, norm):
            value.item()
        _wait(given[0].device.type)

    return step


def bare(act: Act, given: list[Any], amp: bool) -> Callable[[], object]:
    """Return the primitives of a step of ours, without the rest of it."""
    step, record = ours(act, given, amp), Record()
    step()
    with record:
        step()

    def replay() -> None:
        record.replay()
        _wait(given[0].device.type)

    return replay


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _require_same_loss(act: Act, given: list[Any]) -> None:
    """The baseline must compute the same thing, or the comparison would mean nothing."""
    one, other = copy.deepcopy(act).eval(), PlainAct(copy.deepcopy(act)).eval()
    with torch.no_grad():
        torch.testing.assert_close(one(*given)[0], other(*given)[0], atol=1e-4, rtol=1e-4)


def _profile(step: Callable[[], object]) -> None:
    from torch.profiler import ProfilerActivity, profile

    step()
    with profile(activities=[ProfilerActivity.CPU]) as found:
        step()
    print(found.key_averages().table(sort_by="self_cpu_time_total", row_limit=16, max_name_column_width=44))


def main(argv: Sequence[str] | None = None) -> int:
    """Time all sides in turn and print the bars."""
    parser = Parser("python -m bench.step", description=__doc__)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--size", type=int, nargs=2, default=[480, 640])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--profile", action="store_true", help="show where a step's time goes instead")
    flags = parser.parse_args(argv)
    logging.getLogger().setLevel(logging.WARNING)
    torch.manual_seed(0)
    device = torch.device(flags.device)
    if device.type == "cpu":
        keep_freed_memory()  # as the trainer does
        torch.set_num_threads(1)  # so that time of computing can be told from time of waiting for a busy machine
    act = Act(ActConfig(), STATE, ACTION, n_cameras=1).to(device).train()
    given = inputs(flags.batch, flags.size, act.config.chunk_size, device)
    if flags.profile:
        _profile(ours(act, given, amp=False))
        return 0
    _require_same_loss(act, given)
    sides = [
        ours(act, given, False),
        bare(act, given, False),
        plain(act, given),
        ours(act, given, True),
        bare(act, given, True),
    ]
    for side in sides:
        side()
    step_s, bare_s, plain_s, half_s, half_bare_s = (cpu_seconds if device.type == "cpu" else seconds)(
        sides, flags.rounds
    )
    print(
        f"step {step_s:.3f} s, bare {bare_s:.3f} s, plain {plain_s:.3f} s; in bfloat16 {half_s:.3f} s, bare {half_bare_s:.3f} s"
    )
    print_bar("step", "bare primitives / step in fp32 >= 0.85", bare_s / step_s, bare_s / step_s >= 0.85)
    print_bar("step", "plain / step in fp32 >= 1", plain_s / step_s, plain_s >= step_s)
    print_bar("step", "plain in fp32 / step in bf16 >= 1.6", plain_s / half_s, plain_s / half_s >= 1.6)
    return 0


if __name__ == "__main__":
    run(main)
