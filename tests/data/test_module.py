"""The data module: what batches hold, how processes share, and resuming within an epoch under Lightning."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from coco_files import corrupted_copy
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from rst.coco.errors import DataWarning
from rst.data import DataError, DetectionData
from rst.data.samples import shapes

SIDE = 64
IMAGES = 11

# Lightning's advice, its use of a class that torch has deprecated, and Python 3.12's view of fork under threads
quiet = pytest.mark.filterwarnings(
    "ignore:.*LeafSpec:FutureWarning",
    "ignore:.*does not have many workers:UserWarning",
    "ignore:.*is smaller than the logging interval:UserWarning",
    "ignore:.*is multi-threaded, use of fork:DeprecationWarning",
    "ignore:.*exists and is not empty:UserWarning",
    "ignore:The dirpath has changed:UserWarning",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("module") / "shapes"
    shapes.prepare(made, train=IMAGES, val=5, side=SIDE, seed=3)
    return made


def data_of(folder: Path, **options) -> DetectionData:
    defaults = {"images_per_batch": 2, "short_sides": [48, 64], "max_side": 128, "workers": 0}
    files = (folder / "annotations/train.json", folder / "train", folder / "annotations/val.json", folder / "val")
    return DetectionData(*files, **defaults | options)


def fingerprint(batch) -> list[tuple[int, str]]:
    """Image id and digest of pixels and boxes of each image of a batch."""
    images, targets = batch
    return [
        (target["image_id"], hashlib.sha256(image.numpy().tobytes() + target["boxes"].numpy().tobytes()).hexdigest())
        for image, target in zip(images, targets, strict=True)
    ]


def test_batches_are_lists_of_plain_tensors(folder):
    data = data_of(folder)
    data.setup("fit")
    assert data.class_names == list(shapes.CATEGORIES)
    assert data.category_ids == list(shapes.CATEGORIES.values())
    assert data.num_classes == 6
    seen = []
    for images, targets in data.train_dataloader():
        assert type(images) is list
        assert type(targets) is list
        assert len(images) == len(targets) == 2
        for image, target in zip(images, targets, strict=True):
            assert type(image) is type(target["boxes"]) is type(target["labels"]) is torch.Tensor
            assert image.dtype == target["boxes"].dtype == torch.float32
            assert 0 <= image.min() <= image.max() <= 1
            assert min(image.shape[1:]) in (48, 64)
            assert target["size"] == tuple(image.shape[1:])
            assert max(target["original_size"]) == SIDE
            assert "masks" not in target
            seen.append(target["image_id"])
    assert set(seen) == set(range(1, IMAGES + 1))
    assert len(seen) == IMAGES + 1, "the last batch is filled up"


def test_masks_on_request_and_images_without_objects_left_out_on_request(folder):
    data = data_of(folder, masks=True, keep_empty=False)
    data.setup("fit")
    targets = [target for _, targets in data.train_dataloader() for target in targets]
    assert all(len(target["masks"]) == len(target["boxes"]) for target in targets)
    content = json.loads((folder / "annotations/train.json").read_text())
    owners = {a["image_id"] for a in content["annotations"] if not a["iscrowd"]}
    assert 0 < len(owners) < IMAGES
    assert {target["image_id"] for target in targets} == owners
    _, targets = next(iter(data.val_dataloader()))
    assert "masks" not in targets[0]


def test_validation_is_in_order_at_one_size(folder):
    data = data_of(folder)
    data.setup("validate")
    batches = list(data.val_dataloader())
    assert [target["image_id"] for _, targets in batches for target in targets] == [1, 2, 3, 4, 5]
    assert {min(image.shape[1:]) for images, _ in batches for image in images} == {64}
    small = data_of(folder, test_short_side=32)
    small.setup("validate")
    assert {min(image.shape[1:]) for images, _ in small.val_dataloader() for image in images} == {32}


@pytest.mark.parametrize("processes", [2, 4, 7])
def test_processes_share_training_and_validation(folder, monkeypatch, processes):
    train, val = [], []
    for process in range(processes):
        data = data_of(folder, images_per_batch=1)
        data.setup("fit")
        monkeypatch.setattr(data, "_process", lambda process=process: (process, processes))
        train.append([targets[0]["image_id"] for _, targets in data.train_dataloader()])
        val.append([target["image_id"] for _, targets in data.val_dataloader() for target in targets])
    assert len({len(share) for share in train}) == 1
    assert set(np.concatenate(train)) == set(range(1, IMAGES + 1))
    assert sum(map(len, train)) == -(-IMAGES // processes) * processes
    # each image once; a process for which no batch is left takes the first, so that it too comes to the gathering
    assert sorted(image for share in val[:5] for image in share) == [1, 2, 3, 4, 5]
    assert val[5:] == [[1]] * len(val[5:])


def test_processes_see_the_batches_that_one_process_sees(folder, monkeypatch):
    def batches(process: int, processes: int) -> list[list[int]]:
        data = data_of(folder, images_per_batch=2)
        data.setup("fit")
        monkeypatch.setattr(data, "_process", lambda: (process, processes))
        return [[target["image_id"] for target in targets] for _, targets in data.val_dataloader()]

    assert sorted(batches(0, 2) + batches(1, 2)) == batches(0, 1) == [[1, 2], [3, 4], [5]]


@quiet
def test_the_number_of_workers_changes_nothing(folder):
    runs = []
    for workers in (0, 2):
        data = data_of(folder, workers=workers, seed=4)
        data.setup("fit")
        loader = data.train_dataloader()
        loader.set_epoch(1)
        runs.append([fingerprint(batch) for batch in loader])
    assert runs[0] == runs[1]


def test_set_position_skips_to_a_batch(folder):
    data = data_of(folder)
    data.setup("fit")
    whole = data.train_dataloader()
    whole.set_epoch(2)
    expected = [fingerprint(batch) for batch in whole]
    data.set_position(2, 4)
    assert [fingerprint(batch) for batch in data.train_dataloader()] == expected[4:]
    fresh = data.train_dataloader()
    assert fresh.state_dict()["batches_done"] == fresh.state_dict()["epoch"] == 0, "a position holds for one loader"


class Recorder(LightningModule):
    """Keeps what it is given, and a weight that depends on all of it in order."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.seen: list = []

    def training_step(self, batch, batch_idx):
        self.seen.append((self.current_epoch, batch_idx, fingerprint(batch)))
        return self.weight * torch.stack([image.mean() for image in batch[0]]).mean()

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1, momentum=0.9)


