"""Tables and pictures of a result file into the page about the bench."""

from pathlib import Path

from bench.quality.plots import draw
from bench.quality.tables import quality_tables
from bench.records import Record
from bench.tables import machine_text

FOLDER = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- quality: made by --publish -->", "<!-- quality: end -->"


def publish(records: list[Record], page: Path = FOLDER / "README.md") -> list[Path]:
    """Replace what stands between the two marks of `page`, and the pictures in `pictures/` beside it. What
    the records have nothing of disappears. Raises ValueError where the marks are missing."""
    text = page.read_text()
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{page}: expected the marks {BEGIN} and {END}")
    folder = page.parent / "pictures"
    folder.mkdir(exist_ok=True)
    for old in folder.glob("quality-*.svg"):
        old.unlink()
    pictures = draw(records, folder)
    parts = [_source(records), *(f"![{path.stem}](pictures/{path.name})" for path in pictures)]
    parts += [table.markdown() for table in quality_tables(records)]
    page.write_text(head + begin + "\n" + "\n\n".join(parts) + "\n" + end + tail)
    return [page, *pictures]


def _source(records: list[Record]) -> str:
    """The machine, and at which commits the parts were measured: a file may have been gone on with."""
    machine = " ".join(machine_text(records).split())
    commits: dict[str, dict[str, None]] = {}
    for r in records:
        if "key" in r:
            name = r["part"] + {"quality-time": " times", "quality-balance": " times"}.get(r["record"], "")
            commits.setdefault(name, {})[r["commit"]] = None
    found = "; ".join(f"{name} at {', '.join(every)}" for name, every in commits.items())
    return f"{machine}. Commits: {found}."
