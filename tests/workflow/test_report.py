"""`snakemake --report`: one page with every table and figure under its caption, which loads nothing from elsewhere."""

from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from browser import Browser
from debian import program
from small_project import TABLE, Project

SHOWN = TABLE.replace(".csv", ".html")
FIGURE = "results/figures/digits_smoke/groups.svg"
LOADS = {"script": "src", "link": "href", "img": "src", "iframe": "src", "object": "data", "source": "src"}


class Page(HTMLParser):
    """What a browser would fetch, and the text of the scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.inside, self.scripts, self.styles = "", [], []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.inside = tag
        address = dict(attrs).get(LOADS.get(tag, ""))
        if address:
            self.fetched.append(address)

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside in ("script", "style"):
            (self.scripts if self.inside == "script" else self.styles).append(data)

    def variable(self, name: str) -> dict:
        """A JSON literal that a script of its own assigns."""
        found = [s.strip() for s in self.scripts if s.strip().startswith(f"var {name} = {{")]
        assert len(found) == 1, f"{len(found)} scripts assign {name}"
        return json.loads(found[0].removeprefix(f"var {name} = ").removesuffix(";"))


@pytest.fixture(scope="module")
def report(finished: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a finished smoke table and one figure of it."""
    project = finished.copy(tmp_path_factory.mktemp("report") / "project")
    project.run("snakemake", "--cores", "1", TABLE, FIGURE)
    project.run("snakemake", "--report", "report.html", TABLE, FIGURE)
    return project.root / "report.html"


@pytest.mark.slow
def test_tables_and_figures_with_captions(report: Path) -> None:
    page = Page(report.read_text())
    shown = page.variable("results")
    assert set(shown) == {SHOWN, FIGURE}
    assert page.variable("categories") == {"Tables": {"Other": [SHOWN]}, "Figures": {"digits_smoke": [FIGURE]}}
    table, figure = shown[SHOWN], shown[FIGURE]
    assert "digits_smoke" in table["caption"] and "not comparable" in table["caption"]
    assert "Digits, small." in table["caption"]  # of params.yaml
    assert "Accuracy of the classes with many, medium and few training images." in figure["caption"]
    assert table["labels"] == {"table": "digits_smoke"} and figure["labels"] == {"figure": "groups"}
    for path, entry in shown.items():
        assert not re.search(r"[{}]|Undefined", entry["caption"]), entry["caption"]
        content = base64.b64decode(entry["data_uri"].partition("base64,")[2])
        assert content == (report.parent / path).read_bytes()


def test_every_figure_has_a_caption() -> None:
    """Each figure that a table may ask for is named in the caption's list."""
    from lt.stages.plot import DRAW

    text = (Path(__file__).parents[2] / "workflow/report/figure.rst").read_text()
    assert set(re.findall(r'(?m)^  "(\w+)":', text)) == set(DRAW)


@pytest.mark.slow
def test_nothing_is_loaded_from_elsewhere(report: Path) -> None:
    page = Page(report.read_text())
    assert len(page.scripts) > 3 and page.styles
    assert [a for a in page.fetched if not a.startswith(("data:", "#"))] == []
    for style in page.styles:
        outside = re.findall(r"@import[^;]*|url\(\s*['\"]?(?!data:|#)[^)]*\)", style)
        assert outside == []


@pytest.mark.slow
def test_a_real_browser_shows_tables_and_figures_offline(report: Path, tmp_path: Path) -> None:
    click = "[...document.querySelectorAll('a')].find(e => e.innerText.trim() === '{}').click()"
    eye = "document.querySelector('[iconname=eye]')"
    with Browser(program("chromium", "chromium"), tmp_path) as page:
        for domain in ("Network", "Runtime", "Log", "Page"):
            page(f"{domain}.enable")
        page("Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=-1, uploadThroughput=-1)
        page("Page.navigate", url=report.as_uri())
        page.wait("document.body?.innerText.includes('Tables')", 90)
        empty = page.screenshot()
        figure = "img[src*='groups.svg']"
        for category, steps, kind in (("Tables", [], "iframe"), ("Figures", ["digits_smoke"], figure)):
            page.value(click.format(category))
            for step in steps:
                page.wait(f"!!{eye} || [...document.querySelectorAll('a')].some(e => e.innerText.trim() === '{step}')")
                if not page.value(f"!!{eye}"):
                    page.value(click.format(step))
            page.wait(f"!!{eye}")
            page.value(f"{eye}.click()")
            box = page.wait(f'(e => e && e.getBoundingClientRect().toJSON())(document.querySelector("{kind}"))')
            assert box["width"] > 100 and box["height"] > 100, box
            if kind == "iframe":  # the table's own document, rendered: its rows have a height
                frame = page("Page.getFrameTree")["frameTree"]["childFrames"][0]["frame"]["id"]
                world = page("Page.createIsolatedWorld", frameId=frame)["executionContextId"]
                rows = "[...document.querySelectorAll('tbody td:first-child')].map(e => [e.innerText, e.offsetHeight])"
                found = page("Runtime.evaluate", expression=rows, contextId=world, returnByValue=True)["result"]
                assert [name for name, height in found["value"] if height > 5] == ["ce", "mixup", "mislas"]
            else:  # decoded and drawn
                assert page.wait(f'document.querySelector("{kind}").naturalWidth') > 100
            assert page.screenshot() != empty
            page.value(click.format("Results"))
            page.wait("document.body.innerText.includes('Tables') && document.body.innerText.includes('Figures')")
        asked = [e["request"]["url"] for e in page.reported("Network.requestWillBeSent")]
        assert [url for url in asked if not url.startswith("data:")] == [report.as_uri()]
        assert page.reported("Network.loadingFailed") == page.reported("Runtime.exceptionThrown") == []
        assert [e["entry"]["text"] for e in page.reported("Log.entryAdded") if e["entry"]["level"] == "error"] == []
