"""The order of images: groups, shares, resume, and random streams that belong to an image."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from rst.data.sampler import EpochBatches, Key, Seeded, TrainingLoader

RATIOS = [1.5, 0.5, 1.0, 0.7, 2.0, 1.2, 0.9, 1.1, 0.4, 3.0, 1.3, 0.6, 1.7]  # 8 wide, 5 upright


def epoch_of(batches: EpochBatches, epoch: int) -> list[list[int]]:
    batches.epoch = epoch
    return [[key.image for key in batch] for batch in batches]


class Draws(torch.utils.data.Dataset):
    """Items made of what the random streams give."""

    def __init__(self, count: int = 13):
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[int, float]:
        return index, float(torch.rand(()))


def loader(workers: int = 0, **options) -> TrainingLoader:
    return TrainingLoader(Draws(), EpochBatches(RATIOS, 2, **options), workers=workers, collate=list)


def test_every_image_once_an_epoch_and_the_last_batch_filled_up():
    batches = EpochBatches(RATIOS, 4, group_by_aspect_ratio=False)
    epoch = epoch_of(batches, 0)
    assert len(epoch) == len(batches) == 4
    assert all(len(batch) == 4 for batch in epoch)
    seen = np.bincount(np.concatenate(epoch), minlength=13)
    assert seen.min() == 1
    assert seen.sum() == 16
    assert seen.max() == 2


def test_no_repeats_where_the_batches_come_out_even():
    batches = EpochBatches(RATIOS[:12], 4)
    assert sorted(np.concatenate(epoch_of(batches, 0))) == list(range(12))


def test_fewer_images_than_a_batch():
    assert sorted(np.concatenate(epoch_of(EpochBatches([1.0, 2.0], 5), 0))) in ([0, 0, 0, 1, 1], [0, 0, 1, 1, 1])


def test_the_order_is_a_function_of_seed_and_epoch():
    batches = EpochBatches(RATIOS, 2, seed=3)
    first, second = epoch_of(batches, 0), epoch_of(batches, 1)
    assert first != second
    assert epoch_of(batches, 0) == first
    assert epoch_of(EpochBatches(RATIOS, 2, seed=3), 1) == second
    assert epoch_of(EpochBatches(RATIOS, 2, seed=4), 0) != first


def test_batches_mix_shapes_only_where_the_groups_do_not_come_out_even():
    wide = np.array(RATIOS * 4) >= 1.0
    batches = EpochBatches(RATIOS * 4, 4)
    mixed = [[len(set(wide[batch])) > 1 for batch in epoch_of(batches, epoch)] for epoch in range(5)]
    assert all(sum(flags) <= 1 for flags in mixed)  # 32 wide, 20 upright: both even in fours
    assert sum(mixed[0]) == 0
    ungrouped = EpochBatches(RATIOS * 4, 4, group_by_aspect_ratio=False)
    assert sum(len(set(wide[batch])) > 1 for batch in epoch_of(ungrouped, 0)) > 3


def test_shapes_alternate_over_the_epoch():
    wide = np.array(RATIOS * 20) >= 1.0
    kinds = [bool(wide[batch[0]]) for batch in epoch_of(EpochBatches(RATIOS * 20, 4), 0)]
    assert sum(a != b for a, b in pairwise(kinds)) > 10


@pytest.mark.parametrize("processes", [2, 3])
def test_shares_partition_the_epoch(processes):
    whole = EpochBatches(RATIOS, 2 * processes, seed=1)
    parts = [EpochBatches(RATIOS, 2, seed=1, process=process, processes=processes) for process in range(processes)]
    for epoch in range(3):
        shares = [epoch_of(part, epoch) for part in parts]
        assert len({len(share) for share in shares}) == 1
        joined = [[image for share in batch for image in share] for batch in zip(*shares, strict=True)]
        assert joined == epoch_of(whole, epoch), "together they are the batches of one process"
        assert set(np.concatenate(joined)) == set(range(len(RATIOS)))


def test_every_resume_continues_the_same_order():
    reference = loader(seed=2)
    runs = []
    for epoch in range(2):
        reference.set_epoch(epoch)
        runs.append(list(reference))
    for done in range(len(reference) + 1):
        interrupted = loader(seed=2)
        interrupted.set_epoch(1)
        iterator = iter(interrupted)
        head = [next(iterator) for _ in range(done)]
        state = interrupted.state_dict()
        assert (state["epoch"], state["batches_done"]) == (1, done)

        resumed = loader(seed=2)
        resumed.load_state_dict(state)
        tail = iter(resumed)  # Lightning makes the iterator first and announces the epoch then
        resumed.set_epoch(1)
        assert len(resumed) == len(reference)
        assert resumed.state_dict() == state, "a state can be stored before the first batch"
        assert head + list(tail) == runs[1]
        assert resumed.state_dict()["batches_done"] == len(reference)


def test_after_a_resume_the_next_epoch_is_whole():
    resumed = loader(seed=2)
    resumed.load_state_dict(loader(seed=2).state_dict() | {"epoch": 1, "batches_done": 3})
    assert len(list(resumed)) == len(resumed) - 3
    resumed.set_epoch(2)
    assert len(list(resumed)) == len(resumed)
    reference = loader(seed=2)
    reference.set_epoch(2)
    resumed.set_epoch(0)
    resumed.set_epoch(2)
    assert list(resumed) == list(reference)


def test_announcing_another_epoch_discards_the_position():
    resumed = loader(seed=2)
    resumed.load_state_dict(loader(seed=2).state_dict() | {"epoch": 1, "batches_done": 7})
    resumed.set_epoch(2)
    assert len(list(resumed)) == len(resumed)


def test_iterating_twice_without_an_epoch_gives_the_epoch_again():
    plain = loader()
    whole = list(plain)
    assert list(plain) == whole
    plain.load_state_dict(plain.state_dict() | {"batches_done": 4})
    assert list(plain) == whole[4:], "a loaded position holds for one iteration"
    assert list(plain) == whole


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": 9}, r"seed 0 -> 9"),
        ({"processes": 2}, r"global_batch 2 -> 4"),
        ({"group_by_aspect_ratio": False}, r"group_by_aspect_ratio True -> False"),
    ],
)
def test_another_order_cannot_be_resumed_within_an_epoch(options, message):
    state = loader().state_dict() | {"epoch": 4, "batches_done": 3}
    with pytest.raises(ValueError, match=rf"within an epoch \(epoch 4, batch 3\).*{message}\."):
        loader(**options).load_state_dict(state)
    changed = loader(**options)
    changed.load_state_dict(state | {"batches_done": 0})  # between epochs anything may change
    assert changed.state_dict()["epoch"] == 4


def test_random_streams_belong_to_the_image_and_the_callers_is_left_alone():
    data = Seeded(Draws(), seed=1)
    torch.manual_seed(77)
    expected = torch.rand(3)
    torch.manual_seed(77)
    first = data[Key(2, 5)]
    assert torch.equal(torch.rand(3), expected)
    data[Key(0, 1)]
    assert data[Key(2, 5)] == first
    different = [data[Key(3, 5)], data[Key(2, 6)], Seeded(Draws(), seed=2)[Key(2, 5)]]
    assert len({value for _, value in [first, *different]}) == 4


def test_iterating_does_not_draw_from_the_callers_stream():
    torch.manual_seed(77)
    expected = torch.rand(3)
    torch.manual_seed(77)
    list(loader())
    assert torch.equal(torch.rand(3), expected)


# Python 3.12 warns of fork in a process with threads, which torch always has
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_augmentation_is_the_same_for_any_number_of_workers_and_counts_what_was_handed_over():
    plain, parallel = loader(seed=5), loader(workers=2, seed=5)
    for epoch in range(2):
        plain.set_epoch(epoch)
        parallel.set_epoch(epoch)
        assert list(plain) == list(parallel)
    parallel.set_epoch(2)
    next(iter(parallel))
    assert parallel.state_dict()["batches_done"] == 1, "workers have prepared more, but one was handed over"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], 2), r"there are no images to train on"),
        (([1.0], 0), r"images_per_batch must be at least 1, got 0"),
    ],
)
def test_arguments_out_of_range_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        EpochBatches(*arguments)
    with pytest.raises(ValueError, match=r"process must lie in \[0, processes\) = \[0, 2\), got 2"):
        EpochBatches([1.0], 1, process=2, processes=2)