def fit(folder: Path, run: Path, resume: Path | None = None, workers: int = 0) -> Recorder:
    module = Recorder()
    checkpoints = ModelCheckpoint(run, "{step}", every_n_train_steps=1, save_top_k=-1, auto_insert_metric_name=False)
    last = ModelCheckpoint(run, "epoch{epoch}", save_top_k=-1, auto_insert_metric_name=False)  # at the end of each
    trainer = Trainer(
        max_epochs=3,
        accelerator="cpu",
        logger=False,
        callbacks=[checkpoints, last],
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(module, datamodule=data_of(folder, workers=workers, seed=9), ckpt_path=resume, weights_only=True)
    return module


@quiet
def test_a_run_resumed_from_any_checkpoint_sees_what_the_uninterrupted_run_saw(folder, tmp_path):
    whole = fit(folder, tmp_path / "whole")
    steps = len(whole.seen)
    assert steps == 3 * 6
    assert len({str(seen) for *_, seen in whole.seen}) == steps, "epochs differ"
    for name, done in [
        *((f"{step}.ckpt", step) for step in (1, 5, 6, 7, 11, 12, 13, 17)),
        ("epoch0.ckpt", 6),
        ("epoch1.ckpt", 12),
    ]:
        resumed = fit(folder, tmp_path / "resumed", tmp_path / "whole" / name)
        assert resumed.seen == whole.seen[done:], name
        assert torch.equal(resumed.weight, whole.weight), name


@quiet
def test_workers_do_not_disturb_a_resume(folder, tmp_path):
    whole = fit(folder, tmp_path / "whole", workers=2)
    resumed = fit(folder, tmp_path / "resumed", tmp_path / "whole" / "8.ckpt", workers=1)
    assert resumed.seen == whole.seen[8:]


def test_training_and_validation_must_have_the_same_classes(folder, tmp_path):
    other = corrupted_copy(folder, tmp_path, lambda content: content["categories"][0].update(name="disk"))
    data = DetectionData(folder / "annotations/train.json", folder / "train", other, folder / "val")
    with pytest.raises(
        DataError, match=r"corrupted.json have different categories: only the first has \[\(1, 'disc'\)\]"
    ):
        data.setup("fit")


def test_faults_of_the_files_come_up_in_setup(folder, tmp_path):
    with pytest.raises(DataError, match=r"absent.json: no such file"):
        DetectionData(
            tmp_path / "absent.json", folder / "train", folder / "annotations/val.json", folder / "val"
        ).setup("fit")
    degenerate = corrupted_copy(folder, tmp_path, lambda content: content["annotations"][0].update(bbox=[1, 1, 0, 0]))
    with pytest.warns(DataWarning, match=r"corrupted.json: 1 boxes left out"):
        DetectionData(degenerate, folder / "val", degenerate, folder / "val", faulty_boxes="leave_out").setup(
            "validate"
        )
    with pytest.raises(DataError, match=r"corrupted.json: 1 boxes cannot be trained on"):
        DetectionData(degenerate, folder / "val", degenerate, folder / "val").setup("validate")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images_per_batch": 0}, r"images_per_batch must be at least 1, got 0"),
        ({"workers": -1}, r"workers must not be negative, got -1"),
        ({"seed": -1}, r"seed must not be negative, got -1"),
        ({"short_sides": []}, r"short_sides must be a non-empty list"),
        ({"flip": 2.0}, r"flip must lie in \[0, 1\], got 2.0"),
        ({"test_short_side": 500}, r"max_side must not be below the largest short side 500, got 128"),
    ],
)
def test_arguments_out_of_range_are_named(folder, options, message):
    with pytest.raises(ValueError, match=message):
        data_of(folder, **options)
