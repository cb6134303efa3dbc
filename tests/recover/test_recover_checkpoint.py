"""A killed run goes on from its file, to the same weights."""

from pathlib import Path
from typing import Any

import pytest
import torch
from recover_models import batches_for, pruned_pair, same, weights_of

from prunus import Distill, RecoverError, recover_


class Killed(BaseException):
    """What a process that is killed does not get to handle."""


def run(path: Path | None, kill_at: int | None = None, **options: Any) -> tuple[dict[str, torch.Tensor], Any]:
    model, teacher = pruned_pair("bert")
    calls = 0

    def loss(output: Any, batch: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == kill_at:
            raise Killed
        return torch.zeros(())

    usual = {"steps": 30, "precision": "float32"}
    how = Distill(**{**usual, **options}, checkpoint=path, loss=loss)
    report = recover_(model, teacher, batches_for("bert"), how)
    return weights_of(model), report


@pytest.mark.parametrize("rate", [0.01, 10.0])  # the second is lowered on the way
def test_a_killed_run_goes_on_to_the_same_weights(tmp_path: Path, rate: float) -> None:
    path = tmp_path / "run.pt"
    straight, whole = run(None, learning_rate=rate)
    with pytest.raises(Killed):
        run(path, kill_at=20, learning_rate=rate)
    found, report = run(path, learning_rate=rate)
    went_on, *more = report.rows[0]["note"].split("; ")
    assert went_on == "went on at step 18"
    assert [text.split()[:2] for text in more] == [["went", "back"]] * (rate > 1)
    assert report.rows[0]["steps"] == 30
    assert same(found, straight)
    assert [row["step"] for row in report.curve if "step" in row] == [
        row["step"] for row in whole.curve if "step" in row
    ]
    assert [p.name for p in tmp_path.iterdir()] == ["run.pt"]


def test_a_run_that_is_done_gives_its_result_at_once(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    first, _ = run(path)
    again, report = run(path, kill_at=1)  # no step is taken
    assert same(first, again)
    assert report.rows[0]["note"] == "went on at step 30"


def test_killed_while_the_file_is_written_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.pt"
    save, count = torch.save, 0

    def half(content: Any, to: Any) -> None:
        nonlocal count
        count += 1
        if count == 3:
            Path(to).write_bytes(b"half")
            raise Killed
        save(content, to)

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(Killed):
        run(path)
    monkeypatch.undo()
    found, report = run(path)
    assert report.rows[0]["note"] == "went on at step 6"
    assert same(found, run(None)[0])


def test_files_of_other_runs_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    run(path)
    for options in ({"steps": 31}, {"seed": 5}, {"learning_rate": 0.02}):
        with pytest.raises(ValueError, match=r"checkpoint: expected a file of this run .* remove it"):
            run(path, **options)
    model, teacher = pruned_pair("bert", 0.5)
    before = weights_of(model)
    how = Distill(steps=30, precision="float32", checkpoint=path)
    with pytest.raises(ValueError, match="got one of another model"):
        recover_(model, teacher, batches_for("bert"), how)
    assert same(before, weights_of(model))
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="cannot be read"):
        run(path)
    with pytest.raises(ValueError, match="in an existing folder"):
        run(tmp_path / "no" / "run.pt")


def test_a_full_disk_stops_with_the_best_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(content: Any, to: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(RecoverError, match=r"stopped at step 3 by .*No space left.* best state so far"):
        run(tmp_path / "run.pt")
