"""Checkpoints are written whole or not at all, read without running code, and refused where they do not fit."""

import errno
import os
import resource
import subprocess

import pytest
import torch
from torch import nn

from rst.cli.main import exit_code
from rst.training import AtomicCheckpointIO, CheckpointError, check_fits, load_checkpoint, load_weights


class Head(nn.Module):
    def __init__(self, num_classes: int, width: int = 4):
        super().__init__()
        self.num_classes = num_classes
        self.neck = nn.Linear(3, width)
        self.scores = nn.Linear(width, num_classes)


def checkpoint_of(model: Head) -> dict:
    state = {f"model.{name}": value for name, value in model.state_dict().items()}
    return {"state_dict": state, "global_step": 7, "rst": {"num_classes": model.num_classes}}


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "checkpoints" / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint(checkpoint_of(Head(3)), path)
    return path


def test_what_is_saved_is_read_back_and_nothing_else_lies_beside_it(saved):
    model = Head(3)
    load_weights(model, load_checkpoint(saved), saved)
    assert load_checkpoint(saved)["global_step"] == 7
    assert os.listdir(saved.parent) == ["last.ckpt"]  # noqa: PTH208 - hidden files count


def assert_the_previous_one_survives(path, error):
    assert path.name in str(error)
    assert "previous checkpoint of that name is untouched" in str(error)
    assert load_checkpoint(path)["global_step"] == 7
    assert os.listdir(path.parent) == ["last.ckpt"], "a temporary file was left behind"  # noqa: PTH208 - as above


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_previous_checkpoint(saved, monkeypatch, call):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, full)
    with pytest.raises(CheckpointError, match="No space left on device") as caught:
        AtomicCheckpointIO().save_checkpoint(checkpoint_of(Head(3)) | {"global_step": 8}, saved)
    assert_the_previous_one_survives(saved, caught.value)
    assert exit_code(caught.value) == 1, "a full disk is not a mistake in the arguments"


def test_a_write_that_the_kernel_cuts_short_leaves_the_previous_checkpoint(saved):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(CheckpointError, match="File too large") as caught:
            AtomicCheckpointIO().save_checkpoint(checkpoint_of(Head(5000)), saved)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert_the_previous_one_survives(saved, caught.value)


def test_a_really_full_disk_leaves_the_previous_checkpoint(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount a small disk here: {mounted.stderr.strip()}")
    try:
        path = disk / "last.ckpt"
        AtomicCheckpointIO().save_checkpoint(checkpoint_of(Head(3)), path)
        with pytest.raises(CheckpointError, match="No space left on device") as caught:
            AtomicCheckpointIO().save_checkpoint(checkpoint_of(Head(20_000)), path)
        assert_the_previous_one_survives(path, caught.value)
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_a_truncated_checkpoint_is_named(saved, share):
    content = saved.read_bytes()
    saved.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(CheckpointError, match=r"last\.ckpt: not a readable checkpoint") as caught:
        load_checkpoint(saved)
    assert exit_code(caught.value) == 2


def test_other_files_are_named(tmp_path):
    (tmp_path / "text.ckpt").write_text("no checkpoint\n")
    torch.save({"weights": torch.zeros(2)}, tmp_path / "other.ckpt")
    for name, complaint in [
        ("none.ckpt", "no such checkpoint"),
        ("text.ckpt", "not a readable checkpoint"),
        ("other.ckpt", "no entry 'state_dict'"),
    ]:
        with pytest.raises(CheckpointError, match=f"{name}: .*{complaint}"):
            load_checkpoint(tmp_path / name)


def test_loading_runs_no_code(tmp_path):
    class Payload:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    path = tmp_path / "evil.ckpt"
    torch.save({"state_dict": {}, "payload": Payload()}, path)
    for load in (load_checkpoint, lambda file: AtomicCheckpointIO().load_checkpoint(file, weights_only=False)):
        with pytest.raises(CheckpointError, match=r"evil\.ckpt"):
            load(path)
    assert not (tmp_path / "ran").exists()


def test_another_number_of_classes_is_named_with_the_first_parameter(saved):
    with pytest.raises(CheckpointError) as caught:
        check_fits(Head(5), load_checkpoint(saved), saved)
    message = str(caught.value)
    assert "the checkpoint has 3 classes, the model 5" in message
    assert "scores.weight, shape (3, 4) in the checkpoint, (5, 4) in the model" in message
    assert str(saved) in message


def test_the_same_classes_in_another_model_are_refused(saved):
    with pytest.raises(CheckpointError, match=r"neck\.weight, shape \(4, 3\) in the checkpoint, \(8, 3\) in the model"):
        check_fits(Head(3, width=8), load_checkpoint(saved), saved)
    bigger = Head(3)
    bigger.extra = nn.Linear(1, 1)
    with pytest.raises(CheckpointError, match=r"extra\.weight, .* is not in the checkpoint"):
        check_fits(bigger, load_checkpoint(saved), saved)
    smaller = Head(3)
    del smaller.neck
    with pytest.raises(CheckpointError, match=r"neck\.weight is in the checkpoint, not in the model"):
        check_fits(smaller, load_checkpoint(saved), saved)
