"""In which order pictures are trained on: reproducible, shared between processes, resumable within an epoch.

Everything is a pure function of (seed, epoch): the order of an epoch is computed as a whole on every process, each
takes its share of every global batch, and a resume starts at a batch number. What a worker process draws at random for
a picture is a pure function of (seed, epoch, image index), because the keys that reach the data set carry the epoch.

Letters: N pictures, W processes, G = W * images_per_batch pictures in a global batch.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler


class Key(NamedTuple):
    """What the sampler hands to the data set."""

    epoch: int
    image: int


class EpochBatches(Sampler[list[Key]]):
    """The batches of one process.

    Args:
        aspect_ratios: (N,) width / height of each picture.
        images_per_batch: pictures in a batch of one process.
        seed: of the order.
        group_by_aspect_ratio: upright and wide pictures in separate batches where possible, which saves padding.
        rank, world_size: this process and their number.

    An epoch has ceil(N / G) global batches of exactly G pictures. The last one is filled up from the beginning of the
    epoch's order, as DistributedSampler does; every other picture occurs once.
    """

    def __init__(
        self,
        aspect_ratios: Sequence[float] | np.ndarray,
        images_per_batch: int,
        *,
        seed: int = 0,
        group_by_aspect_ratio: bool = True,
        rank: int = 0,
        world_size: int = 1,
    ):
        if len(aspect_ratios) == 0:
            raise ValueError("there are no pictures to train on")
        if images_per_batch < 1:
            raise ValueError(f"images_per_batch must be at least 1, got {images_per_batch}")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank must lie in [0, world_size) = [0, {world_size}), got {rank}")
        self.wide = np.asarray(aspect_ratios, np.float64) >= 1.0
        self.grouped = group_by_aspect_ratio
        self.images_per_batch, self.seed, self.rank, self.world_size = images_per_batch, seed, rank, world_size
        self.epoch = 0
        self.first_batch = 0

    def __len__(self) -> int:
        """Batches of a whole epoch, wherever it is begun."""
        return -(-len(self.wide) // (self.images_per_batch * self.world_size))

    def __iter__(self) -> Iterator[list[Key]]:
        share = slice(self.rank * self.images_per_batch, (self.rank + 1) * self.images_per_batch)
        epoch = self.epoch
        for batch in self.global_batches(epoch)[self.first_batch :, share]:
            yield [Key(epoch, int(index)) for index in batch]

    def global_batches(self, epoch: int) -> np.ndarray:
        """(len(self), G) int64: the picture indices of an epoch."""
        size = self.images_per_batch * self.world_size
        generator = np.random.default_rng([self.seed, epoch])
        order = generator.permutation(len(self.wide))
        if self.grouped:
            # full batches of either shape first; what is left of both shares the last one or two batches
            groups = [order[self.wide[order]], order[~self.wide[order]]]
            full = [len(group) - len(group) % size for group in groups]
            parts = [group[:n] for group, n in zip(groups, full, strict=True)]
            parts += [group[n:] for group, n in zip(groups, full, strict=True)]
            order = np.concatenate(parts)
        order = np.resize(order, len(self) * size)  # repeats from the beginning
        return generator.permutation(order.reshape(-1, size))


class Seeded(Dataset[Any]):
    """A data set under keys (epoch, index) whose transforms draw from a random stream of that key alone."""

    def __init__(self, dataset: Any, seed: int):
        self.dataset, self.seed = dataset, seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: Key) -> Any:
        words = np.random.SeedSequence([self.seed, key.epoch, key.image]).generate_state(2, np.uint32)
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
    state in every checkpoint, hands it back before the first `iter` of a resumed run, and calls `set_epoch` (found
    through `sampler`) at the start of each epoch. Three properties make that exact:

    - this is not a subclass of `DataLoader` but holds one, so Lightning never rebuilds it around another sampler;
    - `batches_done` counts the batches handed over, not those that the workers have prepared ahead;
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

    def state_dict(self) -> dict[str, int | bool]:
        return {"epoch": self.batches.epoch, "batches_done": self._done, **self._order()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Stand where `state` was taken.

        Raises:
            ValueError: in the middle of an epoch, if the order has changed (another seed, data set or batch size).
        """
        done = int(state["batches_done"])
        changed = {key: value for key, value in self._order().items() if state[key] != value}
        if changed and done > 0:
            changes = ", ".join(f"{key} {state[key]} -> {value}" for key, value in changed.items())
            raise ValueError(
                f"cannot resume within an epoch (epoch {state['epoch']}, batch {done}) under another order of "
                f"pictures: {changes}. Resume with the former settings, or from a checkpoint of the end of an epoch."
            )
        self.batches.epoch = int(state["epoch"])
        self._start = self._done = done

    def _order(self) -> dict[str, int | bool]:
        """Everything but the epoch that the order depends on."""
        return {
            "seed": self.batches.seed,
            "images": len(self.batches.wide),
            "global_batch": self.batches.images_per_batch * self.batches.world_size,
            "group_by_aspect_ratio": self.batches.grouped,
        }
