"""The check that every page must pass finds each of the flaws it is made for."""

from pathlib import Path

import pytest

from tests.browser import FLAWS, NARROW, check_page, find_serious, visit

pytestmark = pytest.mark.browser
SOUND = """<!doctype html><html lang="en"><head><title>t</title><style>
body { background: #fff }
.skip { position: absolute; left: -100vw }
.skip:focus { left: 0; outline: 2px solid }
</style></head><body><a class="skip" href="#verdict">Skip to the verdict</a><h1>Title</h1>
<main><section id="verdict" tabindex="-1"><h2>Verdict</h2></section><a href="#verdict">up</a>
<div tabindex="0">table</div></main></body></html>"""
MISTAKES = {  # what is added to a sound page -> how the flaw is named
    '<div style="width: 500px">wide</div>': "scrolls sideways",
    '<script src="data:,"></script><iframe></iframe>': "loads something",
    '<img src="data:," alt="">': "image without a text or broken",
    "<svg></svg>": "drawing without a name",
    "<table></table>": "table without a name",
    '<p id="verdict">again</p>': "id that is taken",
    '<a href="#nowhere">there</a>': "link to nowhere",
    "<h1>Another</h1>": "its one h1",
    "<h4>Deep</h4>": "heading that skips a level",
    '<p style="font-size: 9px">small</p>': "text below 11 px",
    '<p style="color: #aaa; background: #fff">pale</p>': "text that is hard to read",
}


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    (tmp_path / "page.html").write_text(SOUND)
    return tmp_path / "page.html"


def test_every_flaw_is_found(sound: Path) -> None:
    with visit(sound, NARROW) as seen:
        for mistake, name in MISTAKES.items():
            seen.page.set_content(SOUND.replace("</main>", f"{mistake}</main>"))
            found = seen.page.evaluate(FLAWS)
            assert any(name in flaw for flaw in found), (name, found)


@pytest.mark.slow
def test_axe_core_looks_at_the_page(sound: Path) -> None:
    assert find_serious(sound) == []
    sound.write_text(SOUND.replace("</main>", '<input type="range"></main>'))
    assert [line.split()[0] for line in find_serious(sound)] == ["label", "label"]


@pytest.mark.slow
def test_a_sound_page_passes_and_an_element_left_open_does_not(sound: Path) -> None:
    check_page(sound)
    sound.write_text(SOUND.replace("</div>", ""))
    with pytest.raises(AssertionError):
        check_page(sound)
