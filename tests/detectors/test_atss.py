"""RS-ATSS and the other rows of Table 2: what is known of a training step beforehand, and batches that broke others."""

from typing import Any

import pytest
import torch
from torch import Tensor

from rst.detectors import DenseDetector, atss
from rst.detectors.assignment.max_iou import IGNORED
from rst.detectors.losses.localisation import BoxLoss
from rst.kernels import targets as kernel_targets

Batch = tuple[list[Tensor], list[dict[str, Tensor]]]
ROWS: dict[str, dict[str, Any]] = {
    "rank_sort": {},
    "average_precision": {"loss": "average_precision"},
    "alrp": {"loss": "alrp"},
    "focal": {"loss": "focal"},
    "qfl": {"loss": "qfl"},
    "focal, centerness": {"loss": "focal", "centerness": True},
    "average_precision, centerness": {"loss": "average_precision", "centerness": True},
}
EVERY_ROW = pytest.mark.parametrize("row", ROWS)
TERMS = {"rank_sort": ["rank", "sort", "bbox"]}


def build(row: str = "rank_sort", num_classes: int = 3, **options: Any) -> DenseDetector:
    torch.manual_seed(0)
    small = {"backbone": "resnet18", "fpn_channels": 16, "head_channels": 64}
    return atss(num_classes, **(small | ROWS[row] | options))


