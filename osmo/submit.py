"""Builds and pushes the images of a workflow, and submits it: `python -m osmo.submit FILE`.

Everything that would fail at a later step is checked first: the file, docker, the OSMO command line, the login and, with
--no-build, the images. Each message names the command that fixes it.
"""

import shlex
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from common.cli.command import Parser, UserError, one_line, run
from osmo.check.spec import RELEASES, require_accepted
from osmo.check.template import TemplateError, all_tasks, parse_set, read
from osmo.site import read_site, with_site

ROOT = Path(__file__).parents[1]
DOCKERFILES = {"ur10e-act-train": "osmo/Dockerfile", "ur10e-act-eval": "osmo/Dockerfile.eval"}
Command = list[str]


def main(argv: Sequence[str] | None = None) -> int:
    """Run every step, or print them with --dry-run."""
    parser = Parser("python -m osmo.submit", description=__doc__)
    parser.add_argument("file", type=Path, metavar="FILE")
    parser.add_argument("--pool", help="where to run (default: that of the site, or of your profile)")
    parser.add_argument("--site", type=Path, help="file with the addresses of a team, such as osmo/site.yaml")
    parser.add_argument("--release", choices=RELEASES, help="of OSMO (default: any that accepts the file)")
    for flag in ("--set", "--set-string", "--set-env"):
        parser.add_argument(
            flag, action="extend", nargs="+", default=[], metavar="K=V", help="passed to osmo workflow submit"
        )
    parser.add_argument("--no-build", action="store_true", help="the images are in the registry already")
    parser.add_argument("--dry-run", action="store_true", help="print the steps without running them")
    flags = parser.parse_args(argv)
    site = read_site(flags.site)
    try:
        sets = with_site(site, flags.file, flags.set, flags.set_string)
        values = parse_set(sets, flags.set_string)
        require_accepted(flags.file, [flags.release] if flags.release else RELEASES, values)
        template = read(flags.file)
        document = template.render(values).document
    except TemplateError as error:
        raise UserError(one_line(error)) from error
    if "registry" in template.defaults and "registry" not in values:
        registry = template.defaults["registry"]
        print(f"registry {registry}, as {flags.file.name} says; another one by --site FILE or --set registry=NAME")
    images = sorted({str(task["image"]) for task in all_tasks(document)})
    steps = [] if flags.no_build else [step for image in images for step in _build_steps(image)]
    steps.append(_submit_step(flags.file.resolve(), flags.pool or site.pool, sets, flags.set_string, flags.set_env))
    if not flags.dry_run:
        _require_tools(site.host or "https://OSMO_HOST")
        if flags.no_build:
            _require_images(images)
    for step in steps:
        print(f"$ {shlex.join(step)}", flush=True)
        if not flags.dry_run and subprocess.run(step, cwd=ROOT, check=False).returncode:
            raise UserError(f"{shlex.join(step[:2])} failed, its message is above; {_remedy(step)}")
    return 0


def _build_steps(image: str) -> Iterator[Command]:
    """Yield the commands that build and push an image of this project; none for any other image."""
    _, _, name = image.rpartition("/")
    dockerfile = DOCKERFILES.get(name.partition(":")[0])
    if dockerfile is not None:
        yield ["docker", "build", "-t", name, "-f", dockerfile, "."]
        yield ["docker", "tag", name, image]
        yield ["docker", "push", image]


def _submit_step(
    file: Path, pool: str | None, values: Sequence[str], texts: Sequence[str], environment: Sequence[str]
) -> Command:
    """Return the submit command. Each flag occurs once, because releases up to 6.3 ignore all but the last."""
    command = ["osmo", "workflow", "submit", str(file), *(["--pool", pool] if pool else [])]
    for flag, pairs in (("--set", values), ("--set-string", texts), ("--set-env", environment)):
        command += [flag, *pairs] if pairs else []
    return command


def _require_tools(host: str) -> None:
    if not shutil.which("docker"):
        raise UserError("docker is not on the PATH: sudo apt-get install docker.io")
    if not _succeeds("docker", "info"):
        raise UserError("docker does not respond: sudo systemctl start docker, or add yourself to its group")
    if not shutil.which("osmo"):
        raise UserError("the OSMO command line is not on the PATH; see the prerequisites in docs/cluster.md")
    if not _succeeds("osmo", "pool", "list"):
        raise UserError(f"you are not logged in to OSMO: osmo login {host}")


def _require_images(images: Sequence[str]) -> None:
    for image in images:
        if not _succeeds("docker", "manifest", "inspect", "--insecure", image):
            raise UserError(f"image {image} is not in its registry: docker push {image}, or leave out --no-build")


def _succeeds(*command: str) -> bool:
    return subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode == 0


def _remedy(step: Command) -> str:
    if step[:2] == ["docker", "push"]:
        registry = step[-1].partition("/")[0]
        return (
            f"docker login {registry}, or for plain http list it under insecure-registries in /etc/docker/daemon.json"
        )
    if step[0] == "osmo":
        return "missing credentials: osmo credential set NAME ...; pools: osmo pool list"
    return "fix it and run the same command again"


if __name__ == "__main__":
    run(main)
