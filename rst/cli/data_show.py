"""`rst data show`: batches exactly as the model sees them, with boxes, masks and assigned positives.

n  images of a batch    N  anchors of an image    P  those that answer for an object
"""

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # --help should not wait for torch
    from PIL import Image
    from torch import Tensor

HELP = """\
usage: rst data show --config FILE --output DIR [--batches 4] [--epoch 0] [--split train] [--KEY VALUE ...]

Draw batches of an experiment exactly as its model sees them: augmented, resized and padded, in the order of training.
One PNG per batch, one row per picture: left its boxes, masks and class names; right the anchors that the detector's
own matching assigns to each object (positives of the RPN, or of the dense head), in a colour per object.

where:
  --config FILE        the experiment: data, augmentation, anchors and matching are its
  --output DIR         folder for batch_000.png, batch_001.png, ...
  --batches N          how many (default: 4)
  --epoch N            of which epoch of the training, from 0 (default: 0)
  --split train|val    training batches, or validation batches (default: train)

often overridden:
  --data.masks true  --data.images_per_batch N  --data.workers 0  --data.train_annotations FILE  --model.num_classes N

example:
  rst data show --config configs/sample/rs_faster_rcnn_mobilenetv2.yaml --output runs/batches --batches 2
"""

LEAST_SIDE = 360  # pixels: smaller batches are enlarged by whole numbers, up to LARGEST_SCALE
LARGEST_SCALE = 4
MASK_OPACITY = 0.45
HEADER, FONT_SIZE = 20, 13  # pixels: above each row, for its text


@dataclass(frozen=True)
class Positives:
    """The anchors of one image that answer for an object."""

    boxes: "Tensor"  # (P, 4) XYXY pixels
    objects: "Tensor"  # (P,) index of the object in its image
    strides: "Tensor"  # (P,) of the pyramid level, pixels


def main(argv: list[str]) -> int:
    if not argv or {"-h", "--help"} & set(argv):
        print(HELP, end="")
        return 0 if argv else 2
    parser = argparse.ArgumentParser(prog="rst data show", add_help=False, allow_abbrev=False)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--batches", type=int, default=4)
    parser.add_argument("--epoch", type=int, default=0)
    parser.add_argument("--split", choices=["train", "val"], default="train")
    options, overrides = parser.parse_known_args(argv)
    return _show(options, overrides)


def _show(options: argparse.Namespace, overrides: list[str]) -> int:
    from lightning.pytorch import seed_everything

    from rst.cli.config import instantiate, parse_config, without_pretraining
    from rst.training import ConfigError

    for name, least in (("batches", 1), ("epoch", 0)):
        if getattr(options, name) < least:
            raise ConfigError(f"--{name} must be at least {least}, got {getattr(options, name)}")
    parser, settings = parse_config(overrides, options.config)
    seed_everything(settings.seed, verbose=False)
    built = instantiate(parser, without_pretraining(settings))
    data, model = built.data, built.model
    data.setup("fit" if options.split == "train" else "validate")
    if data.num_classes != int(model.num_classes):
        raise ConfigError(
            f"model.num_classes is {int(model.num_classes)}, but {data.val_files[0]} has {data.num_classes} categories"
        )
    loader = data.train_dataloader() if options.split == "train" else data.val_dataloader()
    if options.split == "train":
        loader.set_epoch(options.epoch)
    options.output.mkdir(parents=True, exist_ok=True)
    for number, (images, targets) in enumerate(islice(loader, options.batches)):
        pictures, assigned = as_seen(model, images, targets)
        if assigned is None and number == 0:
            print(f"rst: {type(model).__name__} has no anchors to show: boxes and masks only")
        sheet, lines = draw_batch(pictures, targets, assigned, data.class_names)
        file = options.output / f"batch_{number:03d}.png"
        sheet.save(file)
        print("\n".join([f"{file}:", *(f"  {line}" for line in lines)]), flush=True)
    return 0


def as_seen(
    model: Any, images: "list[Tensor]", targets: list[dict[str, Any]]
) -> "tuple[Tensor, list[Positives] | None]":
    """The batch (n, 3, H, W) in [0, 1] as the model pads it, and the positives of each image; None without anchors."""
    import torch

    with torch.no_grad():
        batch, _ = model.transform(images)
        pixels = (batch.tensors * model.transform.std + model.transform.mean).clamp(0, 1)
        head = getattr(model, "rpn", model)  # a dense detector assigns its anchors itself
        generator = getattr(head, "anchor_generator", None)
        if generator is None:
            return pixels, None
        maps = list(model.eval().backbone(batch.tensors).values())
        anchors = generator(batch, maps)[0]  # (N, 4), the same for every image
        match = head.assign(anchors, batch, maps, targets)  # (n, N), ground truths counted through the batch
    stride_of = torch.cat(
        [
            torch.full((len(cell) * level.shape[-2] * level.shape[-1],), stride)
            for cell, level, stride in zip(generator.cell_anchors, maps, generator.strides, strict=True)
        ]
    )
    assigned, first = [], 0
    for row, target in zip(match, targets, strict=True):
        chosen = (row >= 0).nonzero().squeeze(1)
        assigned.append(Positives(anchors[chosen], row[chosen] - first, stride_of[chosen]))
        first += len(target["boxes"])
    return pixels, assigned


