"""The order of the training images: reproducible, shared between processes, resumable within an epoch.

Everything is a pure function of (seed, epoch): the order of an epoch is computed as a whole on every process, each
takes its share of every global batch, and a resume starts at a batch number. The random numbers for an image are a pure
function of (seed, epoch, image index, repeat): the data set gets these as its key.

    N  images    M  images of an epoch (N without repeats)    W  processes
    G  images of a global batch, W * images_per_batch
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from rst.data.repeats import Rounding, round_factors


class Key(NamedTuple):
    """What the sampler hands to the data set."""

    epoch: int
    image: int
    repeat: int = 0  # number of this occurrence within the epoch, from 0


class EpochBatches(Sampler[list[Key]]):
    """The batches of one process.

    Args:
        aspect_ratios: (N,) width / height of each image.
        images_per_batch: images in a batch of one process.
        seed: of the order.
        group_by_aspect_ratio: upright and wide images in separate batches where possible, which saves padding.
        repeats: (N,) how often each image occurs in an epoch, in the mean (`rst.data.repeats`); None: once each.
        rounding: how `repeats` are rounded, see `round_factors`.
        process, processes: this process and their number.

    An epoch has ceil(M / G) global batches of exactly G images, where M is the sum of the rounded `repeats`, or N.
    The last one is filled up from the beginning of the epoch's order, as DistributedSampler does; without repeats
    every other image occurs once.
    """

    def __init__(
        self,
        aspect_ratios: Sequence[float] | np.ndarray,
        images_per_batch: int,
        *,
        seed: int = 0,
        group_by_aspect_ratio: bool = True,
        repeats: np.ndarray | None = None,
        rounding: Rounding = "random",
        process: int = 0,
        processes: int = 1,
    ):
        if len(aspect_ratios) == 0:
            raise ValueError("there are no images to train on")
        if images_per_batch < 1:
            raise ValueError(f"images_per_batch must be at least 1, got {images_per_batch}")
        if not 0 <= process < processes:
            raise ValueError(f"process must lie in [0, processes) = [0, {processes}), got {process}")
        if repeats is not None and len(repeats) != len(aspect_ratios):
            raise ValueError(f"repeats has {len(repeats)} elements for {len(aspect_ratios)} images")
        self.wide = np.asarray(aspect_ratios, np.float64) >= 1.0
        self.grouped = group_by_aspect_ratio
        self.repeats = None if repeats is None else np.asarray(repeats, np.float64)
        self.rounding: Rounding = rounding
        self.images_per_batch, self.seed, self.process, self.processes = images_per_batch, seed, process, processes
        self.epoch = 0
        self.first_batch = 0

    def __len__(self) -> int:
        """Batches of a whole epoch, wherever it is begun."""
        return -(-self.most_images // (self.images_per_batch * self.processes))

    @property
    def most_images(self) -> int:
        """Images of an epoch, M; with randomly rounded repeats it may be one less, and the last batch is filled up."""
        if self.repeats is None:
            return len(self.wide)
        total = np.ceil(self.repeats).sum() if self.rounding == "up" else np.ceil(self.repeats.sum())
        return int(total)

    def __iter__(self) -> Iterator[list[Key]]:
        share = slice(self.process * self.images_per_batch, (self.process + 1) * self.images_per_batch)
        epoch = self.epoch
        for batch in self.global_batches(epoch)[self.first_batch :, share].tolist():
            yield [Key(epoch, image, repeat) for image, repeat in batch]

    def global_batches(self, epoch: int) -> np.ndarray:
        """(len(self), G, 2) int64: the image's index and the number of this occurrence."""
        size = self.images_per_batch * self.processes
        generator = np.random.default_rng([self.seed, epoch])
        order = generator.permutation(self._occurrences(generator))
        if self.grouped:
            # full batches of either shape first; the rest of both shares the last one or two batches
            wide = self.wide[order[:, 0]]
            groups = [order[wide], order[~wide]]
            full = [len(group) - len(group) % size for group in groups]
            parts = [group[:n] for group, n in zip(groups, full, strict=True)]
            parts += [group[n:] for group, n in zip(groups, full, strict=True)]
            order = np.concatenate(parts)
        order = np.resize(order, (len(self) * size, 2))  # repeats from the beginning
        return generator.permutation(order.reshape(-1, size, 2))

    def _occurrences(self, generator: np.random.Generator) -> np.ndarray:
        """(M, 2) int64: (image, 0), (image, 1), ... for each image."""
        if self.repeats is None:
            return np.stack([np.arange(len(self.wide)), np.zeros(len(self.wide), np.int64)], 1)
        counts = round_factors(self.repeats, self.rounding, generator)
        first = np.cumsum(counts) - counts
        images = np.repeat(np.arange(len(counts)), counts)
        return np.stack([images, np.arange(len(images)) - first[images]], 1)


