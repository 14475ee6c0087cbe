"""The runner with workflows of shell commands: order, failures, retries, stops and restarts."""

import json
import re
import signal
from pathlib import Path
from textwrap import dedent, indent

import pytest

from common.cli.command import UserError
from osmo.local.__main__ import restart, run
from osmo.local.runner import Result
from osmo.local.storage import transfer
from osmo.local.task_graph import seconds
from tests.conftest import run_module
from tests.osmo.conftest import log_of, output_of, running, start, wait_for

pytestmark = pytest.mark.integration

TOP = "workflow:\n  name: toy\n  resources: {default: {cpu: 1}}\n"
BOTTOM = "default-values: {word: hello, when: 1h}\n"


def task(name: str, script: str, more: str = "") -> str:
    """A task that runs a line of bash."""
    text = f"- name: {name}\n  image: registry/image\n  command: [bash, -euc]\n  args:\n  - |\n"
    return text + indent(dedent(script).strip(), "    ") + "\n" + indent(dedent(more), "  ")


def flow(tmp_path: Path, *tasks: str, above: str = "") -> Path:
    path = tmp_path / "flow.yaml"
    path.write_text(TOP + indent(dedent(above), "  ") + "  tasks:\n" + indent("".join(tasks), "  ") + BOTTOM)
    return path


def go(tmp_path: Path, *tasks: str, **options: object) -> Result:
    return run(flow(tmp_path, *tasks), work=tmp_path / "work", **options)  # type: ignore[arg-type]


def statuses(result: Result) -> dict[str, str]:
    return {name: task.status for name, task in result.tasks.items()}


def test_outputs_are_the_inputs_of_downstream_tasks(tmp_path: Path) -> None:
    a = task(
        "a", 'mkdir "{{output}}/d" "{{output}}/empty"; echo {{ word }} > "{{output}}/d/f"; ln -s d "{{output}}/link"'
    )
    b = task(
        "b", 'cat "{{input:0}}/d/f" "{{input:a}}/d/f"; ls "{{input:0}}"; echo {{workflow_id}}', "inputs: [{task: a}]\n"
    )
    result = go(tmp_path, a, b, values={"word": "there"})
    assert statuses(result) == {"a": "completed", "b": "completed"}
    # linked and empty folders do not survive OSMO's upload, so they must not survive here
    assert log_of(result, "b").read_text().split() == ["there", "there", "d", "toy-1"]


def test_files_and_paths_of_the_container_are_below_the_folder_of_the_task(tmp_path: Path) -> None:
    files = "files: [{path: /workspace/config.yaml, contents: 'out: {{output}}'}]\n"
    a = task(
        "a",
        'cat "$CONFIG_FILE"; echo; echo $OUTPUT_DIR $DEST',
        files + "environment: {DEST: /data/rosbags, LEAVE: /etc}\n",
    )
    b = "- {name: b, image: i/j, command: [bash, /opt/run.sh], files: [{path: /opt/run.sh, contents: echo ran}]}\n"
    result = go(tmp_path, a, b)
    root = tmp_path / "work" / "a" / "root"
    assert log_of(result, "a").read_text().split() == [
        "out:", str(output_of(result, "a")), f"{root}/output/train-rosbag-act", f"{root}/data/rosbags",
    ]  # fmt: skip
    assert log_of(result, "b").read_text() == "ran\n"


def test_a_file_is_rendered_as_the_server_does(tmp_path: Path) -> None:
    """Only the section workflow: is rendered, then the result and its files with the values of --set alone."""
    (tmp_path / "file").write_text("{{ given }} in a file\n")
    script = "echo '{% raw %}{{ given }}{% endraw %} {{ word }}'; cat file"
    files = "files: [{path: /workspace/file, localpath: file}]\n"
    path = flow(tmp_path, task("a", script, files))
    path.write_text("# {{ nobody }} {% endif %}\n" + path.read_text())
    result = run(path, {"given": "there"}, tmp_path / "work")
    assert log_of(result, "a").read_text() == "there hello\nthere in a file\n"
    with pytest.raises(UserError, match="'given' is undefined"):
        run(path, {}, tmp_path / "work2")


