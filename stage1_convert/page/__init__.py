"""A converted dataset in; meta/conversion.html out: one page that shows what a conversion did, episodes worst first.

The page needs nothing but itself: pictures are data URIs, curves inline SVG, and there is no script. Equal datasets give
equal bytes.
"""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import yaml

from common.dataset import Dataset
from common.files import read_json, write_file
from stage1_convert.page.card import card
from stage1_convert.page.record import Mark, StreamFacts, Told, episodes_of, streams_of, worst_first
from stage1_convert.page.style import STYLE

PAGE, RECORD = "meta/conversion.html", "meta/conversion.json"
CARDS = 24  # episodes that are shown in detail: some 150 kB each


def write_page(root: Path, cards: int = CARDS) -> None:
    """Write the page of the dataset at `root`, whose meta/conversion.json and files are complete."""
    write_file(root / PAGE, render(root, cards).encode(errors="backslashreplace"))


def render(root: Path, cards: int = CARDS) -> str:
    """Return the page as HTML; the worst `cards` episodes are shown in detail."""
    record, dataset = read_json(root / RECORD), Dataset.open(root)
    told = episodes_of(record)
    ranked = worst_first(told, record, dataset.fps)
    shown = ranked[:cards]
    bags = sum(bag["status"] == "converted" for bag in record["bags"])
    title = f"{_count(len(told), 'episode')} from {_count(bags, 'bag')}"
    return "".join(
        [
            '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width,initial-scale=1">',
            f"<title>Conversion: {escape(title)}</title><style>{STYLE}</style></head><body>",
            '<a class="skip" href="#episodes">Skip to the episodes</a>',
            _header(record, dataset, told, title),
            "<main>",
            _verdict(record, ranked),
            _tiles(record, told, dataset.fps),
            _refused(record),
            _streams(streams_of(record, told)),
            _all_episodes(told, ranked, {one.number for one, _ in shown}, record, dataset.fps),
            _cards(shown, len(told), dataset, record),
            _settings(record),
            f"</main><footer>Written by {escape(record['tool']['name'])}, with {escape(_versions(record))}. "
            "The same in numbers: conversion.json and sync/ beside this page.</footer></body></html>\n",
        ]
    )


def _header(record: Mapping[str, Any], dataset: Dataset, told: Sequence[Told], title: str) -> str:
    tasks = sorted({one.bag["task"] for one in told})
    some = "; ".join(f"“{task}”" for task in tasks[:3]) + (
        f" and {len(tasks) - 3} more tasks" if len(tasks) > 3 else ""
    )
    pictures = ", ".join(f"{camera} {h} x {w}" for camera, (h, w, _) in dataset.cameras.items())
    meaning = str(record["action"]["action_meaning"]).replace("_", " ")
    return (
        f"<header><h1>{escape(title)}</h1>"
        f'<p class="lead">{escape(some)}</p>'
        f'<p class="soft">{escape(str(dataset.info.get("robot_type")))} · {dataset.fps:g} frames per second · '
        f"{len(record['joint_names'])} joints · {escape(pictures)} · actions: {escape(meaning)}</p></header>"
    )


def _verdict(record: Mapping[str, Any], ranked: Sequence[tuple[Told, list[Mark]]]) -> str:
    refused = sum(bag["status"] == "refused" for bag in record["bags"])
    gaps = sum(len(bag.get("gaps", [])) for bag in record["bags"])
    odd = sum(bool(marks) for _, marks in ranked)
    lines = []
    if refused:
        lines.append(f"{_count(refused, 'bag')} could not be converted: the reasons stand below.")
    if gaps:
        lines.append(
            f"{_count(gaps, 'gap')}, in which a stream was silent, {'are' if gaps > 1 else 'is'} in no episode."
        )
    if odd:
        which = (
            f"All {_count(odd, 'episode')}" if odd == len(ranked) > 1 else f"{_count(odd, 'episode')} of {len(ranked)}"
        )
        lines.append(f"{which} {'are' if odd > 1 else 'is'} worth a look: they stand below, the worst first.")
    if not record.get("pictures_verified", True):
        lines.append("Pictures were trusted: most of them were not decoded.")
    level = "bad" if refused else "warn" if lines else "good"
    head = {"bad": "Not everything was converted", "warn": "Converted, with something to look at"}.get(
        level, "Everything was converted, and nothing is odd"
    )
    return (
        f'<div class="verdict {level}"><p><strong>{head}</strong></p>'
        + "".join(f"<p>{line}</p>" for line in lines)
        + "</div>"
    )


def _tiles(record: Mapping[str, Any], told: Sequence[Told], fps: float) -> str:
    bags = record["bags"]
    refused = sum(bag["status"] == "refused" for bag in bags)
    frames = sum(one.frames for one in told)
    shown = frames * max(len(record["cameras"]), 1)
    held, dropped, repeated = (
        sum(one.facts.get(name, {}).get(camera, 0) for one in told for camera in record["cameras"])
        for name in ("held", "dropped", "repeated")
    )
    gaps = [gap for bag in bags for gap in bag.get("gaps", [])]
    left_out = sum(span["frames"] for bag in bags for span in bag.get("left_out", []))
    tiles = [
        ("Bags converted", f"{len(bags) - refused:,}", f"{refused:,} refused"),
        ("Episodes", f"{len(told):,}", f"{_seconds(frames / fps / max(len(told), 1))} each on average"),
        ("Frames", f"{frames:,}", _seconds(frames / fps)),
        ("Pictures held", f"{held:,}", f"{_percent(held, shown)} of all show the one before again"),
        ("Pictures dropped", f"{dropped:,}", "recorded, and in no frame"),
        ("Pictures repeated", f"{repeated:,}", "recorded twice, byte for byte"),
        ("Gaps", f"{len(gaps):,}", f"{_seconds(sum(gap['frames'] for gap in gaps) / fps)} in no frame"),
        ("Left out", f"{left_out:,}", "frames too short, idle or cut off"),
        ("Warnings", f"{sum(len(bag['warnings']) for bag in bags):,}", "about bags"),
    ]
    return (
        '<dl class="tiles">'
        + "".join(f"<div><dt>{name}</dt><dd>{value}<small>{words}</small></dd></div>" for name, value, words in tiles)
        + "</dl>"
    )


