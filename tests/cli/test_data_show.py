"""`rst data show`: the pixels are the model's, the positives those of its own matching."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.ops import box_iou

from rst.cli.data_show import HEADER, Positives, as_seen, draw_batch
from rst.cli.main import main
from rst.data import DetectionData
from rst.data.samples import shapes
from rst.detectors import atss, faster_rcnn

CONFIG = Path(__file__).resolve().parents[2] / "configs/sample/rs_faster_rcnn_mobilenetv2.yaml"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("show") / "shapes"
    shapes.prepare(made, train=9, val=4, side=96, seed=3)
    return made


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return faster_rcnn(6, backbone="mobilenet_v2", fpn_channels=16, head_channels=16, anchor_scale=4.0).train()


def batch_of(folder: Path, **options):
    files = (folder / "annotations/train.json", folder / "train", folder / "annotations/val.json", folder / "val")
    data = DetectionData(*files, images_per_batch=3, short_sides=[80, 96], max_side=128, workers=0, **options)
    data.setup("fit")
    return next(iter(data.train_dataloader()))


def test_pixels_are_the_padded_batch_and_positives_the_matchers(folder, model):
    images, targets = batch_of(folder, masks=True)
    pictures, assigned = as_seen(model, images, targets)
    assert pictures.shape[0] == 3
    assert all(side % 32 == 0 for side in pictures.shape[2:])
    for picture, image, target, found in zip(pictures, images, targets, assigned, strict=True):
        height, width = target["size"]
        torch.testing.assert_close(picture[:, :height, :width], image, atol=1e-6, rtol=0)
        padding = picture[:, height:]
        torch.testing.assert_close(padding, model.transform.mean.expand_as(padding), atol=1e-6, rtol=0)
        assert len(found.boxes) == len(found.objects) == len(found.strides)
        if not len(target["boxes"]):
            assert len(found.boxes) == 0
            continue
        iou = box_iou(target["boxes"], found.boxes)[found.objects, torch.arange(len(found.boxes))]
        assert (iou >= 0.3).all()
        sides = (found.boxes[:, 2:] - found.boxes[:, :2]).prod(1).sqrt()
        torch.testing.assert_close(sides, 4.0 * found.strides)
    assert sum(len(found.boxes) for found in assigned) >= 3


def test_positives_of_a_dense_detector_are_its_own(folder):
    torch.manual_seed(0)
    dense = atss(6, backbone="mobilenet_v2", fpn_channels=16, head_channels=64).train()
    images, targets = batch_of(folder)
    _, assigned = as_seen(dense, images, targets)
    for target, found in zip(targets, assigned, strict=True):
        assert set(found.objects.tolist()) <= set(range(len(target["boxes"])))
        assert set(found.strides.tolist()) <= {8, 16, 32, 64, 128}
        centres = 0.5 * (found.boxes[:, :2] + found.boxes[:, 2:])
        owners = target["boxes"][found.objects]
        assert ((centres > owners[:, :2]) & (centres < owners[:, 2:])).all()
    assert sum(len(found.boxes) for found in assigned) >= 3


def test_objects_are_counted_within_their_image(folder, model):
    images, targets = batch_of(folder)
    _, together = as_seen(model, images, targets)
    for k in range(3):
        _, alone = as_seen(model, images[k : k + 1], targets[k : k + 1])
        assert torch.equal(alone[0].objects, together[k].objects)


def test_boxes_masks_and_anchors_are_drawn_where_they_are():
    pictures = torch.zeros(1, 3, 400, 400)
    mask = torch.zeros(1, 300, 400, dtype=torch.uint8)
    mask[0, 100:150, 200:260] = 1
    boxes = torch.tensor([[200.0, 100.0, 260.0, 150.0]])
    target = {"image_id": 5, "size": (300, 400), "boxes": boxes, "labels": torch.tensor([1]), "masks": mask}
    anchors = Positives(torch.tensor([[210.0, 90.0, 270.0, 140.0]]), torch.tensor([0]), torch.tensor([8]))
    sheet, lines = draw_batch(pictures, [target], [anchors], ["cat", "dog"])
    assert lines == ["image 5: 400x300 pixels, 1 object, 1 positive anchor: P3 1"]
    assert sheet.size == (800, 400 + HEADER)
    pixels = np.asarray(sheet)[HEADER:]
    left, right = pixels[:, :400], pixels[:, 400:]
    assert left[120, 230].max() > 80, "mask"
    assert left[120, 199].max() == 0
    assert left[120, 200].max() == left[150, 230].max() == 255, "box"
    assert right[120, 230].max() == 0, "no mask on the right"
    assert right[90, 230].max() == right[120, 270].max() == 255, "anchor"
    alone, lines = draw_batch(pictures, [target], None, ["cat", "dog"])
    assert alone.size == (400, 400 + HEADER)
    assert lines == ["image 5: 400x300 pixels, 1 object"]


def arguments(folder: Path, output: Path, *more: str) -> list[str]:
    return [
        *("data", "show", "--config", str(CONFIG), "--output", str(output)),
        *(f"--data.{split}_annotations={folder}/annotations/{split}.json" for split in ("train", "val")),
        *(f"--data.{split}_images={folder}/{split}" for split in ("train", "val")),
        *("--model.num_classes", "6", "--data.short_sides", "[96]", "--data.images_per_batch", "2"),
        *more,
    ]


@pytest.mark.parametrize("more", [(), ("--split", "val"), ("--data.masks", "true", "--epoch", "2")])
def test_the_command_writes_a_picture_per_batch(folder, tmp_path, capsys, more):
    assert main(arguments(folder, tmp_path / "out", "--batches", "2", *more)) == 0
    files = sorted((tmp_path / "out").iterdir())
    assert [file.name for file in files] == ["batch_000.png", "batch_001.png"]
    printed = capsys.readouterr().out
    assert len(re.findall(r"  image \d+: \d+x\d+ pixels, \d+ objects?, \d+ positive anchors?", printed)) == 4
    with Image.open(files[0]) as picture:
        assert picture.size[0] >= 2 * 96
    if "--split" in more:
        assert re.findall(r"image (\d+):", printed) == ["1", "2", "3", "4"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--batches", "0"), "--batches must be at least 1, got 0"),
        (("--epoch", "-1"), "--epoch must be at least 0, got -1"),
        (("--model.num_classes", "5"), "model.num_classes is 5, but "),
        (("--data.short_side", "[5]"), "unknown key data.short_side (did you mean data.short_sides?)"),
        (("--data.train_annotations", "nowhere.json"), "nowhere.json: no such file"),
    ],
)
def test_mistakes_have_exit_code_2_and_one_line(folder, tmp_path, capsys, more, message):
    assert main(arguments(folder, tmp_path / "out", *more)) == 2
    complained = capsys.readouterr().err
    assert message in complained
    assert complained.count("\n") == 1