def test_a_failing_task_fails_only_the_tasks_that_depend_on_it(tmp_path: Path) -> None:
    a = task("a", "echo the reason >&2; exit 7")
    b = task("b", "true", "inputs: [{task: a}]\n")
    c = task("c", "true", "inputs: [{task: b}]\n")
    e = "- {name: e, image: i/j, command: [no-such-program]}\n"
    path = flow(tmp_path, a, b, c, task("d", "true"), e)
    done = run_module("osmo.local", "run", path, "--work", tmp_path / "work")
    assert done.returncode == 2
    state = json.loads((tmp_path / "work" / "run.json").read_text())["tasks"]
    assert {name: row["status"] for name, row in state.items()} == {
        "a": "failed", "b": "upstream failed", "c": "upstream failed", "d": "completed", "e": "failed",
    }  # fmt: skip
    assert re.search(r"a failed with exit code 7; the end of .*/a/log.txt:\n  the reason\n", done.stderr)
    assert re.search(
        "e failed at its start; .*/e/log.txt:\n  error: task e cannot be started: .*'no-such-program'", done.stderr
    )
    assert f"python -m osmo.local restart {tmp_path}/work" in done.stderr


def test_restart_runs_only_tasks_that_did_not_complete(tmp_path: Path) -> None:
    a = task("a", 'echo once >> "{{output}}/../../a-ran"; echo x > "{{output}}/x"')
    b = task(
        "b", 'test -e "{{output}}/../../may-pass"; cat "{{input:0}}/x"; echo {{workflow_id}}', "inputs: [{task: a}]\n"
    )
    assert statuses(go(tmp_path, a, b)) == {"a": "completed", "b": "failed"}
    (tmp_path / "work" / "may-pass").touch()
    result = restart(tmp_path / "work")
    assert statuses(result) == {"a": "completed", "b": "completed"}
    assert (tmp_path / "work" / "a-ran").read_text() == "once\n"
    assert log_of(result, "b").read_text().split() == ["x", "toy-2"]  # a restart is a new workflow


def test_a_folder_without_a_run_is_not_restarted(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"run\.json is missing"):
        restart(tmp_path)


def test_exit_actions_decide_what_a_code_means(tmp_path: Path) -> None:
    actions = "exitActions: {COMPLETE: '3,5-7', RESCHEDULE: 75, FAIL: 0}\n"
    again = 'echo x >> "{{output}}/../tries"; test $(wc -l < "{{output}}/../tries") = 2 || exit 75; exit 6'
    result = go(tmp_path, task("a", again, actions), task("b", "exit 75", actions), task("c", "true", actions))
    assert statuses(result) == {"a": "completed", "b": "failed", "c": "failed"}
    assert [result.tasks[name].tries for name in "abc"] == [2, 3, 1]


def test_independent_tasks_run_at_the_same_time(tmp_path: Path) -> None:
    meet = """\
        touch "{{output}}/../here"
        for i in $(seq 100); do test -e "{{output}}/../../%s/here" && exit 0; sleep 0.05; done
        exit 1
        """
    result = go(tmp_path, task("a", meet % "b"), task("b", meet % "a"), jobs=2)
    assert statuses(result) == {"a": "completed", "b": "completed"}


def test_no_more_tasks_run_than_jobs(tmp_path: Path) -> None:
    alone = 'mkdir "{{output}}/../../lock"; sleep 0.2; rmdir "{{output}}/../../lock"'
    result = go(tmp_path, *(task(name, alone) for name in "abc"), jobs=1)
    assert set(statuses(result).values()) == {"completed"}


def group(scripts: list[str], ignore: bool = False) -> str:
    members = [task(f"w-{i}", script, f"lead: '{'on' if i == 0 else '0'}'\n") for i, script in enumerate(scripts)]
    return f"- name: g\n  ignoreNonleadStatus: '{'1' if ignore else 'No'}'\n  tasks:\n" + indent("".join(members), "  ")


def go_group(tmp_path: Path, scripts: list[str], ignore: bool = False) -> Result:
    (tmp_path / "flow.yaml").write_text(TOP + "  groups:\n" + indent(group(scripts, ignore), "  ") + BOTTOM)
    return run(tmp_path / "flow.yaml", work=tmp_path / "work")


def test_each_group_has_a_free_port_on_loopback(tmp_path: Path) -> None:
    listen = "import os, socket; socket.create_server(('127.0.0.1', int(os.environ['MASTER_PORT']))).accept()"
    server = f'exec python -W ignore -c "{listen}"'
    client = """\
        for i in $(seq 50); do (: < "/dev/tcp/{{host:w-0}}/$MASTER_PORT") 2>/dev/null && exit 0; sleep 0.1; done
        exit 1
        """
    assert statuses(go_group(tmp_path, [server, client])) == {"w-0": "completed", "w-1": "completed"}


def test_a_dead_worker_fails_its_group_at_once(tmp_path: Path) -> None:
    result = go_group(tmp_path, ["sleep 60", "exit 3"])
    assert [(row.status, row.exit_code) for row in result.tasks.values()] == [("failed", 143), ("failed", 3)]


