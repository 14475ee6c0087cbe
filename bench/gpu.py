"""ACT on one GPU, against ACT as it is usually written: steps, waits for data, memory, waits of the host, predictions.

`python -m bench.gpu` takes at most eight minutes. Its data is synthetic, it needs no network, and no packages but torch, numpy,
pyarrow, opencv, safetensors and pyyaml. Each figure is printed as JSON as soon as it is measured, so that a run that is cut off
loses nothing; a table ends the run. `--device cpu --quick` shows within seconds that everything runs, and measures nothing.
"""

import gc
import json
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise, repeat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bench.figures import Figure, Result, measure_all, print_table
from bench.load import SyntheticStore, split_into_episodes
from bench.plain import plain_act, plain_step
from common.act.network import Act
from common.act.normalization import Normalizer
from common.cli.command import Parser, UserError, run
from common.lerobot.metadata import ACTION, STATE, image_key
from stage2_train.batches import Batch, BatchOrder, ChunkDataset, load_batches
from stage2_train.device import set_up_device
from stage2_train.distributed import World
from stage2_train.loss import LossModule
from stage2_train.optimizer import Optimizer
from stage2_train.step import FiniteCheck, Stepper
from stage2_train.tracking.averages import Averages

# The defaults of the product, whose settings need pydantic; a test compares them.
NETWORK = {
    "chunk_size": 100,
    "vision_backbone": "resnet18",
    "pre_norm": False,
    "dim_model": 512,
    "n_heads": 8,
    "dim_feedforward": 3200,
    "feedforward_activation": "relu",
    "n_encoder_layers": 4,
    "n_decoder_layers": 1,
    "use_vae": True,
    "latent_dim": 32,
    "n_vae_encoder_layers": 4,
    "dropout": 0.1,
}
TRAINING = {
    "steps": 5000,
    "lr": 1e-5,
    "lr_backbone": 1e-5,
    "weight_decay": 1e-4,
    "kl_weight": 10.0,
    "l1_rule": "valid",
    "grad_clip_norm": 10.0,
    "scheduler": "none",
    "warmup_steps": 500,
    "min_lr": 1e-7,
    "scale_lr": False,
    "deterministic": False,
}
NUM_WORKERS = 2
TINY = {"chunk_size": 10, "dim_model": 32, "n_heads": 4, "dim_feedforward": 64, "n_encoder_layers": 1}
CAMERA, JOINTS = image_key("camera"), 6
MINUTES = 8.0
CUDA_GRAPHS = "reduce-overhead"  # torch.compile's name for them
MEASURED_S = 4.0  # of a figure's time: steps in a row


class Bench:
    """Networks, synthetic samples and clocks on one device."""

    def __init__(self, device: torch.device, quick: bool, folder: Path) -> None:
        self.device, self.quick, self.cuda = device, quick, device.type == "cuda"
        self.batches = (2,) if quick else (8, 32)
        self.network: Any = SimpleNamespace(**{**NETWORK, **(TINY if quick else {})})
        size, n_frames = ((64, 96), 40) if quick else ((480, 640), 1000)
        self.store = SyntheticStore(folder, n_frames, size)
        self.samples = ChunkDataset(self.store, split_into_episodes(n_frames), self.network.chunk_size)
        self.world = World(0, 1, device)
        vectors = {f"{key}.{name}": torch.full((JOINTS,), 0.5) for key in (STATE, ACTION) for name in ("mean", "std")}
        colors = {f"{CAMERA}.{name}": torch.full((3, 1, 1), 0.4) for name in ("mean", "std")}
        mapping, sizes = dict.fromkeys(("STATE", "ACTION", "VISUAL"), "MEAN_STD"), {STATE: (JOINTS,), ACTION: (JOINTS,)}
        self.normalizer = Normalizer(vectors | colors, mapping, {**sizes, CAMERA: (3, 1, 1)}, "bench.gpu").to(device)

    def act(self) -> Act:
        """Return the network with the same random weights every time."""
        torch.manual_seed(0)
        return Act(self.network, JOINTS, JOINTS, n_cameras=1).to(self.device).train()

    def order(self, batch: int) -> BatchOrder:
        """Return the order of the batches, as a training has it."""
        return BatchOrder(1000, batch, 0, 1, self.network.latent_dim)

    def batch(self, batch: int) -> Batch:
        """Return one batch on the device."""
        return self.samples.batch(self.order(batch), 0).to(self.device)

    def stepper(self, batch: int, amp: str) -> Stepper:
        """Return the trainer's step."""
        training: Any = SimpleNamespace(**TRAINING, amp=amp)
        network, config = self.act(), SimpleNamespace(training=training)
        optimizer = Optimizer(network, training)
        module = LossModule(network, network, self.normalizer, ["camera"], config)  # type: ignore[arg-type]
        check = FiniteCheck(self.world, optimizer.scaler, training.lr)
        return Stepper(self.order(batch), self.world, module, optimizer, check, Averages(self.device))

    def mark(self) -> Any:
        """Return this moment of the device's work, without a wait for it."""
        if not self.cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def seconds_between(self, marks: Sequence[Any]) -> list[float]:
        """Return the seconds from each mark to the next; waits for the device."""
        if not self.cuda:
            return [after - before for before, after in pairwise(marks)]
        torch.cuda.synchronize()
        return [before.elapsed_time(after) / 1000 for before, after in pairwise(marks)]

    def steps_in(self, step: Callable[[], object], seconds: float) -> int:
        """Warm up, and return how many steps fit into the time."""
        for _ in range(1 if self.quick else 5):  # kernels are compiled and chosen, CUDA graphs recorded
            step()
        started = self.mark()
        step()
        (step_s,) = self.seconds_between([started, self.mark()])
        return 2 if self.quick else min(max(int(seconds / step_s), 5), 200)

    def time_steps(self, batch: int, step: Callable[[], object]) -> Result:
        """Return the median duration of steps that follow each other, and the most memory they held."""
        count = self.steps_in(step, MEASURED_S)
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
        marks = [self.mark()]
        for _ in range(count):
            step()
            marks.append(self.mark())
        step_s = float(np.median(self.seconds_between(marks)))
        memory = {"peak_gb": round(torch.cuda.max_memory_allocated() / 1e9, 2)} if self.cuda else {}
        return {"step_ms": round(1000 * step_s, 3), "samples_per_s": round(batch / step_s, 1), **memory}


