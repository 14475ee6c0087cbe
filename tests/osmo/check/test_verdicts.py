"""Small workflow files, each with the verdict of OSMO's own code in five releases: our check agrees with all but the named."""

import csv
import shlex
from collections import Counter

import pytest

from osmo.check.spec import RELEASES, check_releases, refusals
from osmo.check.template import parse_set
from tests.conftest import ROOT

CASES = ROOT.parent / "shared" / "osmo-cases"
# File -> the releases for which we say something else than OSMO.
KNOWN: dict[str, list[str]] = {}


def confusion(counts: Counter[tuple[str, str]]) -> str:
    """Return the matrix of (OSMO's verdict, ours) in one line."""
    pairs = [("accept", "accept"), ("refuse", "refuse"), ("accept", "refuse"), ("refuse", "accept")]
    both_accept, both_refuse, too_strict, too_lenient = (counts[pair] for pair in pairs)
    return (
        f"accepted {both_accept}, refused {both_refuse}, wrongly refused {too_strict}, wrongly accepted {too_lenient}"
    )


@pytest.mark.skipif(not CASES.is_dir(), reason="needs ../shared/osmo-cases (files with OSMO's own verdicts)")
def test_our_check_says_what_osmo_says() -> None:
    counts = {release: Counter[tuple[str, str]]() for release in RELEASES}
    wrong: dict[str, list[str]] = {}
    with (CASES / "verdicts.tsv").open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert len(rows) == len(list(CASES.glob("*.yaml"))) == 65
    for row in rows:
        values = parse_set(shlex.split(row["flags"])[1:], [])
        for release, found in check_releases(CASES / row["file"], RELEASES, values).items():
            ours = "refuse" if refusals(found) else "accept"
            theirs = row[f"osmo {release}"]
            counts[release][theirs, ours] += 1
            if ours != theirs:
                wrong.setdefault(row["file"], []).append(release)
    lines = [f"| {release} | {confusion(counts[release])} |" for release in RELEASES]
    print("\n".join(lines))
    assert wrong == KNOWN
    readme = (ROOT / "docs" / "cluster.md").read_text()
    assert [line for line in lines if line not in readme] == []