class Seeded(Dataset[Any]):
    """A data set under keys (epoch, index, repeat) whose transforms draw from a random stream of that key alone."""

    def __init__(self, dataset: Any, seed: int):
        self.dataset, self.seed = dataset, seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: Key) -> Any:
        words = np.random.SeedSequence([self.seed, *key]).generate_state(2, np.uint32)
        generator = torch.default_generator  # what transforms.v2 draws from; the caller's stream is put back
        state = generator.get_state()
        try:
            generator.manual_seed(int(words[0]) << 32 | int(words[1]))
            return self.dataset[key.image]
        finally:
            generator.set_state(state)


class TrainingLoader:
    """Batches for training that resume in the middle of an epoch.

    Lightning (2.6.6) does the rest on its own: it finds `state_dict` and `load_state_dict` on the loader, stores the
    state in every checkpoint, restores it before the first `iter` of a resumed run, and calls `set_epoch` (found
    through `sampler`) at the start of each epoch. Three properties make that exact:

    - this is not a subclass of `DataLoader` but holds one, so Lightning never rebuilds it around another sampler;
    - `batches_done` counts the batches that were used, not those that the workers have prepared ahead;
    - the position is read when the first batch is asked for, not when the iterator is made: Lightning makes the first
      iterator before it announces the epoch.

    `len` is that of a whole epoch, also after a resume, which is what Lightning's count of batches expects.
    """

    def __init__(
        self,
        dataset: Any,
        batches: EpochBatches,
        *,
        workers: int = 0,
        collate: Callable[[list[Any]], Any],
        pin_memory: bool = False,
    ):
        self.dataset, self.batches = dataset, batches
        self.loader = DataLoader(
            Seeded(dataset, batches.seed),
            batch_sampler=batches,
            num_workers=workers,
            collate_fn=collate,
            pin_memory=pin_memory,
            persistent_workers=workers > 0,
            generator=torch.Generator(),  # its own, so that iterating does not draw from the caller's stream
        )
        self._start = 0  # where the next iteration begins
        self._done = 0

    @property
    def sampler(self) -> "TrainingLoader":
        return self

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        self._done = self.batches.first_batch = self._start
        self._start = 0
        for batch in self.loader:
            self._done += 1
            yield batch

    def set_epoch(self, epoch: int) -> None:
        """Begin `epoch`; a position loaded within this same epoch is kept."""
        if epoch != self.batches.epoch:
            self.batches.epoch = epoch
            self._start = self._done = 0

    def state_dict(self) -> dict[str, int | float | bool | str]:
        return {"epoch": self.batches.epoch, "batches_done": self._done, **self._order()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to the position at which `state` was taken.

        Raises:
            ValueError: in the middle of an epoch, if the order has changed (another seed, data set or batch size).
        """
        done = int(state["batches_done"])
        former = {"repeated_images": 0.0, "rounding": "random"} | state  # a state from before there were repeats
        changed = {key: value for key, value in self._order().items() if former[key] != value}
        if changed and done > 0:
            changes = ", ".join(f"{key} {former[key]} -> {value}" for key, value in changed.items())
            raise ValueError(
                f"cannot resume within an epoch (epoch {state['epoch']}, batch {done}) under another order of "
                f"images: {changes}. Resume with the former settings, or from a checkpoint of the end of an epoch."
            )
        self.batches.epoch = int(state["epoch"])
        self._start = self._done = done

    def _order(self) -> dict[str, int | float | bool | str]:
        """All that the order depends on, except the epoch; the repeat factors are represented by their sum."""
        repeats = self.batches.repeats
        return {
            "seed": self.batches.seed,
            "images": len(self.batches.wide),
            "global_batch": self.batches.images_per_batch * self.batches.processes,
            "group_by_aspect_ratio": self.batches.grouped,
            "repeated_images": 0.0 if repeats is None else round(float(repeats.sum()), 6),
            "rounding": self.batches.rounding,
        }