def target(*boxes: list[float], labels: list[int] | None = None) -> dict[str, Tensor]:
    named = torch.zeros(len(boxes), dtype=torch.int64) if labels is None else torch.tensor(labels)
    return {"boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), "labels": named}


def images(*sizes: tuple[int, int]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [torch.rand(3, *size, generator=generator) for size in sizes]


def step(model: DenseDetector, pictures: list[Tensor], targets: list[dict[str, Tensor]]) -> dict[str, float]:
    """Losses of one step, having checked that they and every gradient are finite and there."""
    losses = model(pictures, targets)
    torch.stack(list(losses.values())).sum().backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, f"{name}: distributed training would wait for it"
            assert parameter.grad.isfinite().all(), name
    values = {name: loss.item() for name, loss in losses.items()}
    assert all(value == value for value in values.values()), values
    return values


def test_starting_values_are_the_published_ones(batch: Batch):
    losses = build(num_classes=80)(*batch)
    assert list(losses) == ["loss_rank", "loss_sort", "loss_bbox"]
    assert 0.99 <= losses["loss_rank"].item() < 1
    assert losses["loss_sort"].item() == pytest.approx(0.1, abs=0.06)


def test_box_loss_equals_ranking_and_sorting_in_every_step(batch: Batch):
    model = build()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    for _ in range(4):
        optimizer.zero_grad()
        losses = model(*batch)
        torch.testing.assert_close(losses["loss_bbox"], losses["loss_rank"] + losses["loss_sort"], rtol=1e-6, atol=0)
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()


@EVERY_ROW
def test_its_terms_and_its_scores_at_the_start(batch: Batch, row: str):
    model = build(row)
    extra = ["centerness"] if "centerness" in row else []
    assert list(model(*batch)) == [f"loss_{term}" for term in [*TERMS.get(row, ["cls", "bbox"]), *extra]]
    maps = list(model.backbone(model.transform(batch[0])[0].tensors).values())
    outputs = model.head(maps)
    assert (outputs.centerness is not None) == bool(extra)
    for level in outputs.logits:
        assert level.sigmoid().mean().item() == pytest.approx(0.01, abs=0.002)
        assert level.sigmoid().max() < 0.05


@EVERY_ROW
def test_a_ranking_loss_has_its_anchors_and_a_pointwise_one_the_standard(row: str):
    generator = build(row).anchor_generator
    sides = [2 * cell[:, 2] / stride for cell, stride in zip(generator.cell_anchors, generator.strides, strict=True)]
    expected = [8.0] if "focal" in row or row == "qfl" else [4 * 2 ** (k / 3) for k in range(3)]
    for level in sides:
        torch.testing.assert_close(level, torch.tensor(expected))
    standard = build(row, octave_base_scale=8, scales_per_octave=1)
    assert [len(cell) for cell in standard.anchor_generator.cell_anchors] == [1] * 5


@EVERY_ROW
def test_gradients_reach_every_trainable_parameter(batch: Batch, row: str):
    model = build(row)
    step(model, *batch)
    silent = {n for n, p in model.named_parameters() if p.grad is not None and not p.grad.any()}
    assert not {n for n in silent if n.endswith("weight") and ".bn" not in n}
    assert model.head.scales.grad is not None


def test_the_logits_reach_the_kernels_as_the_convolutions_return_them(batch: Batch, monkeypatch):
    model, maps, seen = build(), [], []
    model.head.cls_logits.register_forward_hook(lambda module, inputs, output: maps.append(output))
    flatten = kernel_targets.flatten_examples

    def spy(levels: Any, targets: Any) -> Any:
        examples = flatten(levels, targets)
        seen.append((levels, targets, examples))
        return examples

    monkeypatch.setattr("rst.kernels.entry.flatten_examples", spy)
    model(*batch)
    ((levels, targets, examples),) = seen
    assert all(level is own for level, own in zip(levels, maps, strict=True)), "neither permuted nor copied"
    places = [level.data_ptr() for level in maps]
    assert [level.data_ptr() for level in examples.levels] == places, "nor on the way in"
    assert len(targets.index) == len(targets.quality) == int(model.statistics["positives_dense"])


def test_positives_are_the_anchors_that_were_matched(batch: Batch):
    # Gradients tell: at the start every positive is pushed up and every other logit down, but for those of the padding.
    model, maps = build(sorting_error=False), []
    model.head.cls_logits.register_forward_hook(
        lambda module, inputs, output: maps.append(output) or output.retain_grad()
    )
    matches: list[Tensor] = []
    assign = model.assign
    model.assign = lambda *arguments: matches.append(assign(*arguments)) or matches[-1]  # type: ignore[method-assign]
    sum(model(*batch).values()).backward()
    gradient = torch.cat([m.grad.unflatten(1, (3, 3)).movedim(2, -1).flatten(1, 3) for m in maps], 1)  # (n, N, C)
    match = matches[0]
    labels = torch.cat([t["labels"] for t in batch[1]])
    assert (match == IGNORED).sum() > 100
    assert not gradient[match == IGNORED].any()
    pushed_up = (gradient < 0).nonzero()
    expected = (match >= 0).nonzero()
    assert torch.equal(pushed_up[:, :2], expected)
    assert torch.equal(pushed_up[:, 2], labels[match[match >= 0]])
    assert (gradient[match != IGNORED] != 0).all()


@EVERY_ROW
def test_statistics_of_the_last_step(batch: Batch, row: str):
    model = build(row)
    assert model.statistics == {}
    model(*batch)
    names = ("spearman", "positives", "negatives", "negatives_per_positive", "balance")
    assert model.statistics.keys() == {f"{name}_dense" for name in names}
    balance = {"alrp": 50.0}.get(row, 2.0)
    if row != "rank_sort":
        assert model.statistics["balance_dense"].item() == balance


def test_switches_reach_the_loss():
    assert build(score_weighting=False, task_balance=2.0).loss.box == BoxLoss("uniform", 2.0)
    assert build(task_balance="magnitude", delta=0.25).loss.box == BoxLoss("score", "magnitude")
    assert build("focal", score_weighting=True).loss.box == BoxLoss("score", 2.0, shared=True)
    assert build("focal, centerness").loss.box == BoxLoss("centerness", 2.0, shared=True)
    assert build("average_precision", delta=0.5).loss.delta == 0.5
    assert build("alrp", self_balance_window=7).loss.balance.window == 7


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"loss": "hinge"}, "loss='hinge' is not one of rank_sort, average_precision, alrp, focal, qfl"),
        ({"centerness": True}, "centerness=True does not go with loss='rank_sort', whose scores tell the quality"),
        ({"loss": "qfl", "centerness": True}, "centerness=True does not go with loss='qfl'"),
        ({"loss": "alrp", "task_balance": "value"}, "task_balance='value' does not go with loss='alrp'"),
        ({"loss": "alrp", "score_weighting": False}, "score_weighting=False does not go with loss='alrp'"),
        ({"loss": "focal", "delta": 0.5}, "delta=0.5 does not go with loss='focal', which does not rank"),
        ({"loss": "average_precision", "sorting_error": True}, "sorting_error=True does not go with"),
        ({"self_balance_window": 9}, "self_balance_window=9 does not go with loss='rank_sort'"),
        ({"loss": "focal", "centerness": True, "score_weighting": True}, "score_weighting=True does not go with"),
        ({"task_balance": "values"}, "task_balance='values' is neither"),
        ({"loss": "alrp", "self_balance_window": 0}, "window: expected a number of steps >= 1, got 0"),
        ({"head_channels": 80}, "head_channels=80 is not a multiple of 32"),
        (
            {"head_channels": 32},
            "head_channels=32 is not a multiple of 32, the groups of its normalisation, of at least 64",
        ),
        ({"num_classes": 0}, "num_classes=0 is not at least 1"),
        ({"scales_per_octave": 0}, "scales_per_octave=0 is not at least 1"),
        ({"octave_base_scale": 0.0}, r"octave_base_scale=0.0 is not above 0"),
        ({"candidates_per_level": 0}, "candidates_per_level=0 is not at least 1"),
        ({"backbone": "alexnet"}, "backbone='alexnet'"),
    ],
)
def test_refused_options(options: dict[str, Any], words: str):
    with pytest.raises(ValueError, match=words):
        atss(**({"backbone": "resnet18"} | options))