def test_a_dead_worker_does_not_fail_a_group_that_ignores_nonleads(tmp_path: Path) -> None:
    assert statuses(go_group(tmp_path, ["sleep 0.3", "exit 3"], ignore=True)) == {
        "w-0": "completed",
        "w-1": "completed",
    }


def test_urls_are_folders_and_datasets_have_their_names(tmp_path: Path) -> None:
    (tmp_path / "bags" / "run1").mkdir(parents=True)
    (tmp_path / "bags" / "run1" / "a.mcap").write_text("bag")
    (tmp_path / "bags" / "run1" / "a.txt").write_text("text")
    io = """\
        inputs:
        - {url: azure://acct/c/bags/, regex: '.*mcap$'}
        - dataset: {name: local, localpath: bags}
        - dataset: {name: given}
        outputs:
        - url: "azure://acct/out/{{workflow_id}}"
        - dataset: {name: kept}
        """
    result = go(
        tmp_path,
        task("a", 'cd "{{input:0}}"; find . -type f; cd ..; ls 1/local 2/given; echo made > "{{output}}/made"', io),
        maps={"azure://acct/c": tmp_path, "given": tmp_path / "bags"},
    )
    assert result.status == "completed", log_of(result, "a").read_text()
    assert log_of(result, "a").read_text().split() == ["./run1/a.mcap", "1/local:", "run1", "2/given:", "run1"]
    for place in ("urls/azure/acct/out/toy-1/made", "datasets/kept/made"):
        assert (tmp_path / "work" / place).read_text() == "made\n"


def test_checkpoints_are_copied_to_their_url_and_read_from_it(tmp_path: Path) -> None:
    state = """\
        inputs:
        - url: azure://acct/state/output
        checkpoint:
        - {path: /output, url: azure://acct/state, frequency: 100ms, regex: '^output/(?!.*tmp).*'}
        """
    script = """\
        ls "{{input:0}}"
        mkdir -p "$(dirname $OUTPUT_DIR)"
        touch "$(dirname $OUTPUT_DIR)"/{step,half.tmp}
        sleep 0.5
        exit 1
        """
    result = go(tmp_path, task("a", script, state), maps={"azure://acct/state": tmp_path / "state"})
    assert log_of(result, "a").read_text() == ""  # a url with nothing there is an empty folder
    assert [path.name for path in (tmp_path / "state" / "output").iterdir()] == ["step"]
    assert log_of(restart(tmp_path / "work"), "a").read_text() == "step\n"


def test_the_results_of_two_runs_are_not_mixed(tmp_path: Path) -> None:
    outputs = 'outputs: [{url: "azure://acct/out/{{workflow_id}}"}]\n'
    for name in ("first", "second"):
        path = flow(tmp_path, task("a", f'touch "{{{{output}}}}/{name}"', outputs))
        run(path, work=tmp_path / name, maps={"azure://acct": tmp_path / "store"})
    restart(tmp_path / "first")
    kept = {
        path.relative_to(tmp_path / "store").as_posix() for path in (tmp_path / "store").rglob("*") if path.is_file()
    }
    assert kept == {"out/toy-1/first", "out/toy-2/second"}


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("inputs: [{url: azure://acct/c/bags}]\n", "give its folder with --map azure://acct/c/bags=FOLDER"),
        ("inputs: [{dataset: {name: eval}}]\n", "give its folder with --map eval=FOLDER"),
        ("inputs: [{task: 'old-3:train'}]\n", "is of an earlier run in the cluster"),
        (
            "credentials: {wandb-api-key: {NO_SUCH_KEY: k}}\n",
            "needs the credential wandb-api-key: export NO_SUCH_KEY=...",
        ),
        ("retries: 3\n", "flow.yaml:11: unknown key retries"),
    ],
)
def test_a_missing_input_is_refused_before_anything_runs(tmp_path: Path, more: str, words: str) -> None:
    with pytest.raises(UserError, match=re.escape(words)):
        go(tmp_path, task("a", "true", more))
    assert not (tmp_path / "work").exists()


def test_a_folder_of_map_that_does_not_exist_is_refused_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"--map makes it {tmp_path}/bgas/a, which does not exist"):
        go(
            tmp_path,
            task("a", "true", "inputs: [{url: azure://acct/c/a}]\n"),
            maps={"azure://acct/c": tmp_path / "bgas"},
        )
    assert not (tmp_path / "work").exists()


def test_credentials_come_from_the_environment_and_are_masked_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef")
    result = go(tmp_path, task("a", "echo key=$WANDB_API_KEY", "credentials: {w: {WANDB_API_KEY: wandb_api_key}}\n"))
    assert log_of(result, "a").read_text() == "key=[MASKED]\n"
    assert not any(
        b"0123456789abcdef" in path.read_bytes() for path in (tmp_path / "work").rglob("*") if path.is_file()
    )