def plain_training(bench: Bench, batch: int, amp: bool) -> Result:
    """Time the step of ACT as it is usually written, on the same batch; its images have the layout it wants."""
    given, normalizer = bench.batch(batch), bench.normalizer
    image = given.images[0].permute(0, 3, 1, 2).contiguous()

    def inputs() -> list[Any]:
        images = [normalizer.apply(CAMERA, image.float() / 255)]
        vectors = [normalizer.apply(STATE, given.state_BS), normalizer.apply(ACTION, given.action_BCA)]
        return [vectors[0], images, vectors[1], given.is_pad_BC, given.noise_BL]

    return bench.time_steps(batch, plain_step(bench.act(), inputs, amp))


def training(bench: Bench, batch: int, amp: str, mode: str | None = None) -> Result:
    """Time the trainer's step on one batch that stays on the device, compiled in a mode of torch.compile or not."""
    stepper, batches = bench.stepper(batch, amp), repeat(bench.batch(batch))
    if mode is None:
        return bench.time_steps(batch, lambda: stepper.step(batches, 0))
    if bench.quick:
        return {"left_out": "compiling takes minutes"}
    if mode == CUDA_GRAPHS and not bench.cuda:
        return {"left_out": "they need a CUDA device"}
    from torch._dynamo.utils import counters

    counters.clear()
    stepper.step(batches, 0)  # what is computed once must not be part of a graph
    stepper.loss_module.network.compile(mode=mode, dynamic=False)
    result = bench.time_steps(batch, lambda: stepper.step(batches, 0))
    # Where torch cannot make a graph, it goes on without one: the figure would not be what it says.
    found = {"graph_breaks": sum(counters["graph_break"].values())}
    return result | found | {"cuda_graphs_skipped": counters["inductor"]["cudagraph_skips"]}


def fed_training(bench: Bench, batch: int) -> Result:
    """Time the trainer's step in bfloat16 on what the real loader gives, and the device's wait between two steps."""
    stepper, marks = bench.stepper(batch, "bf16"), list[Any]()
    loader = load_batches(bench.samples, bench.order(batch), 0, 10**9, NUM_WORKERS, bench.device)

    def marked() -> Iterator[Batch]:
        while True:
            marks.append(bench.mark())
            loaded = next(loader)
            marks.append(bench.mark())
            yield loaded

    batches = marked()
    try:
        count = bench.steps_in(lambda: stepper.step(batches, 0), 2 * MEASURED_S)
        del marks[:]
        host_s = sum(stepper.step(batches, 0).data_wait_s for _ in range(count))
        times = bench.seconds_between([*marks, bench.mark()])
    finally:
        loader.close()
    shares = {"device_waits": round(sum(times[::2]) / sum(times), 4), "host_waits": round(host_s / sum(times), 4)}
    return {
        "step_ms": round(1000 * sum(times) / count, 3),
        "samples_per_s": round(batch * count / sum(times), 1),
        **shares,
    }


