"""Two processes detect in shares of the images; one table comes out, that of a single process."""

import json
from pathlib import Path

import evaluation_processes
from evaluation_cases import coco_set
from process_group import process_group

from rst.evaluation import evaluate
from rst.evaluation.report import as_json

PROCESSES = 2


def test_two_processes_make_the_table_of_one(tmp_path: Path):
    truth, results = coco_set(9, 40, 3, seed=5, side=60, masks=True)
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    (tmp_path / "results.json").write_text(json.dumps(results))
    with process_group(evaluation_processes.__file__, PROCESSES, tmp_path):
        evaluation_processes.main(0, 1, tmp_path)
    alone, together = (json.loads((tmp_path / f"gathered{count}.json").read_text()) for count in (1, PROCESSES))
    assert len(alone) == len(together) == len(results), "an image that two processes had counts once"
    for iou_type in ("bbox", "segm"):
        tables = [as_json(evaluate(tmp_path / "truth.json", gathered, iou_type)) for gathered in (alone, together)]
        assert tables[0] == tables[1]
        assert tables[0]["AP"] > 0.05