def draw_batch(
    pictures: "Tensor",  # (n, 3, H, W) in [0, 1]
    targets: Sequence[dict[str, Any]],
    assigned: Sequence[Positives] | None,
    class_names: Sequence[str],
) -> "tuple[Image.Image, list[str]]":
    """The batch as one picture, and a line of text on each of its images."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(size=FONT_SIZE)
    _, _, height, width = pictures.shape
    scale = min(max(1, -(-LEAST_SIDE // min(height, width))), LARGEST_SCALE)
    columns = 1 if assigned is None else 2
    row_height = scale * height + HEADER
    sheet = Image.new("RGB", (columns * scale * width, len(pictures) * row_height), (32, 32, 32))
    lines = []
    for k, (pixels, target) in enumerate(zip(pictures, targets, strict=True)):
        lines.append(_describe(target, None if assigned is None else assigned[k]))
        top = k * row_height
        ImageDraw.Draw(sheet).text((4, top + 2), lines[-1], fill=(255, 255, 255), font=font)
        sheet.paste(_draw_truth(pixels, target, class_names, scale), (0, top + HEADER))
        if assigned is not None:
            sheet.paste(_draw_positives(pixels, target, assigned[k], scale), (scale * width, top + HEADER))
    return sheet, lines


def _describe(target: dict[str, Any], positives: Positives | None) -> str:
    height, width = target["size"]
    objects = len(target["boxes"])
    line = f"image {target['image_id']}: {width}x{height} pixels, {objects} object" + "s" * (objects != 1)
    if positives is None:
        return line
    counts = sorted(Counter(positives.strides.tolist()).items())
    levels = ", ".join(f"P{stride.bit_length() - 1} {count}" for stride, count in counts)
    anchors = len(positives.boxes)
    return f"{line}, {anchors} positive anchor" + "s" * (anchors != 1) + (f": {levels}" if levels else "")


def _draw_truth(pixels: "Tensor", target: dict[str, Any], class_names: Sequence[str], scale: int) -> "Image.Image":
    """The image with the masks laid over it, boxes and class names."""
    import torch
    from PIL import ImageDraw, ImageFont

    from rst.evaluation.draw import class_colour

    labels = target["labels"].tolist()
    pixels = pixels.clone()
    for mask, label in zip(target["masks"], labels, strict=True) if "masks" in target else ():
        part = pixels[:, : mask.shape[0], : mask.shape[1]]  # the rest is padding
        colour = torch.tensor(class_colour(label))[:, None] / 255
        part[:, mask.bool()] = (1 - MASK_OPACITY) * part[:, mask.bool()] + MASK_OPACITY * colour
    picture = _enlarge(pixels, scale)
    draw = ImageDraw.Draw(picture)
    boxes = (scale * target["boxes"]).tolist()
    for box, label in zip(boxes, labels, strict=True):
        draw.rectangle(box, outline=class_colour(label), width=2)
    font = ImageFont.load_default(size=FONT_SIZE)
    for (left, top, *_), label in zip(boxes, labels, strict=True):  # names on top of all boxes
        name, place = str(class_names[label]), (max(0.0, left + 1), max(0.0, top - FONT_SIZE - 2))
        draw.rectangle(draw.textbbox(place, name, font=font), fill=(0, 0, 0))
        draw.text(place, name, fill=class_colour(label), font=font)
    return picture


def _draw_positives(pixels: "Tensor", target: dict[str, Any], positives: Positives, scale: int) -> "Image.Image":
    """The image with each object's box, thick, and its anchors, thin, in a colour of the object's own."""
    from PIL import ImageDraw

    from rst.evaluation.draw import class_colour

    picture = _enlarge(pixels, scale)
    draw = ImageDraw.Draw(picture)
    for box, owner in zip((scale * positives.boxes).tolist(), positives.objects.tolist(), strict=True):
        x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        draw.rectangle(box, outline=class_colour(owner))
        draw.ellipse([x - 2, y - 2, x + 2, y + 2], fill=class_colour(owner))
    for owner, box in enumerate((scale * target["boxes"]).tolist()):
        draw.rectangle(box, outline=class_colour(owner), width=3)
    return picture


def _enlarge(pixels: "Tensor", scale: int) -> "Image.Image":
    """(3, H, W) in [0, 1] as a picture whose pixels are squares of `scale`."""
    from PIL import Image

    array = (pixels * 255).round().byte().permute(1, 2, 0).numpy()
    height, width = array.shape[:2]
    return Image.fromarray(array).resize((scale * width, scale * height), Image.Resampling.NEAREST)
