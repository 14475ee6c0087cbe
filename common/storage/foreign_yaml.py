"""YAML of strangers in; its nodes and its content, of bounded depth and size, out.

libyaml builds a document by recursion in C and runs over the end of its stack; aliases multiply; and a number in base 60,
as YAML 1.1 has them, takes time by the square of its length. A look at the events, which recurse nowhere, comes first.
"""

from typing import Any

import yaml

from common.cli.command import one_line

LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
MAX_DEPTH, MAX_PARTS = 50, 100_000
MAX_DIGITS = 10_000
PART_CHARS = 64  # so much text that an alias repeats counts as a part


def load(text: str) -> tuple[yaml.Node | None, Any]:
    """Return a document's node and its content; raises YAMLError for whatever is wrong with it."""
    _refuse_bombs(text)
    try:
        loader = LOADER(text)
        node = loader.get_single_node()
        return node, loader.construct_document(node) if node else None
    except (ValueError, TypeError, AttributeError, OverflowError, LookupError) as error:
        # PyYAML's own words on a number or a date that is none.
        raise yaml.YAMLError(f"a value is not what its form or its tag says: {one_line(error)}") from error


def _refuse_bombs(text: str) -> None:
    """Raise YAMLError when a document is nested too deeply, or grows too large or without end by its aliases."""
    open_parts: list[tuple[str | None, int]] = []  # anchor, and how many parts there were before it
    known: dict[str, int] = {}
    parts = written = 0  # written: what the text itself takes, of which there may be any amount
    for event in yaml.parse(text, Loader=LOADER):
        before = parts
        if isinstance(event, yaml.AliasEvent):
            parts += known.get(str(event.anchor), MAX_PARTS if event.anchor in dict(open_parts) else 1)
        elif isinstance(event, yaml.CollectionStartEvent):
            parts += 1
            open_parts.append((event.anchor, before))
        elif isinstance(event, yaml.ScalarEvent):
            if event.implicit[0] and len(event.value) > MAX_DIGITS and event.value[0] in "+-.0123456789":
                raise _fault(f"a number of more than {MAX_DIGITS:,} digits", event)
            parts += 1 + len(event.value) // PART_CHARS
            written += len(event.value) // PART_CHARS
            known |= {event.anchor: parts - before} if event.anchor else {}
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_parts.pop()
            known |= {anchor: parts - before} if anchor else {}
        if len(open_parts) > MAX_DEPTH:
            raise _fault(f"more than {MAX_DEPTH} levels", event)
        if parts - written > MAX_PARTS:
            raise _fault(f"more than {MAX_PARTS:,} parts", event)


def _fault(what: str, event: Any) -> yaml.YAMLError:
    return yaml.MarkedYAMLError(None, None, f"the document has {what}", event.start_mark)