def host_waits(bench: Bench, batch: int) -> Result:
    """Count the operations of a step, fed by the loader, in which the host waits for the device, and say where they are."""
    if not bench.cuda:
        return {"left_out": "torch notices them on a CUDA device only"}
    stepper, steps = bench.stepper(batch, "bf16"), 10
    loader = load_batches(bench.samples, bench.order(batch), 0, 10**9, NUM_WORKERS, bench.device)
    try:
        for step in range(5):
            stepper.step(loader, step)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            for step in range(steps):
                stepper.step(loader, step)
    finally:
        torch.cuda.set_sync_debug_mode("default")
        loader.close()
    found = [warning for warning in caught if "synchronizing CUDA operation" in str(warning.message)]
    where = sorted({f"{Path(warning.filename).name}:{warning.lineno}" for warning in found})
    return {"host_waits_per_step": len(found) / steps, "where": where[:10]}


@torch.no_grad()
def predict(bench: Bench, network: Act, state: npt.NDArray[Any], image: npt.NDArray[Any]) -> Tensor:
    """Predict a chunk as `Policy.predict_chunk` does: from an observation in host memory to actions in host memory."""
    state_BS = bench.normalizer.apply(STATE, torch.as_tensor(state).to(bench.device))
    image_BCHW = bench.normalizer.image(CAMERA, torch.as_tensor(image).to(bench.device))
    return bench.normalizer.restore(ACTION, network(state_BS, [image_BCHW])[0]).float().cpu()


def prediction(bench: Bench, plain: bool) -> Result:
    """Time predictions one by one, and compare the chunk with that of the other network."""
    shape = (1, *bench.store.mapped.shape)
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    state = np.zeros((1, JOINTS), np.float32)
    networks = [plain_act(bench.act()).eval(), bench.act().freeze()]
    both = [predict(bench, network, state, image) for network in networks]
    network = networks[0 if plain else 1]
    times, deadline_s = list[float](), time.perf_counter() + (0 if bench.quick else MEASURED_S)
    for _ in range(2 if bench.quick else 20):
        predict(bench, network, state, image)
    while not times or time.perf_counter() < deadline_s:
        started = time.perf_counter()
        predict(bench, network, state, image)
        times.append(time.perf_counter() - started)
    p50_ms, p95_ms = (round(1000 * float(np.percentile(times, percent)), 3) for percent in (50, 95))
    difference = float((both[0] - both[1]).abs().max())
    return {"p50_ms": p50_ms, "p95_ms": p95_ms, "calls": len(times), "difference": round(difference, 6)}


def figures(bench: Bench) -> list[Figure]:
    """Return all figures, those that take longest last."""
    fp32 = "fp32 with TF32" if bench.cuda else "fp32"
    listed = [
        Figure(name, batch, partial(measure, bench, batch, *args))
        for batch in bench.batches
        for name, measure, *args in (
            (f"plain step, {fp32}", plain_training, False),
            ("plain step, bf16", plain_training, True),
            (f"step, {fp32}", training, "none"),
            ("step, bf16", training, "bf16"),
            ("step, bf16, fed by the loader", fed_training),
            ("waits of the host", host_waits),
        )
    ]
    listed += [Figure("plain prediction", 1, partial(prediction, bench, True))]
    listed += [Figure("prediction", 1, partial(prediction, bench, False))]
    for name, mode in (("compiled", "default"), ("compiled, CUDA graphs", CUDA_GRAPHS)):
        for batch in bench.batches:
            listed.append(Figure(f"step, bf16, {name}", batch, partial(training, bench, batch, "bf16", mode)))
    return listed


def describe(device: torch.device, quick: bool) -> Result:
    """Return what the figures were measured on."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    versions = {"torch": torch.__version__, "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}  # type: ignore[no-untyped-call]
    return {"bench": "gpu", "device": name, "date": time.strftime("%Y-%m-%d"), **versions, "quick": quick}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure everything, print each figure and then the table."""
    started_s = time.monotonic()
    parser = Parser("python -m bench.gpu", description=__doc__)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--quick", action="store_true", help="a tiny network and two steps: shows that it runs")
    parser.add_argument("--minutes", type=float, default=MINUTES)
    flags = parser.parse_args(argv)
    if flags.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: no CUDA device found; --device cpu --quick shows that the bench runs")
    device = torch.device("cuda", 0) if flags.device == "cuda" else torch.device("cpu")
    set_up_device(SimpleNamespace(**TRAINING, amp="none"), device)  # type: ignore[arg-type]
    gc.disable()  # as in the training loop
    print(json.dumps(describe(device, flags.quick)), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(device, flags.quick, Path(folder))
        results = measure_all(figures(bench), 60 * flags.minutes - (time.monotonic() - started_s))
    print_table(results)
    return 0


if __name__ == "__main__":
    run(main)
