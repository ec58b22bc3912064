"""`rst data show`: batches exactly as the model sees them, with boxes, masks and assigned positives.

n  images of a batch    P  positives of a head    H, W  height and width of the padded batch, pixels
"""

import argparse
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rst.cli.loading import load_training
from rst.cli.outputs import png_bytes, refuse_inputs
from rst.cli.parsers import command_parser, wants_help
from rst.files import write_whole
from rst.training.errors import ConfigError

if TYPE_CHECKING:  # --help should not wait for torch
    from PIL import Image
    from torch import Tensor

LEAST_SIDE = 360  # pixels: smaller batches are enlarged by whole numbers
HEADER, FONT_SIZE = 20, 13  # pixels: above each row, for its text


def main(argv: list[str]) -> int:
    parser = command_parser(
        "data show",
        "--config FILE --output DIR [--batches 4] [--epoch 0] [--split train] [--KEY VALUE ...]",
        "Draw batches of an experiment exactly as its model sees them: augmented, resized and padded, in the order of\n"
        "training. One PNG per batch, one row per image: left its boxes, masks and class names; beside it, for each\n"
        "head that assigns anchors, the positives of every object, in a colour per object.",
        "often overridden:\n"
        "  --data.masks true  --data.images_per_batch N  --data.workers 0  --data.train_annotations FILE\n"
        "  --model.num_classes N\n\n"
        "example:\n"
        "  rst data show --config configs/sample/rs_faster_rcnn_mobilenetv2.yaml --output runs/batches --batches 2",
    )
    parser.add_argument(
        "--config", type=Path, required=True, metavar="FILE", help="the experiment: data, augmentation and model"
    )
    parser.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="folder for batch_000.png, batch_001.png, ..."
    )
    parser.add_argument("--batches", type=int, default=4, metavar="N", help="how many (default: %(default)s)")
    parser.add_argument(
        "--epoch", type=int, default=0, metavar="N", help="epoch of the training, from 0 (default: %(default)s)"
    )
    parser.add_argument(
        "--split",
        choices=["train", "val"],
        default="train",
        help="training batches, or validation batches (default: %(default)s)",
    )
    if wants_help(parser, argv):
        return 2
    return _show(*parser.parse_known_args(argv))


def _show(options: argparse.Namespace, overrides: list[str]) -> int:
    for name, least in (("batches", 1), ("epoch", 0)):
        if getattr(options, name) < least:
            raise ConfigError(f"--{name} must be at least {least}, got {getattr(options, name)}")
    refuse_inputs("--output", options.output, files={"--config": options.config})
    load_training()
    from rst.cli.config import build_experiment
    from rst.cli.masks import check_masks
    from rst.evaluation.fonts import font_note

    built = build_experiment(overrides, options.config, [*vars(options)])
    data, model = built.data, built.model
    check_masks(model, data)
    data.val_masks = True
    files = [options.output / f"batch_{number:03d}.png" for number in range(options.batches)]
    sets = {"--data.train_annotations": data.train_files, "--data.val_annotations": data.val_files}
    refuse_inputs(
        "--output",
        options.output,
        files={"--config": options.config, **{name: annotations for name, (annotations, _) in sets.items()}},
        writes=files,
        images=[images for _, images in sets.values()],
    )
    data.setup("fit" if options.split == "train" else "validate")
    if data.num_classes != int(model.num_classes):
        raise ConfigError(
            f"model.num_classes is {int(model.num_classes)}, but {data.val_files[0]} has {data.num_classes} categories"
        )
    loader = data.train_dataloader() if options.split == "train" else data.val_dataloader()
    if options.split == "train":
        loader.set_epoch(options.epoch)
    options.output.mkdir(parents=True, exist_ok=True)
    if note := font_note(data.class_names):
        print(f"rst: note: {note}")
    for number, (file, (images, targets)) in enumerate(zip(files, loader, strict=False)):
        pixels, heads = as_seen(model, images, targets)
        if not (number or heads):
            print(f"rst: {type(model).__name__} assigns no anchors: boxes and masks only")
        sheet, lines = draw_batch(pixels, targets, heads, data.class_names)
        write_whole(file, png_bytes(sheet))
        print("\n".join([f"{file}:", *(f"  {line}" for line in lines)]), flush=True)
    return 0


def as_seen(model: Any, images: "list[Tensor]", targets: list[dict[str, Any]]) -> "tuple[Tensor, dict[str, Any]]":
    """The batch (n, 3, H, W) in [0, 1] as the network sees it, and the positives of each head by its title."""
    import torch

    with torch.no_grad():
        pixels = model.as_seen(images).cpu() if hasattr(model, "as_seen") else _padded(images)
        positives = model.positives(images, targets) if hasattr(model, "positives") else {}
    titles = getattr(model, "heads", {})
    return pixels, {titles.get(head, head): found for head, found in positives.items()}


