"""The data of one experiment, as Lightning expects it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from rst.coco.errors import DataError
from rst.data.annotations import FaultyBoxes
from rst.data.dataset import CocoDetection
from rst.data.image_files import FileNames, check_file_names
from rst.data.images import MAX_PIXELS, Decoding, Exif
from rst.data.learnable import require_objects, require_truth
from rst.data.repeats import Rounding, check_repeats
from rst.data.sampler import EpochBatches, TrainingLoader
from rst.data.transforms import evaluation_transforms, training_transforms

Batch = tuple[list[Tensor], list[dict[str, Any]]]


class DetectionData(LightningDataModule):
    """Training and validation data in COCO form. Use with `Trainer(use_distributed_sampler=False)`.

    Args:
        train_annotations, train_images: COCO file and image folder to train on.
        val_annotations, val_images: COCO file and image folder to validate on.
        images_per_batch: images in a batch, per process.
        short_sides: candidates of the shorter side in training, pixels; one is drawn per image.
        max_side: limit of the longer side, pixels.
        keep_ratio: False makes every image a square of the side drawn, without `max_side`; also in validation.
        flip: probability of a horizontal flip.
        photometric: distort brightness, contrast, saturation, hue and the order of the channels in training.
        expand: with probability 0.5, put a training image on a canvas with up to this many times its sides; 1: never.
        iou_crop: crop training images around objects, as SSD and YOLACT do.
        min_box_side: boxes with a side of less than this many pixels of the image file are not trained on.
        test_short_side: shorter side in validation, pixels; the largest of `short_sides` by default.
        group_by_aspect_ratio: batches of upright and of wide images.
        repeat_threshold: classes in less than this share of the training images are shown more often: an image
            occurs max(1, sqrt(repeat_threshold / share)) times an epoch, by its rarest class (repeat-factor sampling;
            LVIS: 0.001). null: every image once.
        repeat_rounding: "random": fractions of repeats are drawn anew each epoch, as in the LVIS paper; "up": rounded
            up, as in the code of the Rank & Sort paper.
        workers: worker processes that read images, per process; 0 reads in the training process.
        keep_empty: train on images without objects too; the published COCO recipes leave them out.
        masks: add instance masks to the training targets.
        faulty_boxes: boxes without area or wholly outside their image: "refuse" the file, or "leave_out" and warn.
        file_names: "exact", or "forgiving": find images whose `file_name` differs from their file's in separators,
            case, URL-encoding, Unicode form, blanks at the ends, folder or a missing suffix, where one file alone is
            meant; and warn.
        exif: images whose EXIF says how to turn them: "upright" turns them, "stored" does not. Where an annotated size
            fits only one of the two, it decides.
        max_pixels: images with more pixels are refused; null refuses none.
        seed: of order and augmentation.

    A batch is (images, targets): a list of float tensors (3, H, W) in [0, 1], and a list of dicts, see `CocoDetection`.

    Augmentations are those of `rst.data.transforms`, photometric distortion first and the flip last. They and the order
    are a pure function of (seed, epoch, image index), for any number of workers. A run resumed within an epoch goes on
    exactly: Lightning stores and restores the position (see `TrainingLoader`); without Lightning call `set_position`.
    In validation each process sees its share of the batches that one process would see.

    Raises:
        DataError: in `setup`, for faulty files, classes that differ between training and validation, or a training set
            without an object to learn from.
    """

    def __init__(
        self,
        train_annotations: Path,
        train_images: Path,
        val_annotations: Path,
        val_images: Path,
        *,
        images_per_batch: int = 4,
        short_sides: Sequence[int] = (800,),
        max_side: int = 1333,
        keep_ratio: bool = True,
        flip: float = 0.5,
        photometric: bool = False,
        expand: float = 1.0,
        iou_crop: bool = False,
        min_box_side: float = 1.0,
        test_short_side: int | None = None,
        group_by_aspect_ratio: bool = True,
        repeat_threshold: float | None = None,
        repeat_rounding: Rounding = "random",
        workers: int = 2,
        keep_empty: bool = True,
        masks: bool = False,
        faulty_boxes: FaultyBoxes = "refuse",
        file_names: FileNames = "exact",
        exif: Exif = "upright",
        max_pixels: int | None = MAX_PIXELS,
        seed: int = 0,
    ):
        super().__init__()
        # a process may get no validation image at all, if there are more processes than images
        self.allow_zero_length_dataloader_with_multiple_devices = True
        if images_per_batch < 1:
            raise ValueError(f"images_per_batch must be at least 1, got {images_per_batch}")
        if workers < 0:
            raise ValueError(f"workers must not be negative, got {workers}")
        if seed < 0:
            raise ValueError(f"seed must not be negative, got {seed}")
        if test_short_side is not None and test_short_side < 1:
            raise ValueError(f"test_short_side must be at least 1 pixel, or null, got {test_short_side}")
        check_repeats(repeat_threshold, repeat_rounding)
        check_file_names(file_names)
        self.file_names: FileNames = file_names
        self.decoding = Decoding(exif, max_pixels)
        self.train_files, self.val_files = (train_annotations, train_images), (val_annotations, val_images)
        self.images_per_batch, self.group_by_aspect_ratio = images_per_batch, group_by_aspect_ratio
        self.workers, self.keep_empty, self.masks, self.seed = workers, keep_empty, masks, seed
        self.faulty_boxes: FaultyBoxes = faulty_boxes
        self.repeat_threshold = repeat_threshold
        self.repeat_rounding: Rounding = repeat_rounding
        self.min_box_side = min_box_side
        self._sizes: dict[str, Any] = {
            "min_box_side": min_box_side,
            "short_sides": short_sides,
            "max_side": max_side,
            "keep_ratio": keep_ratio,
            "iou_crop": iou_crop,
        }
        self.train_transforms = training_transforms(
            short_sides,
            max_side,
            flip,
            keep_ratio=keep_ratio,
            photometric=photometric,
            expand=expand,
            iou_crop=iou_crop,
            min_box_side=min_box_side,
        )
        self.val_transforms = evaluation_transforms(
            max(short_sides) if test_short_side is None else test_short_side, max_side, keep_ratio=keep_ratio
        )
        self.val_masks = False  # nothing but drawings needs them: the evaluation reads those of the file
        self.train_set: CocoDetection | None = None
        self.val_set: CocoDetection | None = None
        self._position: tuple[int, int] | None = None

    def setup(self, stage: str | None = None) -> None:
        """Read the annotation files that `stage` ("fit", "validate", "test", "predict"; None: all) needs, once."""
        if self.val_set is None:
            masks = self.masks and self.val_masks
            self.val_set = CocoDetection(*self.val_files, transforms=self.val_transforms, masks=masks, **self._reading)
        if stage in ("fit", None) and self.train_set is None:
            self.train_set = CocoDetection(
                *self.train_files,
                transforms=self.train_transforms,
                keep_empty=self.keep_empty,
                masks=self.masks,
                **self._reading,
            )
            theirs = (self.val_set.category_ids, self.val_set.class_names)
            if (self.train_set.category_ids, self.train_set.class_names) != theirs:
                raise DataError(
                    f"{self.train_files[0]} and {self.val_files[0]} have different categories: "
                    f"{_differing(self.train_set, self.val_set)}"
                )
            require_objects(self.train_set.table, self.train_files[0], **self._sizes)

    def require_truth(self) -> None:
        """DataError where the validation set has no object, so that its metrics have no value; after `setup`."""
        require_truth(self._loaded(self.val_set).table, self.val_files[0])

    @property
    def _reading(self) -> dict[str, Any]:
        """What training and validation data have in common."""
        return {"faulty_boxes": self.faulty_boxes, "file_names": self.file_names, "decoding": self.decoding}

    @property
    def class_names(self) -> list[str]:
        """Names of the classes, by label; after `setup`."""
        return self._loaded(self.val_set).class_names

    @property
    def category_ids(self) -> list[int]:
        """COCO category ids, by label; after `setup`."""
        return self._loaded(self.val_set).category_ids

    @property
    def num_classes(self) -> int:
        return len(self.category_ids)

    def train_dataloader(self) -> TrainingLoader:
        process, processes = self._process()
        dataset = self._loaded(self.train_set)
        if not len(dataset):
            raise DataError(f"{self.train_files[0]}: no images to train on" + (" have objects" * (not self.keep_empty)))
        batches = EpochBatches(
            dataset.aspect_ratios,
            self.images_per_batch,
            seed=self.seed,
            group_by_aspect_ratio=self.group_by_aspect_ratio,
            repeats=None if self.repeat_threshold is None else dataset.repeat_factors(self.repeat_threshold),
            rounding=self.repeat_rounding,
            process=process,
            processes=processes,
        )
        loader = TrainingLoader(
            dataset, batches, workers=self.workers, collate=collate, pin_memory=torch.cuda.is_available()
        )
        if self._position is not None:
            epoch, done = self._position
            loader.load_state_dict(loader.state_dict() | {"epoch": epoch, "batches_done": done})
            self._position = None
        return loader

    def val_dataloader(self) -> DataLoader[Any]:
        process, processes = self._process()
        dataset = self._loaded(self.val_set)
        size = self.images_per_batch
        batches = [list(range(begin, min(begin + size, len(dataset)))) for begin in range(0, len(dataset), size)]
        return DataLoader(
            dataset,
            # Processes share whole batches: images are then padded, and detections found, as in one process. A process
            # without a batch repeats the first (results are merged by image id), because the others wait for it.
            batch_sampler=batches[process::processes] or batches[:1],
            num_workers=self.workers,
            collate_fn=collate,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=self.workers > 0,
            generator=torch.Generator(),  # its own, so that validating does not draw from the training's stream
        )

    test_dataloader = val_dataloader

    def set_position(self, epoch: int, batches_done: int) -> None:
        """Let the next `train_dataloader()` begin after `batches_done` batches of `epoch`."""
        if epoch < 0 or batches_done < 0:
            raise ValueError(f"epoch and batches_done must not be negative, got {epoch} and {batches_done}")
        self._position = (epoch, batches_done)

    def _process(self) -> tuple[int, int]:
        trainer = self.trainer
        return (0, 1) if trainer is None else (trainer.global_rank, trainer.world_size)

    @staticmethod
    def _loaded(dataset: CocoDetection | None) -> CocoDetection:
        if dataset is None:
            raise RuntimeError("the data is not loaded yet: call setup() first")
        return dataset


def collate(items: list[tuple[Any, dict[str, Any]]]) -> Batch:
    """Items of `CocoDetection` as a batch of plain tensors, which cross process borders cheaper than tv_tensors."""
    images = [image.as_subclass(Tensor) for image, _ in items]
    targets = [
        {key: value.as_subclass(Tensor) if isinstance(value, Tensor) else value for key, value in target.items()}
        for _, target in items
    ]
    return images, targets


def _differing(train: CocoDetection, val: CocoDetection) -> str:
    ours, theirs = (set(zip(d.category_ids, d.class_names, strict=True)) for d in (train, val))
    return f"only the first has {sorted(ours - theirs)[:5]}, only the second has {sorted(theirs - ours)[:5]}"
