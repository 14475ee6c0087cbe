"""A dataset in; meta/conversion.html out: one page that shows what a conversion or a merge did, episodes worst first.

The page needs nothing but itself: images are data URIs, curves inline SVG, and there is no script. Equal datasets give
equal bytes.
"""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import yaml

from common.lerobot.dataset import STATE, Dataset, read_episodes
from common.storage.files import read_json, write_file
from stage1_convert.report.card import UNRECORDED, card
from stage1_convert.report.record import (
    EpisodeRecord,
    Issue,
    Part,
    episodes_of,
    on_the_edge,
    parts_of,
    streams_of,
    worst_first,
)
from stage1_convert.report.style import STYLE

PAGE, RECORD = "meta/conversion.html", "meta/conversion.json"
CARDS = 24  # episodes that are shown in detail: some 150 kB each


def write_page(root: Path, cards: int = CARDS) -> None:
    """Write the page of the dataset at `root`, whose meta/conversion.json and files are complete."""
    write_file(root / PAGE, render(root, cards).encode(errors="backslashreplace"))


def render(root: Path, cards: int = CARDS) -> str:
    """Return the page as HTML; the worst `cards` episodes are shown in detail."""
    record, dataset = read_json(root / RECORD), Dataset.open(root)
    told = episodes_of(record, list(zip((one.length for one in dataset.episodes), _tasks(root), strict=True)))
    parts = parts_of(record, 0, len(told))
    ranked = worst_first(told, dataset.fps)
    shown = ranked[:cards]
    bags = sum(bag["status"] == "converted" for bag in record["bags"])
    sources = _count(len(parts), "dataset") if "merged" in record else _count(bags, "bag")
    title = f"{_count(len(told), 'episode')} from {sources}"
    return "".join(
        [
            '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width,initial-scale=1">',
            f"<title>Conversion: {escape(title)}</title><style>{STYLE}</style></head><body>",
            '<a class="skip" href="#episodes">Skip to the episodes</a>',
            _header(parts, dataset, told, title),
            "<main>",
            _verdict(record, parts, ranked),
            _tiles(record, told, dataset.fps),
            _refused(record),
            _parts(parts, told) if "merged" in record else "",
            _streams(parts, told),
            _all_episodes(told, ranked, {one.number for one, _ in shown}, dataset.fps),
            _cards(shown, len(told), dataset),
            _settings(parts),
            f"</main><footer>Written by {escape(record['tool']['name'])}, with {escape(_versions(record))}. "
            "The same in numbers: conversion.json and sync/ beside this page.</footer></body></html>\n",
        ]
    )


def _tasks(root: Path) -> list[str]:
    """Return what every episode shows, in words."""
    return ["; ".join(row["tasks"]) for row in read_episodes(root, "tasks".__eq__)]


def _header(parts: Sequence[Part], dataset: Dataset, told: Sequence[EpisodeRecord], title: str) -> str:
    tasks = sorted({one.task for one in told})
    some = "; ".join(f"“{task}”" for task in tasks[:3]) + (
        f" and {len(tasks) - 3} more tasks" if len(tasks) > 3 else ""
    )
    images = ", ".join(f"{camera} {h} x {w}" for camera, (h, w, _) in dataset.cameras.items())
    meaning = (dataset.action_meaning or "meaning unknown").replace("_", " ")
    states = _count(dataset.features[STATE].shape[0], "number") + " of state"
    joints = next((_count(len(part.head["joint_names"]), "joint") for part in parts if part.head), states)
    return (
        f"<header><h1>{escape(title)}</h1>"
        f'<p class="lead">{escape(some)}</p>'
        f'<p class="soft">{escape(str(dataset.info.robot_type))} · {dataset.fps:g} frames per second · '
        f"{joints} · {escape(images)} · actions: {escape(meaning)}</p></header>"
    )


