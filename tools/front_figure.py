"""Draws the figure of README.md from a run: detections on validation images, and the ranking of all of them.

    python tools/front_figure.py --run runs/demo --output docs/front.png

It reads what `make demo` writes: RUN/config.yaml, RUN/evaluation/detections.json and metrics.json, and the data set
that they name. A detection is correct if pycocotools matches it to an object with an IoU of at least 0.5. Detections
that pycocotools ignores (on crowds) are left out. The images are those with the most objects, not those with the best
results.
"""

import argparse
import contextlib
import io
import json
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
import yaml
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

LEAST_IOU = 0.5
IMAGES = 3
RANKED = 300  # detections in the drawing of the ranking
GROUP = 25  # detections for one point of the line
CORRECT, WRONG, OBJECT = "#2b8cff", "#ff7b1c", "#ffffff"
WIDTH, HEIGHT = 8.0, 4.8  # inches
DOTS = 100  # to the inch
COLOURS = 40  # of the PNG, which is kept in the repository


class Detection(NamedTuple):
    """One detection that counts."""

    image: int  # id
    box: list[float]  # x, y, width, height, pixels
    score: float
    iou: float  # with the object it is matched to; 0 if there is none


def iou(one: list[float], other: list[float]) -> float:
    """IoU of two boxes [x, y, width, height]."""
    sides = [max(0.0, min(one[k] + one[k + 2], other[k] + other[k + 2]) - max(one[k], other[k])) for k in range(2)]
    common = sides[0] * sides[1]
    return common / (one[2] * one[3] + other[2] * other[3] - common)


def sorted_detections(truth: COCO, detections: COCO) -> list[Detection]:
    """The detections that count, highest score first."""
    evaluation = COCOeval(truth, detections, "bbox")
    parameters = evaluation.params
    parameters.iouThrs, parameters.maxDets = np.array([LEAST_IOU]), parameters.maxDets[-1:]
    parameters.areaRng, parameters.areaRngLbl = parameters.areaRng[:1], parameters.areaRngLbl[:1]
    evaluation.evaluate()
    found = []
    for entry in filter(None, evaluation.evalImgs):
        rows = zip(entry["dtIds"], entry["dtScores"], entry["dtMatches"][0], entry["dtIgnore"][0], strict=True)
        for key, score, match, ignored in rows:
            box = detections.anns[key]["bbox"]
            if not ignored:
                overlap = iou(box, truth.anns[int(match)]["bbox"]) if match else 0.0
                found.append(Detection(entry["image_id"], box, score, overlap))
    return sorted(found, key=lambda detection: -detection.score)


def draw_image(axes: Axes, file: Path, objects: list[list[float]], detections: dict[int, Detection]) -> None:
    """The image, its objects (dashed), and its detections with their place in the ranking."""
    with Image.open(file) as image:
        axes.imshow(image.convert("RGB"), interpolation="bicubic")
        side = min(image.size)
    axes.set(xlim=(-0.5, side - 0.5), ylim=(side - 0.5, -0.5))
    axes.set_axis_off()
    for x, y, width, height in objects:
        axes.add_patch(Rectangle((x, y), width, height, fill=False, ec=OBJECT, lw=1, ls=(0, (3, 2))))
    for place, detection in detections.items():
        x, y, width, height = detection.box
        colour = CORRECT if detection.iou else WRONG
        axes.add_patch(Rectangle((x, y), width, height, fill=False, ec=colour, lw=1.8))
        label = {"facecolor": colour, "edgecolor": "none", "pad": 1.2}
        axes.text(
            x + 2, y + 2, str(place), color="white", fontsize=8, weight="bold", va="top", bbox=label, clip_on=True
        )


def draw_ranking(axes: Axes, ranked: list[Detection], drawn: int) -> None:
    """One bar for each detection in the order of scores, and the share of correct ones along it."""
    shown = ranked[:RANKED]
    ious = np.array([detection.iou for detection in shown])
    places = np.arange(1, len(shown) + 1)
    axes.bar(places, ious, width=1.0, color=CORRECT, label="correct: its IoU with the object")
    axes.bar(
        places, np.where(ious == 0, 0.06, 0), width=1.0, color=WRONG, label="wrong: no object, or a second box on one"
    )
    groups = ious[: len(ious) // GROUP * GROUP].reshape(-1, GROUP)
    centres = (np.arange(len(groups)) + 0.5) * GROUP
    axes.plot(
        centres,
        (groups > 0).mean(1),
        "o-",
        color="black",
        ms=3.5,
        lw=1.3,
        label=f"share of correct ones in {GROUP} detections",
    )
    axes.axvline(drawn + 0.5, color="black", lw=1, ls="--")
    beside = {"x": drawn - 3, "ha": "right"} if drawn > RANKED / 2 else {"x": drawn + 4, "ha": "left"}
    axes.text(y=1.04, s=f"score {ranked[drawn - 1].score:.2f}", fontsize=8, va="top", **beside)
    axes.set_xlim(0, len(shown) + 1)
    axes.set_ylim(0, 1.05)
    axes.set_xlabel(f"the first {len(shown)} of {len(ranked):,} detections, highest score first")
    axes.spines[["top", "right"]].set_visible(False)
    # below the axis: above it, bars and the threshold may lie anywhere
    axes.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.28), ncols=3, columnspacing=1.2)


def draw(run: Path, output: Path) -> None:
    """Reads the run and writes the PNG."""
    data = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))["data"]
    threshold = json.loads((run / "evaluation" / "metrics.json").read_text(encoding="utf-8"))["threshold"]
    if threshold is None:
        raise SystemExit(f"{run}: no detection is correct, so there is no threshold to draw")
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its steps
        truth = COCO(data["val_annotations"])
        ranked = sorted_detections(truth, truth.loadRes(str(run / "evaluation" / "detections.json")))
    boxes = {
        image: [entry["bbox"] for entry in truth.imgToAnns[image] if not entry["iscrowd"]]
        for image in truth.getImgIds()
    }
    chosen = sorted(boxes, key=lambda image: -len(boxes[image]))[:IMAGES]
    sure = {place: detection for place, detection in enumerate(ranked, 1) if detection.score >= threshold}

    figure = plt.figure(figsize=(WIDTH, HEIGHT), layout="constrained")
    grid = figure.add_gridspec(2, IMAGES, height_ratios=[1.5, 1])
    for column, image in enumerate(chosen):
        of_image = {place: detection for place, detection in sure.items() if detection.image == image}
        file = Path(data["val_images"]) / truth.imgs[image]["file_name"]
        draw_image(figure.add_subplot(grid[0, column]), file, boxes[image], of_image)
    draw_ranking(figure.add_subplot(grid[1, :]), ranked, len(sure))

    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=DOTS)
    output.parent.mkdir(parents=True, exist_ok=True)
    Image.open(drawn).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(output, optimize=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Draw the figure of README.md from a run.")
    parser.add_argument("--run", type=Path, default=Path("runs/demo"), help="folder of a run that was evaluated")
    parser.add_argument("--output", type=Path, default=Path("docs/front.png"), help="the PNG to write")
    arguments = parser.parse_args()
    draw(arguments.run, arguments.output)
