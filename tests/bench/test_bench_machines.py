"""The picture of the top-level README says what the table above it says."""

import html

import pytest

from bench import machines


def test_the_picture_is_that_of_the_table(tmp_path):
    lines = machines.read((machines.ROOT / "README.md").read_text())
    assert len({line.machine for line in lines}) == 3
    assert all(list(line.sparse) == [50, 80, 90, 95] and line.dense for line in lines)
    machines.draw(lines, tmp_path / "machines.svg")
    # Other versions of matplotlib write other bytes around the same description.
    text = html.escape(machines.description(lines), quote=False)
    assert text in (tmp_path / "machines.svg").read_text()
    assert text in machines.PICTURE.read_text(), "run `python -m bench.machines`"


def test_a_page_without_the_table_is_an_error():
    with pytest.raises(ValueError, match="first column is 'machine'"):
        machines.read("| other |\n|---|\n| 1 |\n\n")
