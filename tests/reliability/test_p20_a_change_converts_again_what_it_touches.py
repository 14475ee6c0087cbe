"""A changed bag or setting converts again exactly the bags it touches, and the dataset equals one converted from scratch."""

import os
import random
import shutil
from pathlib import Path

import pytest

from stage1_convert.pipeline.convert import Summary
from tests.reliability.harness import Warm, hashes, loops
from tests.stage1_convert.conversion import run
from tests.stage1_convert.recording import JOINTS, Recording, cell

NAMES = "abcd"
# Settings that shape the rows of every bag, and settings that are applied when the dataset is assembled.
EVERY = (
    "data.fps=15",
    "data.cameras={front: /camera/color/image_raw}",
    "data.joint_topic=/arm/joint_states",
    "conventions.image_resize=[8, 32]",
    "conventions.action=next_position",
    "conventions.apply_joint_sign=true",
    f"conventions.joint_order={JOINTS[::-1]}",
    "data.resample=nearest",
    "data.time_source=receive",
    "data.max_age_ms=90",
    "data.min_episode_s=0.1",
    "data.sync_columns=true",
    "data.storage=png",
)
NONE = ("data.task=Push it.", "data.robot_type=panda", "data.success_key=won")


def recording(seed: int) -> Recording:
    """Return a short recording with its joints on two topics; every second one has a gap."""
    made = cell(seed=seed, seconds=1.6 if seed % 2 else 0.8, joint_hz=30, size=(16, 64))
    if seed % 2:
        del made.images[20:28]
    made.others = [said._replace(topic="/arm/joint_states") for said in made.joints]
    return made


def write(bag: Path, seed: int) -> None:
    shutil.rmtree(bag, ignore_errors=True)
    recording(seed).write(bag.with_name("bag"), "sqlite3" if seed % 2 else "mcap")  # the files' names stay the same
    bag.with_name("bag").rename(bag)


@pytest.fixture(scope="module")
def bags(tmp_path_factory: pytest.TempPathFactory) -> Path:
    src = tmp_path_factory.mktemp("p20") / "src"
    for seed, name in enumerate(NAMES):
        write(src / name, seed)
    return src


@pytest.fixture(scope="module")
def whole(bags: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("p20") / "out"
    assert run(bags, out).episodes == 6
    return out


@pytest.fixture
def src(bags: Path, tmp_path: Path) -> Path:
    """A copy of the bags that may be changed."""
    return Path(shutil.copytree(bags, tmp_path / "src"))


@pytest.fixture
def out(whole: Path, tmp_path: Path) -> Path:
    """A copy of their dataset."""
    return Path(shutil.copytree(whole, tmp_path / "out"))


def is_as_from_scratch(src: Path, out: Path, *settings: str) -> Summary:
    """Bring a dataset up to date and compare it with a fresh one, byte for byte."""
    summary = run(src, out, *settings)
    fresh = out.with_name("fresh")
    shutil.rmtree(fresh, ignore_errors=True)
    run(src, fresh, *settings)
    assert hashes(out) == hashes(fresh)
    return summary


def test_a_second_run_converts_nothing_and_changes_nothing(bags: Path, whole: Path, out: Path) -> None:
    before = {path: path.stat().st_ino for path in out.rglob("*.parquet") if "data" in path.parts}
    summary = run(bags, out)
    assert (summary.reused, summary.bags, summary.episodes) == (4, 4, 6)
    assert hashes(out) == hashes(whole)
    assert {path: path.stat().st_ino for path in before} == before, "files were copied"
    assert [path.name for path in out.parent.iterdir()] == ["out"]


@pytest.mark.parametrize("setting", EVERY)
def test_a_setting_that_shapes_rows_converts_every_bag_again(setting: str, bags: Path, whole: Path, out: Path) -> None:
    """Which then is a conversion from scratch: nothing is left to compare."""
    assert run(bags, out, setting).reused == 0
    assert hashes(out) != hashes(whole)


@pytest.mark.parametrize("setting", NONE)
def test_a_setting_that_names_things_converts_none(setting: str, bags: Path, whole: Path, out: Path) -> None:
    assert is_as_from_scratch(bags, out, setting).reused == 4
    assert hashes(out) != hashes(whole)


def test_trusted_images_are_other_images(warm: Warm, bags: Path, out: Path, tmp_path: Path) -> None:
    ended = warm.run(tmp_path / "log", "stage1_convert", "--src", bags, "--out", out, "--trust-images")
    assert "4 converted, 0 refused\n" in ended.output  # and none unchanged since it was converted before


def test_a_bag_whose_content_changed_in_place_is_converted_again(src: Path, out: Path) -> None:
    """Same size, same time of change: only the content tells."""
    file = next((src / "c").glob("*.mcap"))
    state = file.stat()
    data = bytearray(file.read_bytes())
    at = data.index(b"base\0")
    data[at : at + 4] = b"Base"
    file.write_bytes(data)
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert is_as_from_scratch(src, out).reused == 3


def test_a_bag_that_was_only_touched_or_renamed_is_not_converted_again(src: Path, out: Path) -> None:
    for path in (src / "b").iterdir():
        os.utime(path, ns=(0, 0))
    (src / "a").rename(src / "z")  # its episodes come last now
    assert is_as_from_scratch(src, out).reused == 4


@pytest.mark.parametrize("setting", ["data.exclude=[b]", "data.include=[c, d]"])
def test_bags_that_are_left_out_take_only_their_own_rows_with_them(setting: str, bags: Path, out: Path) -> None:
    summary = is_as_from_scratch(bags, out, setting)
    assert summary.reused == summary.bags < 4


def test_any_sequence_of_changes_converts_again_only_what_it_touches(src: Path, out: Path) -> None:
    chance, settings = random.Random(20), [""]
    bags, seeds = dict(zip(NAMES, range(4), strict=True)), iter(range(4, 100_000))
    there = {(seed, "") for seed in bags.values()}
    for step in range(loops(6, 300)):
        setting = chance.choice((settings[-1], settings[-1], *EVERY, "", *NONE))
        shaping = setting if setting in EVERY else ""
        kind, name = chance.choice(("add", "change", "remove", "swap")), chance.choice(list(bags))
        if kind == "remove" and len(bags) > 2:
            shutil.rmtree(src / name)
            del bags[name]
        elif kind == "swap":
            other = chance.choice(list(bags))
            (src / name).rename(src / "swap")
            (src / other if other != name else src / "swap").rename(src / name)
            if other != name:
                (src / "swap").rename(src / other)
            bags[name], bags[other] = bags[other], bags[name]
        else:
            name = f"{name}{step}" if kind == "add" and len(bags) < 6 else name
            bags[name] = next(seeds)
            write(src / name, bags[name])
        summary = is_as_from_scratch(src, out, *([setting] if setting else []))
        made_of = {(seed, shaping) for seed in bags.values()}
        assert summary.reused == len(made_of & there), f"step {step}: {kind} {name}, {setting or 'no setting'}"
        there, settings = made_of, [*settings, setting]