@EVERY_ROW
def test_batches_that_broke_published_code(row: str):
    """No object in one image and in all, specks, slivers, boxes outside, more classes than objects: it trains on."""
    model = build(row, num_classes=40)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3, momentum=0.9)
    square, speck, sliver = [8.0, 8, 40, 40], [20.0, 20, 21, 21], [20.0, 20, 20.001, 60]
    outside, huge, degenerate = [-40.0, -40, -20, -20], [0.0, 0, 9e4, 9e4], [7.0, 7, 7, 30]
    for first, second in (
        ([square], []),
        ([], []),
        ([speck], [sliver, outside]),
        ([huge, square], [degenerate]),
        ([square, square], [square]),
        ([], []),
    ):
        optimizer.zero_grad()
        values = step(model, images((64, 64), (48, 80)), [target(*first), target(*second)])
        if not first and not second:
            assert values["loss_bbox"] == 0
            assert row not in ("rank_sort", "average_precision", "alrp") or not any(values.values())
        optimizer.step()


@pytest.mark.parametrize(("row", "dtype"), [*((row, torch.bfloat16) for row in ROWS), ("rank_sort", torch.float16)])
def test_half_precision_costs_float32(batch: Batch, row: str, dtype: torch.dtype):
    model = build(row)
    exact = model(*batch)
    with torch.autocast("cpu", dtype=dtype):
        half = model(*batch)
    for name, value in half.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, exact[name], rtol=0.2, atol=0.05)
    sum(half.values()).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    with torch.autocast("cpu", dtype=dtype):
        found = model.eval()(batch[0])
    assert all(f["boxes"].dtype == f["scores"].dtype == torch.float32 for f in found)


@EVERY_ROW
def test_nan_reaches_the_losses_and_crashes_nothing(batch: Batch, row: str):
    model = build(row)
    torch.nn.init.constant_(model.backbone.fpn.layer_blocks[0][0].weight, torch.nan)
    assert sum(model(*batch).values()).isnan()
    assert all(found["scores"].isfinite().all() for found in model.eval()(batch[0]))


def test_alrp_balances_itself_and_remembers_it(batch: Batch):
    model = build("alrp", self_balance_window=2)
    first = model(*batch)
    assert model.statistics["balance_dense"] == 50
    model(*batch)
    expected = ((first["loss_cls"] + first["loss_bbox"] / 50) / (first["loss_bbox"] / 50)).item()
    model(*batch)
    assert model.statistics["balance_dense"].item() == pytest.approx(expected, rel=1e-5)
    twin = build("alrp", self_balance_window=2)
    twin.load_state_dict(model.state_dict())
    assert twin.loss.balance.weight == model.loss.balance.weight != 50


def test_one_image_of_one_cell_on_the_coarsest_level():
    model = build(score_threshold=0.0)
    step(model, images((32, 32)), [target([4.0, 4, 20, 20])])
    assert len(model.eval()(images((32, 32)))[0]["boxes"]) > 0


def test_a_training_step_needs_targets_within_the_classes():
    model = build(num_classes=2)
    with pytest.raises(ValueError, match="targets is None"):
        model(images((64, 64)))
    with pytest.raises(ValueError, match=r"targets\[0\]\['labels'\] holds 2, which is not in \[0, 2\)"):
        model(images((64, 64)), [target([1.0, 1, 5, 5], labels=[2])])
