"""What several test files share: the checkpoint and datasets that LeRobot itself wrote, and a small trained run."""

import atexit
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from multiprocessing import forkserver
from pathlib import Path

import pytest
from filelock import FileLock
from safetensors.numpy import save_file

from common.storage import worker
from tests.golden import golden_weights
from tests.reliability.warm import IMPORTS

os.environ["OMP_NUM_THREADS"] = (
    "1"  # on a busy machine OpenMP's threads wait for each other far longer than they compute
)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as under `nohup make test &`; what tests start would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)

os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="tests-cache-")  # what tests remember of bags is not the user's
atexit.register(shutil.rmtree, os.environ["XDG_CACHE_HOME"], ignore_errors=True)

MEMORY = Path("/dev/shm")
if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > 8 << 30:  # where flushing is free; a run writes 3 GB at most
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests" / "golden"
MANY = 50  # tests; from here on a preparation of some seconds pays

TINY_TRAINING = [
    "model.chunk_size=10",
    "model.dim_model=32",
    "model.n_heads=4",
    "model.dim_feedforward=64",
    "model.n_encoder_layers=1",
    "model.n_vae_encoder_layers=1",
    "training.batch_size=4",
    "training.steps=4",
    "training.log_freq=1",
    "training.save_freq=2",
    "training.lr=1e-4",
    "training.device=cpu",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what a test needs by where it stands and which fixtures it takes; single slow tests say so themselves."""
    for item in items:
        if item.path.is_relative_to(ROOT / "tests" / "reliability"):
            item.add_marker("reliability")
        fixtures = set(getattr(item, "fixturenames", ()))
        if "service" in fixtures:
            item.add_marker("azure")
        if "shared" in fixtures:  # whole chains of commands
            item.add_marker("integration")


class SharedFolders:
    """Folders that are made once for all xdist workers of a test run; their tests only read them."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def get(self, name: str, make: Callable[[Path], object]) -> Path:
        """Return the folder `name`; the first caller creates it empty and fills it by `make(folder)`."""
        folder, done = self._root / name, self._root / f"{name}.done"
        with FileLock(self._root / f"{name}.lock"):
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)  # of a `make` that failed
                folder.mkdir()
                make(folder)
                done.touch()
        return folder


@pytest.fixture(scope="session", autouse=True)
def _fork_server(request: pytest.FixtureRequest) -> None:
    """Start the fork server of all isolated workers of a long run, so that none of them waits for imports."""
    if len(request.session.items) > MANY:
        os.environ.setdefault("MIMALLOC_ARENA_EAGER_COMMIT", "0")  # as a worker's start does
        forkserver.set_forkserver_preload([*IMPORTS, "tests.conftest"])
        worker._start_fork_server()


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> SharedFolders:
    base = tmp_path_factory.getbasetemp()
    return SharedFolders(base.parent if "PYTEST_XDIST_WORKER" in os.environ else base)


@pytest.fixture(scope="session")
def act_tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pretrained_model folder as LeRobot 0.6.1 saved it, its weights rebuilt from their recipe."""
    import json

    folder = tmp_path_factory.mktemp("act_tiny") / "pretrained_model"
    shutil.copytree(GOLDEN / "act_tiny" / "pretrained_model", folder)
    keys = json.loads((GOLDEN / "act_tiny" / "keys.json").read_text())
    save_file(golden_weights.build(keys), folder / "model.safetensors")
    return folder


@pytest.fixture
def image_dataset(tmp_path: Path) -> Path:
    """A writable copy of a dataset with PNG images that LeRobot 0.6.1 wrote: 2 episodes, 20 + 22 frames."""
    return Path(shutil.copytree(GOLDEN / "dataset_image", tmp_path / "dataset_image"))


def run_module(module: str, *args: object, torchrun: int = 0, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run `python -m module args` as a user would, or under torchrun with this many processes."""
    launcher: Sequence[str] = [sys.executable]
    if torchrun:
        launcher = [str(Path(sys.executable).with_name("torchrun")), "--standalone", f"--nproc_per_node={torchrun}"]
    command = [*launcher, "-m", module, *map(str, args)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=600, check=False)


def group_ends(group: int, within_s: float = 20.0) -> bool:
    """Wait until no process of a group is left, not even a dead one that nobody has reaped, and tell whether that came."""
    deadline_s = time.monotonic() + within_s
    while time.monotonic() < deadline_s:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.01)
    return False


def run_readme_block(readme: Path, folder: Path) -> None:
    """Run a README's commands in `folder`, which gets the project's folders that they name."""
    for name in ("osmo", "demo"):
        (folder / name).symlink_to(ROOT / name)
    run_bash_blocks(readme, folder)


def run_bash_blocks(page: Path, folder: Path) -> None:
    """Run the bash blocks of a page in `folder`, word for word, as a user in the project's folder would."""
    script = "".join(re.findall(r"```bash\n(.*?)```", page.read_text(), re.DOTALL))
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "XDG_CACHE_HOME": str(folder / "cache"),
    }
    done = subprocess.run(
        ["bash", "-ec", script], cwd=folder, env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="session")
def readme_results(shared: SharedFolders) -> Path:
    """A folder in which the commands of README.md were run."""
    return shared.get("readme", lambda folder: run_readme_block(ROOT / "README.md", folder))
