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
    truth, results = coco_set(9, 40, 3, seed=5)
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    (tmp_path / "results.json").write_text(json.dumps(results))
    with process_group(evaluation_processes.__file__, PROCESSES, tmp_path):
        evaluation_processes.main(0, 1, tmp_path)
    tables = []
    for count in (1, PROCESSES):
        gathered = json.loads((tmp_path / f"gathered{count}.json").read_text())
        assert len(gathered) == len(results), "an image that two processes had counts once"
        tables.append(as_json(evaluate(tmp_path / "truth.json", gathered)))
    assert tables[0] == tables[1]
    assert tables[0]["AP"] > 0.05