def _refused(record: Mapping[str, Any]) -> str:
    rows = "".join(
        f'<tr><th scope="row" class="l">{escape(bag["bag"])}</th><td class="words">{escape(str(bag["reason"]))}</td></tr>'
        for bag in record["bags"]
        if bag["status"] == "refused"
    )
    head = '<tr><th scope="col" class="l">Bag</th><th scope="col" class="l">Reason</th></tr>'
    return f"<h2>Refused bags</h2>{_table('', head, rows)}" if rows else ""


def _streams(streams: Sequence[StreamFacts]) -> str:
    rows = []
    for one in streams:
        latency = " to ".join(dict.fromkeys(f"{value:.1f}" for value in one.latency_ms or ()))
        why = "<br>".join(escape(reason) for reason in one.reasons)
        rows.append(
            f'<tr><th scope="row" class="l">{escape(one.name)}</th><td class="l">{escape(one.rule)}</td>'
            f'<td>{one.limit_ms:g}</td><td class="words">{escape(one.clocks)}{"<br>" + why if why else ""}</td>'
            f"<td>{latency}</td><td>{one.mean_ms:.1f}</td><td>{one.p95_ms:.1f}</td><td>{one.max_ms:.1f}</td></tr>"
        )
    names = ("Stream", "Rule", "Limit, ms", "Clock", "Latency, ms", "Mean age, ms", "95 %, ms", "Oldest, ms")
    head = "".join(f'<th scope="col"{_left(at in (0, 1, 3))}>{name}</th>' for at, name in enumerate(names))
    note = (
        "How each stream was aligned. Latency: received minus stamped, median of a bag. Age: how far a frame's sample "
        "lies from it; 95 % of the worst episode."
    )
    return f"<h2>Streams and clocks</h2>{_table(note, f'<tr>{head}</tr>', ''.join(rows))}"


def _all_episodes(
    told: Sequence[Told],
    ranked: Sequence[tuple[Told, list[Mark]]],
    shown: set[int],
    record: Mapping[str, Any],
    fps: float,
) -> str:
    rank = {one.number: (at, len(marks)) for at, (one, marks) in enumerate(ranked, 1)}
    cameras = record["cameras"]
    rows = []
    for one in told:
        number, ages = one.number, one.facts.get("age_ms", {})
        name = f'<a href="#episode-{number}">{number}</a>' if number in shown else str(number)
        counts = (sum(one.facts.get(key, {}).get(camera, 0) for camera in cameras) for key in ("held", "dropped"))
        oldest = max((age["max"] for age in ages.values()), default=0.0)
        cells = [f"{one.frames / fps:.1f}", *(str(count) for count in counts), f"{oldest:.0f}", str(rank[number][1])]
        rows.append(
            f'<tr><th scope="row">{name}</th><td class="l">{escape(one.bag["bag"])}</td>'
            + "".join(f"<td>{cell}</td>" for cell in cells)
            + f"<td>{rank[number][0]}</td></tr>"
        )
    names = ("Episode", "Bag", "Length, s", "Held", "Dropped", "Oldest sample, ms", "Remarks", "Rank, worst first")
    head = "".join(f'<th scope="col"{_left(at == 1)}>{name}</th>' for at, name in enumerate(names))
    note = "In the order of the dataset." + (
        " Linked episodes are shown in detail below." if len(shown) < len(told) else ""
    )
    opened = " open" if len(told) <= 40 else ""
    table = _table(note, f"<tr>{head}</tr>", "".join(rows))
    summary = f"{_count(len(told), 'episode')} in a table"
    return f"<h2>All episodes</h2><details{opened}><summary>{summary}</summary>{table}</details>"


def _cards(shown: Sequence[tuple[Told, list[Mark]]], count: int, dataset: Dataset, record: Mapping[str, Any]) -> str:
    left = count - len(shown)
    words = f"The worst {len(shown)} of {count}; {left} more are in the table only." if left else "Worst first."
    cards = "".join(card(told, marks, dataset, record) for told, marks in shown)
    return (
        f'<h2 id="episodes" tabindex="-1">Episodes</h2><p class="soft">{words} What counts: frames that repeat a picture, '
        "pictures that are missing, samples near their limit, gaps beside the episode, and warnings about its bag.</p>"
        f"{cards}"
    )


def _settings(record: Mapping[str, Any]) -> str:
    text = yaml.safe_dump(record["config"], sort_keys=False, allow_unicode=True, width=100)
    summary = "<summary>The whole configuration</summary>"
    return f'<h2>Settings</h2><details>{summary}<pre tabindex="0">{escape(text)}</pre></details>'


def _table(note: str, head: str, rows: str) -> str:
    """Return a table in a box that scrolls by itself, so that the page never does."""
    words = f'<p class="note">{escape(note)}</p>' if note else ""
    return (
        f'{words}<div class="scroll" tabindex="0" role="region" aria-label="{escape(note) or "Table"}">'
        f"<table><thead>{head}</thead><tbody>{rows}</tbody></table></div>"
    )


def _versions(record: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {version}" for name, version in record["tool"].items() if name != "name")


def _left(yes: bool) -> str:
    return ' class="l"' if yes else ""


def _count(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'s' * (count != 1)}"


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "0 %"


def _seconds(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
