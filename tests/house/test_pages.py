"""Pages that people read: links lead somewhere, lines are short, decisions have their form."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DECISIONS = ROOT / "csrc/decisions"
FOLDERS = ("", "bench/", "csrc/", "csrc/decisions/", "csrc/formats/", "tests/", "tests/pruning/")
PAGES = sorted(path for folder in FOLDERS for path in (ROOT / folder).glob("*.md"))
ENTRIES = sorted(DECISIONS.glob("[0-9]*.md"))
LINK = re.compile(r"\]\(([^)\s]+)\)")


def anchors(text: str) -> set[str]:
    """What a link may name behind `#`: the headings, as GitHub spells them."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def prose(text: str) -> list[str]:
    """Lines outside code blocks, tables, pictures and what --publish makes."""
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    text = re.sub(r"<!-- quality: made.*?<!-- quality: end -->", "", text, flags=re.DOTALL)
    return [line for line in text.splitlines() if not line.startswith(("|", "!["))]


@pytest.mark.parametrize("path", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    for target in LINK.findall(path.read_text()):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        page = (path.parent / file).resolve() if file else path
        assert page.exists(), target
        assert not anchor or anchor in anchors(page.read_text()), target


@pytest.mark.parametrize("path", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_lines_of_prose_are_short(path: Path) -> None:
    long = [line for line in prose(path.read_text()) if len(line) > 100]
    assert not long


@pytest.mark.parametrize("path", ENTRIES, ids=lambda p: p.stem)
def test_a_decision_has_its_form(path: Path) -> None:
    text = path.read_text()
    number = path.name[:4]
    assert re.match(rf"# {number}\. .+\n\n20\d\d-\d\d-\d\d", text), (
        "expected '# NNNN. Title', an empty line and a date"
    )
    assert "\n## Decision\n" in text
    assert len(text.splitlines()) <= 90, "a page"


def test_the_index_of_decisions_is_complete_and_newest_first() -> None:
    index = (DECISIONS / "README.md").read_text()
    listed = re.findall(r"^\| (\d{4}-\d\d-\d\d) \| \[(\d{4})\]\((.+?)\)", index, re.MULTILINE)
    assert [name for _, _, name in listed] == [path.name for path in reversed(ENTRIES)]
    for date, number, name in listed:
        assert name.startswith(number)
        assert date in (DECISIONS / name).read_text()


def test_the_reader_sees_what_it_should() -> None:
    text = "# A b, c!\n```\n" + "x" * 200 + "\n```\n| " + "y" * 200 + " |\nshort\n"
    assert anchors(text) == {"a-b-c"}
    assert [line for line in prose(text) if len(line) > 100] == []
    assert LINK.findall("[a](b.md#c) ![d](e.svg)") == ["b.md#c", "e.svg"]
