"""The table of `make demo-masks`."""

import json
import runpy
from pathlib import Path

import pytest

table = runpy.run_path(str(Path(__file__).resolve().parents[2] / "tools/beside.py"))["table"]


def evaluated(folder: Path, boxes: float, masks: float) -> Path:
    (folder / "evaluation").mkdir(parents=True)
    for name, first in (("metrics.json", boxes), ("masks.json", masks)):
        content = {"AP": first, "AP50": 0.5, "AP75": 0.25, "oLRP": -1.0}
        (folder / "evaluation" / name).write_text(json.dumps(content))
    return folder


def test_runs_stand_beside_each_other_in_per_cent(tmp_path):
    runs = [evaluated(tmp_path / "a", 0.123, 0.1), evaluated(tmp_path / "longer", 0.2, 1.0)]
    lines = table(runs).splitlines()
    assert lines[0].split() == ["boxes", "masks"]
    assert lines[1].split() == ["AP", "AP50", "AP75", "oLRP"] * 2
    assert lines[2].split() == [str(runs[0]), "12.3", "50.0", "25.0", "-", "10.0", "50.0", "25.0", "-"]
    assert lines[3].split()[1] == "20.0"
    assert len(lines[1]) == len(lines[2]) == len(lines[3])


def test_a_run_that_was_not_evaluated_is_named(tmp_path):
    run = evaluated(tmp_path / "a", 0.1, 0.1)
    (run / "evaluation/masks.json").unlink()
    with pytest.raises(ValueError, match=r"masks.json: no metrics of rst evaluate: FileNotFoundError"):
        table([run])
    (run / "evaluation/masks.json").write_text("[]")
    with pytest.raises(ValueError, match=r"masks.json: no metrics"):
        table([run])