def test_set_env_reaches_every_task(tmp_path: Path) -> None:
    result = go(tmp_path, task("a", "echo $X"), task("b", "echo $X"), environment={"X": "1"})
    assert [log_of(result, name).read_text() for name in "ab"] == ["1\n", "1\n"]


def test_ctrl_c_stops_everything_and_the_run_can_be_resumed(tmp_path: Path) -> None:
    script = 'test -e "{{output}}/../../free" || { setsid sleep 61.5 & sleep 61.5; }'
    path = flow(tmp_path, task("a", script), task("b", "true", "inputs: [{task: a}]\n"))
    process = start("run", path, "--work", tmp_path / "work")
    while len(running("61.5")) < 2:
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "a stopped" in errors
    assert not running("61.5")
    (tmp_path / "work" / "free").touch()
    assert run_module("osmo.local", "restart", tmp_path / "work").returncode == 0


def test_a_second_ctrl_c_kills_the_tasks_that_do_not_stop(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    script = f"trap '' INT TERM; touch {ready}; sleep 64.5"
    process = start("run", flow(tmp_path, task("a", script)), "--work", tmp_path / "work")
    state = tmp_path / "work" / "run.json"
    while not (ready.exists() and state.exists() and '"running"' in state.read_text()):
        assert process.poll() is None
    assert process.stderr
    process.send_signal(signal.SIGINT)
    while "stopping 1 tasks" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)  # less than the time that a task has for stopping
    assert process.returncode == 130
    assert "a stopped" in errors
    assert not running("64.5")


def test_a_command_in_a_shell_may_save_before_it_is_stopped(tmp_path: Path) -> None:
    # Two commands, so that the shell waits: it dies of the signal at once, its child answers it by saving.
    child = "trap 'sleep 0.5; touch {{output}}/saved; exit 75' TERM; touch {{output}}/../here; sleep 60 & wait"
    path = flow(tmp_path, task("a", f'bash -c "{child}"; true'))
    process = start("run", path, "--work", tmp_path / "work")
    wait_for(tmp_path / "work" / "a" / "here", process)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert (tmp_path / "work" / "a" / "output" / "saved").exists()


def test_a_run_is_not_restarted_while_it_runs(tmp_path: Path) -> None:
    path = flow(tmp_path, task("a", 'touch "{{output}}/../here"; sleep 60'))
    process = start("run", path, "--work", tmp_path / "work")
    try:
        wait_for(tmp_path / "work" / "a" / "here", process)
        done = run_module("osmo.local", "restart", tmp_path / "work")
        assert (done.returncode, "is being run by another process" in done.stderr) == (2, True)
    finally:
        process.terminate()
        process.communicate(timeout=60)


def test_processes_of_a_killed_runner_are_ended_before_their_task_starts_again(tmp_path: Path) -> None:
    script = """\
        cd "{{output}}/.."
        if test -e pid; then grep -q OSMO_LOCAL_TASK "/proc/$(cat pid)/environ" && exit 4; exit 3; fi
        echo $$ > pid
        sleep 62.5 & wait
        """
    path = flow(tmp_path, task("a", script))
    process = start("run", path, "--work", tmp_path / "work")
    while not running("62.5"):
        assert process.poll() is None
    process.kill()
    process.communicate()
    assert restart(tmp_path / "work").tasks["a"].exit_code == 3
    assert not running("62.5")


def test_a_work_folder_is_not_used_twice(tmp_path: Path) -> None:
    go(tmp_path, task("a", "true"))
    with pytest.raises(UserError, match="restart"):
        run(tmp_path / "flow.yaml", work=tmp_path / "work")


def test_linked_files_are_transferred_as_files(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").write_text("x")
    (tmp_path / "a" / "to-file").symlink_to("file")
    transfer(tmp_path / "a", tmp_path / "linked")
    transfer(tmp_path / "a", tmp_path / "copied", link=False)
    assert (tmp_path / "linked" / "file").stat().st_nlink > 1
    assert (tmp_path / "copied" / "file").stat().st_nlink == 1
    assert not (tmp_path / "linked" / "to-file").is_symlink()


@pytest.mark.parametrize(
    ("text", "expected"),
    [("90m", 5400), ("1 h", 3600), ("3600", 3600), (5, 5), ("1500ms", 1.5), ("P1DT2H", 93600), ("PT1H30M", 5400)],
)
def test_durations(text: str | int, expected: float) -> None:
    assert seconds(text) == expected
