"""`rst predict`: detect objects in picture files."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # --help should not wait for torch
    from PIL import Image
    from torch import Tensor

    from rst.cli.trained import Trained

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"}

LEAST_SIDE = 600  # pixels; smaller pictures are enlarged to be drawn on

HELP = """\
usage: rst predict --checkpoint FILE INPUT... --output DIR [--threshold 0.5] [--device cpu] [--KEY VALUE ...]

Detect objects in pictures. Writes each picture with its boxes, and predictions.json with, for each picture, file_name,
width, height and its predictions: category, label, score, bbox as [x, y, width, height] in pixels.

where:
  --checkpoint FILE   a checkpoint of rst train, or the folder of a run (its best checkpoint)
  INPUT               picture files, or folders of them (searched in depth)
  --output DIR        folder for pictures and JSON
  --threshold X       lowest score to report, 0 to 1 (default: 0.5)
  --device NAME       cpu, cuda, cuda:1 (default: a GPU if there is one)
  --config FILE       the model's settings (default: those stored with the checkpoint)

example:
  rst predict --checkpoint runs/trees/checkpoints/best.ckpt data/trees/val --output runs/trees/pictures
"""


def main(argv: list[str]) -> int:
    if not argv or {"-h", "--help"} & set(argv):
        print(HELP, end="")
        return 0 if argv else 2
    parser = argparse.ArgumentParser(prog="rst predict", add_help=False, allow_abbrev=False)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--threshold", type=float, default=0.5)
    parser.add_argument("--device")
    parser.add_argument("--config", type=Path)
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
    from rst.evaluation.draw import draw_detections
    from rst.training import ConfigError

    if not 0 <= options.threshold <= 1:
        raise ConfigError(f"--threshold must lie between 0 and 1, got {options.threshold}")
    files = find_pictures(inputs)
    device = _device(options.device)
    trained = load_trained(options.checkpoint, options.config, overrides)
    trained.model.to(device)
    names = trained.class_names or [str(label) for label in range(int(trained.model.num_classes))]  # pyright: ignore[reportArgumentType]
    options.output.mkdir(parents=True, exist_ok=True)
    taken: set[str] = set()
    report, unreadable = [], []
    for file in files:
        try:
            picture = read_picture(file)
        except OSError as error:
            unreadable.append(f"{file}: {error}")
            continue
        detections = detect(trained, picture, device)
        drawn = draw_detections(picture, detections, names, options.threshold, least_side=LEAST_SIDE)
        drawn.save(options.output / _unused_name(file, taken))
        report.append(describe(file, picture, detections, names, options.threshold))
    lines = ",\n".join(json.dumps(entry) for entry in report)
    (options.output / "predictions.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    count = sum(len(entry["predictions"]) for entry in report)
    print(
        f"rst: {count} objects with a score of at least {options.threshold} in {len(report)} pictures: {options.output}"
    )
    if unreadable:
        raise ConfigError(f"{len(unreadable)} of {len(files)} pictures cannot be read:\n  " + "\n  ".join(unreadable))
    return 0


def find_pictures(inputs: list[Path]) -> list[Path]:
    """The picture files that the inputs mean, folders searched in depth, in a stable order."""
    from rst.training import ConfigError

    files: list[Path] = []
    for path in inputs:
        if path.is_dir():
            found = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
            if not found:
                raise ConfigError(f"{path}: no pictures in this folder ({', '.join(sorted(SUFFIXES))})")
            files += found
        elif path.is_file():
            files.append(path)
        else:
            raise ConfigError(f"{path}: no such file or folder")
    if not files:
        raise ConfigError("no pictures given: name files or folders")
    return files


def read_picture(file: Path) -> "Image.Image":
    """An RGB picture, turned upright as its EXIF entry says. Raises OSError for whatever is not a readable picture."""
    from PIL import Image, ImageOps

    try:
        with Image.open(file) as picture:
            return ImageOps.exif_transpose(picture).convert("RGB")
    except (SyntaxError, ValueError, Image.DecompressionBombError) as error:  # SyntaxError: PIL's for broken PNG
        raise OSError(str(error)) from error


def detect(trained: "Trained", picture: "Image.Image", device: Any) -> dict[str, "Tensor"]:
    """Detections in pixels of `picture`: "boxes" (n, 4) float32 XYXY, "labels" (n,) int64, "scores" (n,) float32."""
    import torch
    from torchvision import tv_tensors
    from torchvision.transforms.v2 import functional

    image, _ = trained.settings.data.val_transforms(tv_tensors.Image(functional.pil_to_tensor(picture)), {})
    with torch.inference_mode():
        detections = trained.model([image.as_subclass(torch.Tensor).to(device)])[0]
    detections = {key: value.cpu() for key, value in detections.items()}
    height, width = image.shape[-2:]
    scale = torch.tensor([picture.width / width, picture.height / height] * 2)
    limit = torch.tensor([picture.width, picture.height] * 2)
    detections["boxes"] = torch.minimum((detections["boxes"] * scale).clamp(min=0), limit)
    return detections


def describe(
    file: Path, picture: "Image.Image", detections: dict[str, "Tensor"], names: list[str], threshold: float
) -> dict[str, Any]:
    """The entry of predictions.json for one picture."""
    predictions = []
    for box, label, score in zip(*(detections[key].tolist() for key in ("boxes", "labels", "scores")), strict=True):
        if score >= threshold:
            left, top, right, bottom = box
            bbox = [round(value, 2) for value in (left, top, right - left, bottom - top)]
            predictions.append({"category": names[label], "label": label, "score": round(score, 5), "bbox": bbox})
    return {
        "file_name": str(file),
        "width": picture.width,
        "height": picture.height,
        "predictions": predictions,
    }


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
    """A file name of its own for each picture, though two folders may hold the same name."""
    name, number = f"{file.stem}.png", 1
    while name in taken:
        name, number = f"{file.stem}_{number}.png", number + 1
    taken.add(name)
    return name
