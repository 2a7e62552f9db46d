"""`snakemake --report`: one page with every table and figure under its caption, which loads nothing from elsewhere."""

from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from small_project import TABLE, Project

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
    assert set(shown) == {TABLE, FIGURE}
    assert page.variable("categories") == {"Tables": {"Other": [TABLE]}, "Figures": {"digits_smoke": [FIGURE]}}
    table, figure = shown[TABLE], shown[FIGURE]
    assert "digits_smoke" in table["caption"] and "not comparable" in table["caption"]
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
