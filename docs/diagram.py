"""A Mermaid flowchart of plain arrows as SVG, so that a page needs no script; GitHub draws the same text by itself."""

from html import escape
from itertools import pairwise

# Pixels. An arrow passes the rows between its ends in a lane of its own.
ROW, BOX, GAP, LETTER, LANE = 76, 30, 14, 8, 6
SWEEPS = 30

Arrow = tuple[str, str]
Stop = str | tuple[Arrow, int]  # a box by its name, or an arrow's lane in a row


def svg(flowchart: str) -> str:
    """Return the drawing: who is imported by nobody at the top, every arrow downward."""
    arrows = [(line.split()[0], line.split()[2]) for line in flowchart.splitlines() if "-->" in line]
    row = _rows(arrows)
    ways = [_way(arrow, row) for arrow in arrows]
    x = _columns(ways, row)
    width, height = max(x[stop] + _width(stop) / 2 for stop in x) + 2, max(row.values()) * ROW + BOX + 2
    said = "; ".join(f"{importer} imports {imported}" for importer, imported in arrows)
    return (
        f'<svg class="diagram" role="img" xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" '
        f'viewBox="-1 {-BOX / 2 - 1:g} {width:.0f} {height}"><title>{escape(said)}</title>'
        + "".join(_arrow(way, x, row) for way in ways)
        + "".join(_box(name, x[name], row[name] * ROW) for name in row if isinstance(name, str))
        + "</svg>"
    )


def _rows(arrows: list[Arrow]) -> dict[Stop, int]:
    """Return the row of each box, as far down as what it imports allows."""

    def height(name: str) -> int:
        return max((1 + height(imported) for importer, imported in arrows if importer == name), default=0)

    heights = {name: height(name) for arrow in arrows for name in arrow}
    return {name: max(heights.values()) - heights[name] for name in heights}


def _way(arrow: Arrow, row: dict[Stop, int]) -> list[Stop]:
    """Return an arrow's stops from row to row; row gains its lanes."""
    start, end = arrow
    lanes: list[Stop] = [(arrow, between) for between in range(row[start] + 1, row[end])]
    row.update({lane: row[start] + 1 + i for i, lane in enumerate(lanes)})
    return [start, *lanes, end]


def _columns(ways: list[list[Stop]], row: dict[Stop, int]) -> dict[Stop, float]:
    """Return x of each stop: again and again each moves to the mean of those it is joined with, as far as there is room."""
    joined: dict[Stop, list[Stop]] = {stop: [] for stop in row}
    for way in ways:
        for upper, lower in pairwise(way):
            joined[upper].append(lower)
            joined[lower].append(upper)
    rows = [[stop for stop in row if row[stop] == number] for number in range(max(row.values()) + 1)]
    x = {stop: 100.0 * place for stops in rows for place, stop in enumerate(stops)}
    for sweep in range(SWEEPS):
        for stops in rows if sweep % 2 else reversed(rows):
            wanted = {stop: sum(x[other] for other in joined[stop]) / len(joined[stop]) for stop in stops}
            if sweep < SWEEPS - 10:  # then the order stays, and only distances change
                stops.sort(key=lambda stop: wanted[stop])
            x |= _apart(stops, wanted)
    left = min(x[stop] - _width(stop) / 2 for stop in x)
    return {stop: x[stop] - left for stop in x}


def _apart(stops: list[Stop], wanted: dict[Stop, float]) -> dict[Stop, float]:
    """Return x in the order of stops, near the wanted ones: the mean of pushing to the right and pushing to the left."""
    right, left = dict(wanted), dict(wanted)
    for a, b in pairwise(stops):
        right[b] = max(right[b], right[a] + (_width(a) + _width(b)) / 2 + GAP)
    for b, a in pairwise(reversed(stops)):
        left[a] = min(left[a], left[b] - (_width(a) + _width(b)) / 2 - GAP)
    return {stop: (right[stop] + left[stop]) / 2 for stop in stops}


def _width(stop: Stop) -> float:
    return len(stop) * LETTER + 20 if isinstance(stop, str) else LANE


def _arrow(way: list[Stop], x: dict[Stop, float], row: dict[Stop, int]) -> str:
    d = f"M{x[way[0]]:.0f} {row[way[0]] * ROW + BOX / 2:g}"
    for upper, lower in pairwise(way):
        start, end = row[upper] * ROW + BOX / 2, row[lower] * ROW - BOX / 2
        middle = (start + end) / 2
        d += f"L{x[upper]:.0f} {start:g}C{x[upper]:.0f} {middle:g} {x[lower]:.0f} {middle:g} {x[lower]:.0f} {end:g}"
    tip = f"{x[way[-1]]:.0f} {row[way[-1]] * ROW - BOX / 2:g}"
    return f'<path class="arrow" d="{d}"/><path class="head" d="M{tip}l-3.5 -7h7z"/>'


def _box(name: str, x: float, y: float) -> str:
    width = _width(name)
    return (
        f'<rect x="{x - width / 2:.0f}" y="{y - BOX / 2:g}" width="{width}" height="{BOX}" rx="4"/>'
        f'<text x="{x:.0f}" y="{y + 5:g}">{escape(name)}</text>'
    )
