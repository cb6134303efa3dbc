"""An empty figure, and a finished one in its file: what every picture of the bench shares."""

from pathlib import Path
from typing import Any

from bench.records import Record, header


def figure(title: str, x: str, y: str) -> tuple[Any, Any]:
    import matplotlib

    matplotlib.use("Agg")
    # No random ids, no date: the same records give the same bytes.
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "prunus", "font.size": 9})
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots(figsize=(6.4, 4.0), layout="constrained")
    ax.set(title=title, xlabel=x, ylabel=y)
    ax.grid(alpha=0.3)
    ax.spines[["top", "right"]].set_visible(False)
    return fig, ax


def finish(fig: Any, records: list[Record], path: Path) -> Path:
    """Write the picture with the machine and the commit in its corner."""
    import matplotlib.pyplot as plt

    head = header(records)
    machine = f"{head.get('cpu', '')}, {head.get('isa', '')}, commit {head.get('commit', '')}"
    fig.text(0.995, 0.002, machine, ha="right", va="bottom", fontsize=6, color="#666666")
    fig.savefig(path, metadata={"Date": None})
    plt.close(fig)
    return path
