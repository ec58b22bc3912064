"""`rst predict`: detect objects in image files.

b  images of a batch    H, W  height and width of an image file, pixels
"""

import argparse
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rst.cli.loading import load_training
from rst.cli.outputs import checkpoint_files, refuse_inputs
from rst.cli.parsers import command_parser, wants_help
from rst.cli.predict_inputs import InputImage, find_images, with_annotated_ids
from rst.cli.predictions import IMAGES, PREDICTIONS, Output, refuse_strangers
from rst.cli.progress import bar_or_lines
from rst.training.errors import ConfigError

if TYPE_CHECKING:  # --help should not wait for torch
    import numpy as np

    from rst.cli.trained import Trained

LEAST_SIDE = 600  # pixels; smaller images are enlarged to be drawn on
THRESHOLD = 0.5  # of what is reported and drawn; COCO results have every detection

DESCRIPTION = f"""\
Detect objects in image files. INPUT: image files, or folders of them (searched in depth); each file counts once.

Draws each image with its boxes, and its masks if the detector makes them; drawings keep the names of the images and
of the folders below INPUT. {PREDICTIONS} has, for each image, file_name, width, height, the name of its drawing and
its predictions: category, label, score, bbox as [x, y, width, height] in pixels and, for a mask, segmentation as COCO's
compressed run lengths. It is complete and valid at any moment; images that cannot be read are named at the end.

With --format coco it is a list of COCO results, which rst evaluate --detections reads, and {IMAGES} names the images
and categories of the ids: those of --annotations, else images are numbered from 1 in their order, and categories have
the ids that the checkpoint knows from its training."""

EPILOG = """\
often overridden, which way up and how large images may be:
  --data.exif stored  --data.max_pixels N

examples:
  rst predict --checkpoint runs/trees/checkpoints/best.ckpt data/trees/val --output runs/trees/drawings
  rst predict --checkpoint runs/trees data/trees/val --output runs/trees/val --format coco \\
      --annotations data/trees/annotations/val.json --batch-size 8
  rst evaluate --detections runs/trees/val/predictions.json --annotations data/trees/annotations/val.json"""


