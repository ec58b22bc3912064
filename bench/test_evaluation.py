"""AP and oLRP by rst beside AP by the published evaluators, on sets of COCO's and LVIS's size.

The goal is at most 1.3 times pycocotools' time. Each evaluator gets the annotation file and a list of results. It is
timed only if it gives the published numbers on a smaller set.
"""

import contextlib
import copy
import importlib.util
import io
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from evaluation_cases import coco_set, federated_set
from judging import COCO_BOXES, EVALUATION, OURS, PYCOCOTOOLS
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from rst.evaluation import evaluate_detections

FASTER, LVIS = "faster-coco-eval, AP", "lvis, AP"
ROUNDS = {OURS: 3}  # the others take minutes and run once


@dataclass(frozen=True)
class Setting:
    """The sizes of a generated data set; a smaller one is checked first."""

    make: Callable[..., tuple[dict[str, Any], list[dict[str, Any]]]]
    images: int
    detections: int
    classes: int
    iou_type: str
    evaluators: tuple[str, ...]
    side: int = 640

    def build(self, images: int, folder: Path) -> tuple[Path, list[dict[str, Any]]]:
        masks = {"masks": True} if self.iou_type == "segm" else {}
        side = {"side": self.side} if self.make is coco_set else {}
        truth, results = self.make(images, self.detections, self.classes, seed=1, **masks, **side)
        for result in results:
            result.pop("bbox" if self.iou_type == "segm" else "segmentation", None)
        file = folder / "truth.json"
        file.write_text(json.dumps(truth))
        return file, results


SETTINGS = {
    COCO_BOXES: Setting(coco_set, 5000, 100, 80, "bbox", (PYCOCOTOOLS, FASTER, OURS)),
    "COCO masks, 300 images x 100 detections": Setting(
        coco_set, 300, 100, 80, "segm", (PYCOCOTOOLS, FASTER, OURS), side=320
    ),
    "LVIS boxes, 200 images x 300 detections": Setting(federated_set, 200, 300, 1203, "bbox", (LVIS, OURS)),
}
CHECKED = 20  # images


def pycocotools_metrics(file: Path, results: list[dict[str, Any]], iou_type: str) -> np.ndarray:
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(file))
        evaluation = COCOeval(truth, truth.loadRes(results), iou_type)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return np.array(evaluation.stats)


def faster_metrics(file: Path, results: list[dict[str, Any]], iou_type: str) -> np.ndarray:
    from faster_coco_eval import COCO as FasterCOCO
    from faster_coco_eval import COCOeval_faster

    truth = FasterCOCO(str(file))
    evaluation = COCOeval_faster(truth, truth.loadRes(results), iou_type, print_function=lambda *_: None)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return np.array(evaluation.all_stats[:12])


def lvis_metrics(file: Path, results: list[dict[str, Any]], iou_type: str) -> np.ndarray:
    vars(np).setdefault("float", float)  # numpy's old alias, which lvis 0.5.3 needs
    sys.modules.setdefault("cv2", ModuleType("cv2"))  # lvis only draws with it
    from lvis.eval import LVISEval
    from lvis.lvis import LVIS as Annotated
    from lvis.results import LVISResults

    truth = Annotated(str(file))
    evaluation = LVISEval(truth, LVISResults(truth, results), iou_type)
    evaluation.run()
    return np.array(list(evaluation.get_results().values()))


def our_metrics(file: Path, results: list[dict[str, Any]], iou_type: str) -> np.ndarray:
    metrics = evaluate_detections(file, results, iou_type)  # type: ignore[arg-type]
    return np.array([value for name, value in metrics.items() if name.startswith("A")])


EVALUATORS = {
    OURS: (our_metrics, "numpy"),
    PYCOCOTOOLS: (pycocotools_metrics, "pycocotools"),
    FASTER: (faster_metrics, "faster_coco_eval"),
    LVIS: (lvis_metrics, "lvis"),
}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, list[dict[str, Any]]]]:
    """The data sets of this session by setting, made at their first use."""
    return {}


@pytest.mark.filterwarnings("ignore:The 'warn' method is deprecated:DeprecationWarning")  # lvis, of its logger
@pytest.mark.parametrize(
    ("setting", "evaluator"),
    [(setting, evaluator) for setting in SETTINGS for evaluator in SETTINGS[setting].evaluators],
)
def test_evaluation(benchmark, built, tmp_path_factory, tmp_path, setting, evaluator):
    measure, package = EVALUATORS[evaluator]
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    chosen = SETTINGS[setting]
    small, few = chosen.build(CHECKED, tmp_path)
    published = lvis_metrics if LVIS in chosen.evaluators else pycocotools_metrics
    expected = published(small, copy.deepcopy(few), chosen.iou_type)
    np.testing.assert_allclose(measure(small, few, chosen.iou_type), expected, rtol=0, atol=1e-12)

    if setting not in built:
        built.clear()
        built[setting] = chosen.build(chosen.images, tmp_path_factory.mktemp("evaluation"))
    file, results = built[setting]
    benchmark.group = f"evaluation: {setting}"
    benchmark.extra_info.update(table=EVALUATION, shape=setting, contender=evaluator)
    benchmark.pedantic(
        measure,
        # the published evaluators write into the list
        setup=lambda: ((file, results if evaluator == OURS else copy.deepcopy(results), chosen.iou_type), {}),
        rounds=ROUNDS.get(evaluator, 1),
    )
