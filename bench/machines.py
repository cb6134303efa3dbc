"""`python -m bench.machines`: the picture of the top-level README, drawn from the table above it."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "bench/pictures/machines.svg"
STYLES = {"dense bf16": ":", "dense int8": "--"}


@dataclass(frozen=True)
class Line:
    """One row of the table; speeds over torch fp32, dense engines by name, prunus by sparsity in percent."""

    machine: str
    case: str
    dense: dict[str, float]
    sparse: dict[int, float]


def read(page: str) -> list[Line]:
    """The rows of the table whose first column is "machine"; empty cells are left out."""
    table = re.search(r"^\| machine \|.*?(?=\n\n)", page, re.MULTILINE | re.DOTALL)
    if table is None:
        raise ValueError("page: expected a table whose first column is 'machine', got none")
    head, _, *rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in table[0].splitlines()]
    lines = []
    for row in rows:
        cells = {name: cell for name, cell in zip(head, row, strict=True) if cell}
        dense = {name: float(cell) for name, cell in cells.items() if name.startswith("dense")}
        sparse = {int(name[:-2]): float(cell) for name, cell in cells.items() if name.endswith(" %")}
        lines.append(Line(cells["machine"], cells["case"], dense, sparse))
    return lines


def description(lines: list[Line]) -> str:
    """The figures as text, which goes into the picture: a test sees whether it is of this table."""
    return "; ".join(f"{line.machine}, {line.case}: {line.dense} {line.sparse}" for line in lines)


def draw(lines: list[Line], path: Path) -> None:
    """One panel per machine and case: prunus over sparsity, the dense engines and torch fp32 as levels."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "prunus", "font.size": 9})
    from matplotlib import pyplot

    machines = list(dict.fromkeys(line.machine for line in lines))
    cases = list(dict.fromkeys(line.case for line in lines))
    size = (3.2 * len(machines), 2.6 * len(cases))
    figure, panels = pyplot.subplots(
        len(cases), len(machines), figsize=size, sharex=True, sharey=True, squeeze=False, layout="constrained"
    )
    drawn = {}
    for line in lines:
        panel = panels[cases.index(line.case)][machines.index(line.machine)]
        points = (list(line.sparse), list(line.sparse.values()))
        drawn["prunus"] = panel.plot(*points, "o-", color="tab:green")[0]
        drawn["torch fp32"] = panel.axhline(1, color="black", linewidth=0.8)
        for name, speed in line.dense.items():
            drawn[name] = panel.axhline(speed, color="tab:red", linestyle=STYLES.get(name, "-."))
        panel.set_title(f"{line.machine}, {line.case}")
        panel.set_yscale("log", base=2)
        panel.yaxis.set_major_formatter("{x:g}")
    fastest = max(speed for line in lines for speed in (*line.sparse.values(), *line.dense.values()))
    panels[0][0].set_ylim(0.8, 1.3 * fastest)  # what is slower than torch fp32 is not shown
    for panel in panels[-1]:
        panel.set_xlabel("sparsity, %")
    for row in panels:
        row[0].set_ylabel("speed over torch fp32")
    figure.legend(list(drawn.values()), list(drawn), loc="outside lower center", ncols=len(drawn))
    figure.savefig(path, metadata={"Date": None, "Description": description(lines)})
    pyplot.close(figure)


if __name__ == "__main__":
    draw(read((ROOT / "README.md").read_text()), PICTURE)