def _verdict(
    record: Mapping[str, Any], parts: Sequence[Part], ranked: Sequence[tuple[EpisodeRecord, list[Issue]]]
) -> str:
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
    jittered = sum(on_the_edge(one) for one, _ in ranked)
    if jittered:
        lines.append(
            f"In {_count(jittered, 'episode')} jitter moves images across the frames' ticks: one is shown twice, and another "
            "never. data.grid_delay_ms, half the camera's period, lays the ticks between the images."
        )
    unknown = sum(not one.bag for one, _ in ranked)
    if unknown:
        lines.append(f"Of {_count(unknown, 'episode')} there is {UNRECORDED}.")
    if not all(part.head.get("pictures_verified", True) for part in parts):
        lines.append("Images were trusted: most of them were not decoded.")
    level, done = "bad" if refused else "warn" if lines else "good", "joined" if "merged" in record else "converted"
    head = {"bad": "Not everything was converted", "warn": f"{done.capitalize()}, with something to look at"}.get(
        level, f"Everything was {done}, and nothing is odd"
    )
    return (
        f'<div class="verdict {level}"><p><strong>{head}</strong></p>'
        + "".join(f"<p>{line}</p>" for line in lines)
        + "</div>"
    )


def _tiles(record: Mapping[str, Any], told: Sequence[EpisodeRecord], fps: float) -> str:
    bags = record["bags"]
    refused = sum(bag["status"] == "refused" for bag in bags)
    frames = sum(one.frames for one in told)
    known = [one for one in told if one.bag]
    shown = sum(one.frames * len(one.head["cameras"]) for one in known)
    held, dropped, repeated = (sum(_of_cameras(one, name) for one in known) for name in ("held", "dropped", "repeated"))
    gaps = [gap for bag in bags for gap in bag.get("gaps", [])]
    left_out = sum(span["frames"] for bag in bags for span in bag.get("left_out", []))
    tiles = [
        ("Episodes", f"{len(told):,}", f"{_seconds(frames / fps / max(len(told), 1))} each on average"),
        ("Frames", f"{frames:,}", _seconds(frames / fps)),
    ]
    tiles += bool(known) * [
        ("Bags converted", f"{len(bags) - refused:,}", f"{refused:,} refused"),
        ("Images held", f"{held:,}", f"{_percent(held, shown)} of all show the one before again"),
        ("Images dropped", f"{dropped:,}", "recorded, and in no frame"),
        ("Images repeated", f"{repeated:,}", "recorded twice, byte for byte"),
        ("Gaps", f"{len(gaps):,}", f"{_seconds(sum(gap['frames'] for gap in gaps) / fps)} in no frame"),
        ("Left out", f"{left_out:,}", "frames too short, idle or cut off"),
        ("Warnings", f"{sum(len(bag['warnings']) for bag in bags):,}", "about bags"),
    ]
    return (
        '<dl class="tiles">'
        + "".join(f"<div><dt>{name}</dt><dd>{value}<small>{words}</small></dd></div>" for name, value, words in tiles)
        + "</dl>"
    )


def _of_cameras(one: EpisodeRecord, name: str) -> int:
    return sum(one.facts.get(name, {}).get(camera, 0) for camera in one.head.get("cameras", ()))


def _refused(record: Mapping[str, Any]) -> str:
    rows = "".join(
        f'<tr><th scope="row" class="l">{escape(bag["bag"])}</th><td class="words">{escape(str(bag["reason"]))}</td></tr>'
        for bag in record["bags"]
        if bag["status"] == "refused"
    )
    head = '<tr><th scope="col" class="l">Bag</th><th scope="col" class="l">Reason</th></tr>'
    return f"<h2>Refused bags</h2>{_table('', head, rows)}" if rows else ""


def _parts(parts: Sequence[Part], told: Sequence[EpisodeRecord]) -> str:
    rows = []
    for part in parts:
        bags = len({one.bag["bag"] for one in told[part.start : part.stop] if one.bag})
        words = f"converted from {_count(bags, 'bag')}; streams and settings stand below" if bags else UNRECORDED
        rows.append(f'<tr><th scope="row" class="l">{_span(part)}</th><td class="words">{words}</td></tr>')
    head = '<tr><th scope="col" class="l">Episodes</th><th scope="col" class="l">What is known of them</th></tr>'
    return f"<h2>Joined from</h2>{_table('', head, ''.join(rows))}"


def _span(part: Part) -> str:
    return f"{part.start} to {part.stop - 1}" if part.stop > part.start + 1 else f"{part.start}"


