"""`python -m osmo.submit FILE`: a workflow file in; its images built and pushed, and the workflow submitted, out.

Refuses before the first step what would fail at the last: a wrong file, and docker, the command line, the login or an
image that is missing, each with the command that mends it.
"""

import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from common.cli.command import Parser, UserError, one_line, run
from osmo.check.spec import RELEASES, check_releases
from osmo.check.template import TemplateError, all_tasks, parse_set, read

ROOT = Path(__file__).parents[1]
DOCKERFILES = {"ur10e-act-train": "osmo/Dockerfile", "ur10e-act-eval": "osmo/Dockerfile.eval"}
Command = list[str]


def main(argv: Sequence[str] | None = None) -> int:
    """Do every step, or print them with --dry-run."""
    parser = Parser("python -m osmo.submit", description=__doc__)
    parser.add_argument("file", type=Path, metavar="FILE")
    parser.add_argument("--pool", help="where to run; default: your profile's")
    parser.add_argument("--host", default="https://192.168.1.100", help="of OSMO, for the login (%(default)s)")
    parser.add_argument("--release", choices=RELEASES, help="of OSMO; default: whichever takes the file")
    for flag in ("--set", "--set-string", "--set-env"):
        parser.add_argument(
            flag, action="extend", nargs="+", default=[], metavar="K=V", help="as osmo workflow submit has it"
        )
    parser.add_argument("--no-build", action="store_true", help="the images are in the registry already")
    parser.add_argument("--base", help="base image of the training image")
    parser.add_argument("--dry-run", action="store_true", help="print the steps, do none")
    flags = parser.parse_args(argv)
    try:
        values = parse_set(flags.set, flags.set_string)
        _require_fit(flags.file, flags.release, values)
        document = read(flags.file).render(values).document
    except TemplateError as error:
        raise UserError(one_line(error)) from error
    images = sorted({str(task["image"]) for task in all_tasks(document)})
    steps = [] if flags.no_build else [step for image in images for step in building(image, flags.base)]
    steps.append(submission(flags.file.resolve(), flags.pool, flags.set, flags.set_string, flags.set_env))
    if not flags.dry_run:
        _require_tools(flags.host)
        if flags.no_build:
            _require_images(images)
    for step in steps:
        print(f"$ {shlex.join(step)}", flush=True)
        if not flags.dry_run and subprocess.run(step, cwd=ROOT, check=False).returncode:
            raise UserError(f"{shlex.join(step[:2])} failed, its message is above; {_remedy(step)}")
    return 0


def building(image: str, base: str | None) -> Iterator[Command]:
    """Yield what makes an image of ours and brings it to its registry; nothing for an image of somebody else."""
    _, _, name = image.rpartition("/")
    dockerfile = DOCKERFILES.get(name.partition(":")[0])
    if dockerfile is None:
        return
    given = ["--build-arg", f"BASE={base}"] if base and dockerfile == DOCKERFILES["ur10e-act-train"] else []
    yield ["docker", "build", "-t", name, "-f", dockerfile, *given, "."]
    yield ["docker", "tag", name, image]
    yield ["docker", "push", image]


def submission(
    file: Path, pool: str | None, values: Sequence[str], texts: Sequence[str], environment: Sequence[str]
) -> Command:
    """Return the submit command; each flag stands once, because releases up to 6.3 drop all but the last."""
    command = ["osmo", "workflow", "submit", str(file), *(["--pool", pool] if pool else [])]
    for flag, given in (("--set", values), ("--set-string", texts), ("--set-env", environment)):
        command += [flag, *given] if given else []
    return command


def _require_fit(file: Path, release: str | None, values: Mapping[str, Any]) -> None:
    found = list(check_releases(file, [release] if release else ["6.3", "6.4"], values).values())
    if all(found):
        line, message = found[0][0]
        raise UserError(f"{file}:{line}: {message} (all of it: python -m osmo.local check {file})")


def _require_tools(host: str) -> None:
    if not shutil.which("docker"):
        raise UserError("docker is not on the PATH: sudo apt-get install docker.io")
    if not _answers("docker", "info"):
        raise UserError("docker does not answer: sudo systemctl start docker, or add yourself to its group")
    if not shutil.which("osmo"):
        raise UserError("the OSMO command line is not on the PATH; osmo/README.md tells how to install it")
    if not _answers("osmo", "pool", "list"):
        raise UserError(f"OSMO does not know you: osmo login {host}")


def _require_images(images: Sequence[str]) -> None:
    for image in images:
        if not _answers("docker", "manifest", "inspect", "--insecure", image):
            raise UserError(f"image {image} is not in its registry: docker push {image}, or leave out --no-build")


def _answers(*command: str) -> bool:
    return subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode == 0


def _remedy(step: Command) -> str:
    if step[:2] == ["docker", "push"]:
        registry = step[-1].partition("/")[0]
        return (
            f"docker login {registry}, or for plain http list it under insecure-registries in /etc/docker/daemon.json"
        )
    if step[0] == "osmo":
        return "credentials that are missing: osmo credential set NAME ...; pools: osmo pool list"
    return "mend it and run the same command again"


if __name__ == "__main__":
    run(main)