def _padded(images: "list[Tensor]") -> "Tensor":
    """(n, 3, H, W): images at the top left, black below and to the right."""
    height, width = (max(image.shape[axis] for image in images) for axis in (1, 2))
    batch = images[0].new_zeros(len(images), 3, height, width)
    for place, image in zip(batch, images, strict=True):
        place[:, : image.shape[1], : image.shape[2]] = image
    return batch


def draw_batch(
    images: "Tensor",  # (n, 3, H, W) in [0, 1]
    targets: Sequence[dict[str, Any]],
    heads: Mapping[str, Any],
    class_names: Sequence[str],
) -> "tuple[Image.Image, list[str]]":
    """The batch as one drawing, and a line of text on each of its images; `heads` maps a title to its positives."""
    from PIL import Image, ImageDraw

    from rst.evaluation.fonts import label_font

    rows, lines = [], []
    for k, (pixels, target) in enumerate(zip(images, targets, strict=True)):
        lines.append(_describe(target, {title: found.level[found.image == k] for title, found in heads.items()}))
        drawings = [_draw_truth(pixels, target, class_names)]
        for found in heads.values():
            own = found.image == k
            drawings.append(_draw_positives(pixels, target, found.boxes[own], found.truth[own]))
        rows.append(drawings)
    width, height = rows[0][0].size
    row_height = height + HEADER
    sheet = Image.new("RGB", (len(rows[0]) * width, len(rows) * row_height), (32, 32, 32))
    for k, (line, drawings) in enumerate(zip(lines, rows, strict=True)):
        place, font = (4, k * row_height + 2), label_font(line, FONT_SIZE)
        ImageDraw.Draw(sheet).text(place, line, fill=(255, 255, 255), font=font)
        for column, drawing in enumerate(drawings):
            sheet.paste(drawing, (column * width, k * row_height + HEADER))
    return sheet, lines


def _describe(target: dict[str, Any], levels: "Mapping[str, Tensor]") -> str:
    height, width = target["size"]
    objects = len(target["boxes"])
    line = f"image {target['image_id']}: {width}x{height} pixels, {objects} object" + "s" * (objects != 1)
    for title, of_head in levels.items():
        counts = sorted(Counter(of_head.tolist()).items())
        line += f"; {title}: {len(of_head)} positive" + "s" * (len(of_head) != 1)
        line += f" ({', '.join(f'P{level} {count}' for level, count in counts)})" if counts else ""
    return line


def _draw_truth(pixels: "Tensor", target: dict[str, Any], class_names: Sequence[str]) -> "Image.Image":
    """The image with the masks laid over it, boxes and class names."""
    import numpy as np
    from PIL import Image, ImageDraw

    from rst.evaluation.draw import blend_mask, class_colour, enlarge, to_rgb, write_label
    from rst.evaluation.fonts import drawable_name

    labels = target["labels"].tolist()
    array = np.array(to_rgb(pixels))
    for mask, label in zip(target["masks"], labels, strict=True) if "masks" in target else ():
        blend_mask(array, mask.bool().numpy(), class_colour(label))
    image, scale = enlarge(Image.fromarray(array), LEAST_SIDE, Image.Resampling.NEAREST)
    draw = ImageDraw.Draw(image)
    boxes = (scale * target["boxes"]).tolist()
    for box, label in zip(boxes, labels, strict=True):
        draw.rectangle(box, outline=class_colour(label), width=2)
    for box, label in zip(boxes, labels, strict=True):  # names on top of all boxes
        name = drawable_name(str(class_names[label]), label)
        write_label(draw, box, name, class_colour(label), FONT_SIZE, image.size)
    return image


def _draw_positives(
    pixels: "Tensor",
    target: dict[str, Any],
    boxes: "Tensor",  # (P,) of this image
    truth: "Tensor",  # (P,) index of the object
) -> "Image.Image":
    """The image with each object's box, thick, and its positives, thin, in a colour of the object's own."""
    from PIL import Image, ImageDraw

    from rst.evaluation.draw import class_colour, enlarge, to_rgb

    image, scale = enlarge(to_rgb(pixels), LEAST_SIDE, Image.Resampling.NEAREST)
    draw = ImageDraw.Draw(image)
    for box, owner in zip((scale * boxes).tolist(), truth.tolist(), strict=True):
        x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        draw.rectangle(box, outline=class_colour(owner))
        draw.ellipse([x - 2, y - 2, x + 2, y + 2], fill=class_colour(owner))
    for owner, box in enumerate((scale * target["boxes"]).tolist()):
        draw.rectangle(box, outline=class_colour(owner), width=3)
    return image