def _streams(parts: Sequence[Part], told: Sequence[EpisodeRecord]) -> str:
    recorded = [part for part in parts if part.head]
    found = [(part, one) for part in recorded for one in streams_of(part.head, told[part.start : part.stop])]
    if not found:
        return ""
    rows = []
    for part, one in found:
        latency = " to ".join(dict.fromkeys(f"{value:.1f}" for value in one.latency_ms or ()))
        why = "<br>".join(escape(reason) for reason in one.reasons)
        rows.append(
            f'<tr><th scope="row" class="l">{escape(one.name)}</th>'
            + (f'<td class="l">{_span(part)}</td>' if len(parts) > 1 else "")
            + f'<td class="l">{escape(one.rule)}</td>'
            f'<td>{one.limit_ms:g}</td><td class="words">{escape(one.clocks)}{"<br>" + why if why else ""}</td>'
            f"<td>{latency}</td><td>{one.mean_ms:.1f}</td><td>{one.p95_ms:.1f}</td><td>{one.max_ms:.1f}</td></tr>"
        )
    names = ["Stream", *["Episodes"] * (len(parts) > 1), "Rule", "Limit, ms", "Clock", "Latency, ms"]
    names += ["Mean age, ms", "95 %, ms", "Oldest, ms"]
    left = ("Stream", "Episodes", "Rule", "Clock")
    head = "".join(f'<th scope="col"{_left(name in left)}>{name}</th>' for name in names)
    note = (
        "How each stream was aligned. Latency: received minus stamped, median of a bag. Age: how far a frame's sample "
        "lies from it; 95 % of the worst episode."
    )
    return f"<h2>Streams and clocks</h2>{_table(note, f'<tr>{head}</tr>', ''.join(rows))}"


def _all_episodes(
    told: Sequence[EpisodeRecord],
    ranked: Sequence[tuple[EpisodeRecord, list[Issue]]],
    shown: set[int],
    fps: float,
) -> str:
    rank = {one.number: (at, len(marks)) for at, (one, marks) in enumerate(ranked, 1)}
    rows = []
    for one in told:
        number, ages = one.number, one.facts.get("age_ms", {})
        name = f'<a href="#episode-{number}">{number}</a>' if number in shown else str(number)
        oldest = max((age["max"] for age in ages.values()), default=0.0)
        place, remarks = rank[number]
        cells = [_of_cameras(one, "held"), _of_cameras(one, "dropped"), f"{oldest:.0f}", remarks, place]
        cells = [f"{one.frames / fps:.1f}", *(cells if one.bag else "?" * len(cells))]
        rows.append(
            f'<tr><th scope="row">{name}</th><td class="l">{escape(one.bag.get("bag", "unknown"))}</td>'
            + "".join(f"<td>{cell}</td>" for cell in cells)
            + "</tr>"
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


def _cards(shown: Sequence[tuple[EpisodeRecord, list[Issue]]], count: int, dataset: Dataset) -> str:
    left = count - len(shown)
    words = f"The worst {len(shown)} of {count}; {left} more are in the table only." if left else "Worst first."
    words += (
        " What counts: frames that repeat an image, images that are missing, samples near their limit, gaps beside the "
        "episode, and warnings about its bag."
    )
    if not any(told.bag for told, _ in shown):
        words = f"{len(shown)} of {count}, in their order: nothing is known to rank them by."
    cards = "".join(card(told, marks, dataset) for told, marks in shown)
    return f'<h2 id="episodes" tabindex="-1">Episodes</h2><p class="soft">{words}</p>{cards}'


def _settings(parts: Sequence[Part]) -> str:
    settings = []
    for part in (part for part in parts if part.head):
        text = yaml.safe_dump(part.head["config"], sort_keys=False, allow_unicode=True, width=100)
        of = f" of episodes {_span(part)}" if len(parts) > 1 else ""
        summary = f"<summary>The whole configuration{of}</summary>"
        settings.append(f'<details>{summary}<pre tabindex="0">{escape(text)}</pre></details>')
    return f"<h2>Settings</h2>{''.join(settings)}" if settings else ""


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