def main(argv: list[str]) -> int:
    parser = command_parser(
        "predict",
        "--checkpoint FILE INPUT... --output DIR [--format coco] [OPTION ...] [--KEY VALUE ...]",
        DESCRIPTION,
        EPILOG,
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
        metavar="X",
        help=f"lowest score to draw and report, 0 to 1 (default: {THRESHOLD}; COCO results have every detection)",
    )
    parser.add_argument(
        "--format", choices=["images", "coco"], default="images", help=f"of {PREDICTIONS} (default: %(default)s)"
    )
    parser.add_argument(
        "--annotations",
        type=Path,
        metavar="FILE",
        help="COCO or LVIS annotations that name the images: ids are those of this file",
    )
    parser.add_argument(
        "--batch-size",
        type=int,
        default=1,
        metavar="N",
        help="images at once, padded to one size as in training (default: %(default)s)",
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
    if options.threshold is not None and not 0 <= options.threshold <= 1:
        raise ConfigError(f"--threshold must lie between 0 and 1, got {options.threshold}")
    if options.batch_size < 1:
        raise ConfigError(f"--batch-size must be at least 1, got {options.batch_size}")
    images = find_images(inputs)
    _refuse_inputs(options, inputs, images)
    categories = None
    if options.annotations is not None:
        images, categories = with_annotated_ids(images, options.annotations)

    load_training()
    from rst.cli.trained import load_trained
    from rst.evaluation.fonts import font_note

    device = _device(options.device)
    trained = load_trained(options.checkpoint, options.config, overrides, [*vars(options)])
    trained.model.to(device)
    names = trained.class_names or [str(label) for label in range(int(trained.model.num_classes))]  # pyright: ignore[reportArgumentType]
    if categories is not None:
        ids = categories.of(names, trained.file)
    else:
        ids = trained.category_ids or [*range(1, len(names) + 1)]
    if note := font_note(names):
        print(f"rst: note: {note}")
    output = Output(options.output, names, ids, coco=options.format == "coco", with_ids=categories is not None)
    try:
        with output, _interrupted_by_termination(), bar_or_lines("images", len(images)) as advance:
            unreadable = _predict_all(trained, images, output, options, device, advance)
    except KeyboardInterrupt:
        kept = f"the predictions of {output.images} of {len(images)} images are in {options.output / PREDICTIONS}"
        raise KeyboardInterrupt(f"interrupted; {kept}") from None
    found = f"{output.detections} objects with a score of at least {least_score(options)}"
    print(f"rst: {found} in {output.images} images: {output.folder}")
    if unreadable:
        raise ConfigError(f"{len(unreadable)} of {len(images)} images cannot be read:\n  " + "\n  ".join(unreadable))
    return 0


def _refuse_inputs(options: argparse.Namespace, inputs: Sequence[Path], images: Sequence[InputImage]) -> None:
    folder = options.output
    names = [PREDICTIONS, *([IMAGES] if options.format == "coco" else [])]
    refuse_inputs(
        "--output",
        folder,
        files=checkpoint_files(options.checkpoint) | {"--config": options.config, "--annotations": options.annotations},
        input_images=(image.file for image in images),
        writes=[folder / name for name in (*names, *(image.drawing for image in images))],
        searched=[path for path in inputs if path.is_dir()],
    )
    refuse_strangers(images, folder, options.format == "coco")


def _predict_all(
    trained: "Trained",
    images: Sequence[InputImage],
    output: Output,
    options: argparse.Namespace,
    device: Any,
    advance: Callable[[int], object],
) -> list[str]:
    """Predict and draw the images, a batch after the other; what was wrong with those that cannot be read."""
    from rst.data import DataError
    from rst.data.images import read_image
    from rst.evaluation.draw import draw_detections

    drawn = THRESHOLD if options.threshold is None else options.threshold
    unreadable, decoding = [], trained.settings.data.decoding
    for start in range(0, len(images), options.batch_size):
        batch = images[start : start + options.batch_size]
        readable: list[tuple[InputImage, np.ndarray]] = []
        for image in batch:
            try:
                readable.append((image, read_image(image.file, image.size, options.annotations, decoding)))
            except DataError as error:
                unreadable.append(str(error))
            except Exception as error:  # whatever decoding raises is the fault of this image
                unreadable.append(f"{image.file}: cannot be read as an image: {type(error).__name__}: {error}")
        detections = detect(trained, [pixels for _, pixels in readable], device, least_score(options))
        for (image, pixels), found in zip(readable, detections, strict=True):
            drawing = draw_detections(pixels, found, output.class_names, drawn, least_side=LEAST_SIDE)
            output.add(image, drawing, found, *pixels.shape[:2])
        advance(len(batch))
    return unreadable


def least_score(options: argparse.Namespace) -> float:
    """The threshold of what is reported; COCO results have every detection, as average precision needs them."""
    return options.threshold if options.threshold is not None else 0.0 if options.format == "coco" else THRESHOLD


def detect(
    trained: "Trained",
    batch: "Sequence[np.ndarray]",  # b of (H, W, 3) uint8
    device: Any,
    threshold: float,
) -> list[dict[str, Any]]:
    """Detections with a score of at least `threshold`, in pixels of the files: see `rst.evaluation.to_file_pixels`."""
    import torch
    from torchvision import tv_tensors

    from rst.evaluation import to_file_pixels
    from rst.evaluation.results import given_up

    if not batch:
        return []
    images = [tv_tensors.Image(torch.from_numpy(pixels).permute(2, 0, 1).contiguous()) for pixels in batch]
    resized = [trained.settings.data.val_transforms(image, {})[0] for image in images]
    with torch.inference_mode():
        detections = given_up(trained.model([image.as_subclass(torch.Tensor).to(device) for image in resized]))
    results = []
    for found, image, pixels in zip(detections, resized, batch, strict=True):
        kept = (found["scores"].cpu().double() >= threshold).to(device)
        keys = ("boxes", "labels", "scores", "masks", "mask_scores")
        some = {key: found[key][kept] for key in keys if key in found}
        results.append(to_file_pixels(some, image.shape[-2:], pixels.shape[:2]))
    return results


@contextmanager
def _interrupted_by_termination() -> Iterator[None]:
    """`kill` stops the command as Ctrl-C does, with everything written."""
    if threading.current_thread() is not threading.main_thread():  # which alone may handle signals
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _device(name: str | None) -> Any:
    import torch

    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"--device {name}: {str(error).splitlines()[0]}") from error
    return device
