"""Repeat-factor sampling: the factors by hand, fair rounding, epochs of one length, shares and resumes."""

import math

import numpy as np
import pytest
import torch

from rst.data.repeats import check_repeats, repeat_factors, round_factors
from rst.data.sampler import EpochBatches, Key, Seeded, TrainingLoader

RATIOS = np.random.default_rng(0).uniform(0.5, 2.0, 40)
FACTORS = np.concatenate([np.ones(30), np.linspace(1.1, 5.0, 10)])


def test_factors_by_hand():
    # ten images: class 0 in all of them, class 1 in two, class 2 in one and there twice
    owners = np.array([*range(10), 3, 4, 4, 4])
    labels = np.array([0] * 10 + [1, 1, 2, 2])
    factors = repeat_factors(owners, labels, 10, 0.4)
    expected = np.ones(10)
    expected[3] = math.sqrt(0.4 / 0.2)
    expected[4] = math.sqrt(0.4 / 0.1)
    np.testing.assert_allclose(factors, expected, rtol=1e-15)
    assert (repeat_factors(owners, labels, 10, 0.1) == 1).all()


def test_images_without_objects_count_and_are_not_repeated():
    np.testing.assert_allclose(repeat_factors(np.array([1]), np.array([5]), 4, 1.0), [1, 2, 1, 1])
    assert (repeat_factors(np.zeros(0, np.int64), np.zeros(0, np.int64), 3, 0.5) == 1).all()


def test_lviss_threshold_repeats_the_only_image_of_a_class_by_the_root():
    factors = repeat_factors(np.array([7]), np.array([0]), 100_000, 1e-3)
    assert factors[7] == pytest.approx(10.0)


def test_random_rounding_is_fair_and_every_epoch_as_long():
    counts = [round_factors(FACTORS, "random", np.random.default_rng(k)) for k in range(4000)]
    for count in counts:
        assert (np.floor(FACTORS) <= count).all()
        assert (count <= np.ceil(FACTORS)).all()
        assert abs(count.sum() - FACTORS.sum()) < 1
    assert len({tuple(count) for count in counts}) > 100
    # systematic sampling: a count is a Bernoulli draw of its fraction; six standard deviations
    np.testing.assert_allclose(np.mean(counts, 0), FACTORS, atol=6 * 0.5 / math.sqrt(4000))


def test_rounding_up_is_the_same_in_every_epoch():
    for k in range(3):
        assert (round_factors(FACTORS, "up", np.random.default_rng(k)) == np.ceil(FACTORS)).all()


def repeated(process: int = 0, processes: int = 1, images_per_batch: int = 2, **options) -> EpochBatches:
    return EpochBatches(RATIOS, images_per_batch, repeats=FACTORS, process=process, processes=processes, **options)


def keys_of(batches: EpochBatches, epoch: int) -> list[list[Key]]:
    batches.epoch = epoch
    return list(batches)


@pytest.mark.parametrize("rounding", ["random", "up"])
def test_an_epoch_holds_each_image_as_often_as_its_factor_says(rounding):
    batches = repeated(rounding=rounding)
    for epoch in range(5):
        batches.epoch = epoch
        keys = [key for batch in batches for key in batch]
        assert len(keys) == 2 * len(batches)
        seen = np.bincount([key.image for key in keys], minlength=40)
        filled_up = len(keys) - len(set(keys))
        assert filled_up <= 2
        assert (seen >= np.floor(FACTORS)).all()
        assert seen.sum() - filled_up <= np.ceil(np.ceil(FACTORS).sum() if rounding == "up" else FACTORS.sum())
        for image in range(40):
            repeats = {key.repeat for key in keys if key.image == image}
            assert repeats == set(range(len(repeats))), "occurrences are numbered"


def test_epochs_are_equally_long_and_differ():
    batches = repeated()
    assert len({len(keys_of(batches, epoch)) for epoch in range(20)}) == 1
    assert len(keys_of(batches, 0)) == len(batches) == math.ceil(math.ceil(FACTORS.sum()) / 2)
    assert keys_of(batches, 0) != keys_of(batches, 1)
    assert keys_of(repeated(), 1) == keys_of(repeated(), 1)


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_the_repeated_epoch(processes):
    whole = repeated(images_per_batch=2 * processes)
    parts = [repeated(process, processes) for process in range(processes)]
    for epoch in range(3):
        shares = [keys_of(part, epoch) for part in parts]
        joined = [[key for share in batch for key in share] for batch in zip(*shares, strict=True)]
        assert joined == keys_of(whole, epoch)


class Draws(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> tuple[int, float]:
        return index, float(torch.rand(()))


def loader(**options) -> TrainingLoader:
    return TrainingLoader(Draws(), repeated(**options), collate=list)


def test_the_repeats_of_an_image_are_augmented_differently():
    data = Seeded(Draws(), seed=1)
    assert len({data[Key(0, 7, repeat)] for repeat in range(5)}) == 5
    assert data[Key(0, 7)] == data[Key(0, 7, 0)]
    drawn = [item for batch in loader() for item in batch]
    assert len(set(drawn)) >= len(drawn) - 2, "all but those that fill up the last batch"


def test_every_resume_continues_the_same_order():
    reference = loader(seed=2)
    reference.set_epoch(3)
    whole = list(reference)
    for done in range(0, len(whole) + 1, 5):
        interrupted = loader(seed=2)
        interrupted.set_epoch(3)
        iterator = iter(interrupted)
        head = [next(iterator) for _ in range(done)]
        resumed = loader(seed=2)
        resumed.load_state_dict(interrupted.state_dict())
        assert head + list(resumed) == whole


def test_other_repeats_cannot_be_resumed_within_an_epoch():
    state = loader().state_dict() | {"epoch": 1, "batches_done": 3}
    plain = TrainingLoader(Draws(), EpochBatches(RATIOS, 2), collate=list)
    with pytest.raises(ValueError, match=r"another order of images: repeated_images 60.5 -> 0.0\. Resume with"):
        plain.load_state_dict(state)
    with pytest.raises(ValueError, match=r"rounding random -> up\."):
        loader(rounding="up").load_state_dict(state)


def test_a_checkpoint_from_before_there_were_repeats_is_resumed():
    plain = TrainingLoader(Draws(), EpochBatches(RATIOS, 2), collate=list)
    state = plain.state_dict() | {"batches_done": 4}
    del state["repeated_images"], state["rounding"]
    plain.load_state_dict(state)
    assert len(list(plain)) == len(plain) - 4
    with pytest.raises(ValueError, match=r"repeated_images 0.0 -> 60.5"):
        loader().load_state_dict(state)


def test_arguments_out_of_range_are_named():
    for threshold in (0.0, -1.0, 1.5, float("nan")):
        with pytest.raises(ValueError, match=rf"repeat_threshold must lie in \(0, 1\].* got {threshold}"):
            check_repeats(threshold, "random")
    with pytest.raises(ValueError, match=r"repeat_rounding must be 'random' or 'up', got 'down'"):
        check_repeats(0.001, "down")
    with pytest.raises(ValueError, match=r"repeats has 3 elements for 40 images"):
        EpochBatches(RATIOS, 2, repeats=np.ones(3))
