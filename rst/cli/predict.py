"""`rst predict`: detect objects in image files.

n  detections of an image
"""

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rst.cli.parsers import command_parser, wants_help

if TYPE_CHECKING:  # --help should not wait for torch
    import numpy as np

    from rst.cli.trained import Trained

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"}

LEAST_SIDE = 600  # pixels; smaller images are enlarged to be drawn on


def main(argv: list[str]) -> int:
    parser = command_parser(
        "predict",
        "--checkpoint FILE INPUT... --output DIR [--threshold 0.5] [--device cpu] [--KEY VALUE ...]",
        "Detect objects in image files. INPUT: image files, or folders of them (searched in depth).\n\n"
        "Draws each image with its boxes, and its masks if the detector makes them. Writes predictions.json with, for\n"
        "each image, file_name, width, height and its predictions: category, label, score, bbox as [x, y, width,\n"
        "height] in pixels and, for a mask, segmentation as COCO's compressed run lengths.",
        "often overridden, which way up and how large images may be:\n"
        "  --data.exif stored  --data.max_pixels N\n\n"
        "example:\n"
        "  rst predict --checkpoint runs/trees/checkpoints/best.ckpt data/trees/val --output runs/trees/drawings",
    )
    parser.add_argument(
        "--checkpoint",
        type=Path,
        required=True,
        metavar="FILE",
        help="a checkpoint of rst train, or the folder of a run (its best checkpoint)",
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder for drawings and JSON")
    parser.add_argument(
        "--threshold",
        type=float,
        default=0.5,
        metavar="X",
        help="lowest score to report, 0 to 1 (default: %(default)s)",
    )
    parser.add_argument("--device", metavar="NAME", help="cpu, cuda, cuda:1 (default: a GPU if there is one)")
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="the model's settings (default: those stored with the checkpoint)"
    )
    if wants_help(parser, argv):
        return 2
    options, rest = parser.parse_known_args(argv)
    # What is left are inputs, and overrides as `--key value` or `--key=value`.
    inputs, overrides = [], []
    while rest:
        argument = rest.pop(0)
        if not argument.startswith("--"):
            inputs.append(Path(argument))
        else:
            overrides += [argument] if "=" in argument else [argument, *rest[:1]]
            rest = rest if "=" in argument else rest[1:]
    return _predict(options, inputs, overrides)


def _predict(options: argparse.Namespace, inputs: list[Path], overrides: list[str]) -> int:
    from rst.cli.trained import load_trained
    from rst.data import DataError
    from rst.data.images import read_image
    from rst.evaluation.draw import draw_detections
    from rst.training import ConfigError

    if not 0 <= options.threshold <= 1:
        raise ConfigError(f"--threshold must lie between 0 and 1, got {options.threshold}")
    files = find_images(inputs)
    device = _device(options.device)
    trained = load_trained(options.checkpoint, options.config, overrides)
    trained.model.to(device)
    names = trained.class_names or [str(label) for label in range(int(trained.model.num_classes))]  # pyright: ignore[reportArgumentType]
    options.output.mkdir(parents=True, exist_ok=True)
    taken: set[str] = set()
    report, unreadable = [], []
    for file in files:
        try:
            pixels = read_image(file, decoding=trained.settings.data.decoding)
        except DataError as error:
            unreadable.append(str(error))
            continue
        detections = detect(trained, pixels, device, options.threshold)
        drawing = draw_detections(pixels, detections, names, options.threshold, least_side=LEAST_SIDE)
        drawing.save(options.output / _unused_name(file, taken))
        report.append(describe(file, pixels, detections, names))
    lines = ",\n".join(json.dumps(entry) for entry in report)
    (options.output / "predictions.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    count = sum(len(entry["predictions"]) for entry in report)
    print(
        f"rst: {count} objects with a score of at least {options.threshold} in {len(report)} images: {options.output}"
    )
    if unreadable:
        raise ConfigError(f"{len(unreadable)} of {len(files)} images cannot be read:\n  " + "\n  ".join(unreadable))
    return 0


def find_images(inputs: list[Path]) -> list[Path]:
    """The image files that the inputs mean, folders searched in depth, in a stable order."""
    from rst.training import ConfigError

    files: list[Path] = []
    skipped: Counter[str] = Counter()
    for path in inputs:
        if path.is_dir():
            there = sorted(file for file in path.rglob("*") if file.is_file())
            found = [file for file in there if file.suffix.lower() in SUFFIXES]
            skipped.update(file.suffix.lower() for file in there if file.suffix.lower() not in SUFFIXES)
            if not found:
                of = f"; it has {describe_suffixes(skipped)}" if skipped else ""
                raise ConfigError(f"{path}: no images in this folder ({', '.join(sorted(SUFFIXES))}){of}")
            files += found
        elif path.is_file():
            files.append(path)
        else:
            raise ConfigError(f"{path}: no such file or folder")
    if not files:
        raise ConfigError("no images given: name files or folders")
    if skipped:
        print(f"rst: skipped in the folders, by their suffix: {describe_suffixes(skipped)}")
    return files


def describe_suffixes(counts: Counter[str]) -> str:
    """As in "12 .txt, 3 .gif, 1 without a suffix"."""
    return ", ".join(f"{count:,} {suffix or 'without a suffix'}" for suffix, count in counts.most_common())


def detect(
    trained: "Trained",
    pixels: "np.ndarray",  # (H, W, 3) uint8
    device: Any,
    threshold: float,
) -> dict[str, Any]:
    """Detections with a score of at least `threshold`, in pixels of the file: see `rst.evaluation.to_file_pixels`."""
    import torch
    from torchvision import tv_tensors

    from rst.evaluation import to_file_pixels

    image = tv_tensors.Image(torch.from_numpy(pixels).permute(2, 0, 1).contiguous())
    resized, _ = trained.settings.data.val_transforms(image, {})
    with torch.inference_mode():
        found = trained.model([resized.as_subclass(torch.Tensor).to(device)])[0]
    kept = (found["scores"].cpu().double() >= threshold).to(device)
    keys = ("boxes", "labels", "scores", "masks")
    return to_file_pixels({key: found[key][kept] for key in keys if key in found}, resized.shape[-2:], pixels.shape[:2])


def describe(file: Path, pixels: "np.ndarray", detections: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """The entry of predictions.json for one image."""
    predictions: list[dict[str, Any]] = []
    for (left, top, right, bottom), label, score in zip(
        *(detections[key].tolist() for key in ("boxes", "labels", "scores")), strict=True
    ):
        bbox = [round(value, 2) for value in (left, top, right - left, bottom - top)]
        predictions.append({"category": names[label], "label": label, "score": round(score, 5), "bbox": bbox})
    for prediction, runs in zip(predictions, detections.get("segmentations", ()), strict=False):
        prediction["segmentation"] = runs
    height, width = pixels.shape[:2]
    return {"file_name": str(file), "width": width, "height": height, "predictions": predictions}


def _device(name: str | None) -> Any:
    import torch

    from rst.training import ConfigError

    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"--device {name}: {str(error).splitlines()[0]}") from error
    return device


def _unused_name(file: Path, taken: set[str]) -> str:
    """A file name that no earlier image has; two folders may hold files of the same name."""
    name, number = f"{file.stem}.png", 1
    while name in taken:
        name, number = f"{file.stem}_{number}.png", number + 1
    taken.add(name)
    return name
