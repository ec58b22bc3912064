"""RS-ATSS and the other rows of Table 2: what is known of a training step, its anchors, its switches, its refusals."""

from typing import Any

import pytest
import torch
from detector_cases import BACKBONE, CASES, Batch, Case, random_images, step, target

from rst.detectors import BackboneSettings, DenseDetector, DetectionSettings, atss
from rst.detectors.assignment.scene import IGNORED
from rst.detectors.losses.cross_entropy import SoftmaxCrossEntropy
from rst.detectors.losses.localisation import Localisation
from rst.kernels import targets as kernel_targets

ROWS = [case.options for case in CASES if case.detector == "atss"]
EVERY_ROW = pytest.mark.parametrize("row", ROWS, ids=lambda row: " ".join(map(str, row.values())))


def build(num_classes: int = 3, **options: Any) -> DenseDetector:
    model = Case("atss", {"loss": "rank_sort"}).build(num_classes, **options)
    assert isinstance(model, DenseDetector)
    return model


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
def test_its_terms_its_balance_and_its_scores_at_the_start(batch: Batch, row: dict[str, Any]):
    model = build(**row)
    extra = ["centerness"] if "centerness" in row else []
    terms = ["rank", "sort", "bbox"] if row["loss"] == "rank_sort" else ["cls", "bbox"]
    assert list(model(*batch)) == [f"loss_{term}" for term in [*terms, *extra]]
    if row["loss"] != "rank_sort":
        assert model.statistics["balance_dense"].item() == {"alrp": 50.0}.get(row["loss"], 2.0)
    maps = list(model.backbone(model.transform(batch[0]).pixels).values())
    outputs = model.head(maps)
    assert (outputs.auxiliary is not None) == bool(extra)
    for level in outputs.logits:
        assert level.sigmoid().mean().item() == pytest.approx(0.01, abs=0.002)
        assert level.sigmoid().max() < 0.05


@EVERY_ROW
def test_a_ranking_loss_has_its_anchors_and_a_pointwise_one_the_standard(row: dict[str, Any]):
    anchors = build(**row).anchors
    sides = [2 * cell[:, 2] / stride for cell, stride in zip(anchors.cells, anchors.strides, strict=True)]
    expected = [8.0] if row["loss"] in ("focal", "qfl") else [4 * 2 ** (k / 3) for k in range(3)]
    for level in sides:
        torch.testing.assert_close(level, torch.tensor(expected))
    standard = build(**row, octave_base_scale=8, scales_per_octave=1)
    assert [len(cell) for cell in standard.anchors.cells] == [1] * 5


def test_the_logits_reach_the_kernels_as_the_convolutions_return_them(batch: Batch, monkeypatch):
    model, maps, seen = build(), [], []
    model.head.cls_logits.register_forward_hook(lambda module, inputs, output: maps.append(output))
    build_ranking = kernel_targets.build_ranking

    def spy(levels: Any, targets: Any, segments: Any) -> Any:
        ranking = build_ranking(levels, targets, segments)
        seen.append((levels, targets, ranking))
        return ranking

    monkeypatch.setattr("rst.kernels.arguments.build_ranking", spy)
    model(*batch)
    ((levels, targets, ranking),) = seen
    assert all(level is own for level, own in zip(levels, maps, strict=True)), "neither permuted nor copied"
    places = [level.data_ptr() for level in maps]
    assert [level.data_ptr() for level in ranking.levels] == places, "nor on the way in"
    assert len(targets.index) == len(targets.quality) == int(model.statistics["positives_dense"])


def test_positives_are_the_anchors_that_were_matched(batch: Batch):
    # At the start the gradient raises every positive and lowers every other logit, except those of the padding.
    model, maps = build(sorting_error=False), []
    model.head.cls_logits.register_forward_hook(
        lambda module, inputs, output: maps.append(output) or output.retain_grad()
    )
    matches, assigner = [], model.assigner
    model.assigner = lambda *arguments: matches.append(assigner(*arguments)) or matches[-1]  # type: ignore[assignment]
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


def test_switches_reach_the_loss():
    def localisation(**options: Any) -> Localisation:
        return build(**options).loss.localisation

    assert localisation(score_weighting=False, task_balance=2.0) == Localisation("uniform", 2.0)
    assert localisation(task_balance="magnitude", delta=0.25) == Localisation("score", "magnitude")
    assert localisation(loss="focal", score_weighting=True) == Localisation("score", 2.0, shared=True)
    assert localisation(loss="focal", centerness=True) == Localisation("centerness", 2.0, shared=True)
    assert build(loss="average_precision", delta=0.5).loss.delta == 0.5
    assert build(loss="alrp", self_balance_window=7).loss.balance.window == 7


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"loss": "hinge"}, "loss='hinge' is not one of rank_sort, average_precision, alrp, focal, qfl"),
        ({"centerness": True}, "centerness=True does not go with loss='rank_sort', whose scores express the quality"),
        ({"loss": "qfl", "centerness": True}, "centerness=True does not go with loss='qfl'"),
        ({"loss": "alrp", "task_balance": "value"}, "task_balance='value' does not go with loss='alrp'"),
        ({"loss": "alrp", "score_weighting": False}, "score_weighting=False does not go with loss='alrp'"),
        ({"loss": "focal", "delta": 0.5}, "delta=0.5 does not go with loss='focal', which does not rank"),
        ({"loss": "average_precision", "sorting_error": True}, "sorting_error=True does not go with"),
        ({"self_balance_window": 9}, "self_balance_window=9 does not go with loss='rank_sort'"),
        (
            {"loss": "focal", "centerness": True, "score_weighting": True},
            "^score_weighting=True does not go with centerness=True, which weights the boxes itself$",
        ),
        ({"task_balance": "values"}, "task_balance='values' is neither"),
        ({"loss": "alrp", "self_balance_window": 0}, "self_balance_window=0 is not at least 1"),
        ({"head_channels": 80}, "head_channels=80 is not a multiple of 32"),
        (
            {"head_channels": 32},
            "head_channels=32 is not a multiple of 32, the groups of its normalisation, of at least 64",
        ),
        ({"num_classes": 0}, "num_classes=0 is not at least 1"),
        ({"scales_per_octave": 0}, "scales_per_octave=0 is not at least 1"),
        ({"octave_base_scale": 0.0}, r"octave_base_scale=0.0 is not above 0"),
        ({"candidates_per_level": 0}, "candidates_per_level=0 is not at least 1"),
        ({"backbone": BackboneSettings("alexnet")}, "backbone.name='alexnet'"),
    ],
)
def test_refused_options(options: dict[str, Any], words: str):
    with pytest.raises(ValueError, match=words):
        atss(**({"backbone": BACKBONE} | options))


def test_alrp_balances_itself_and_remembers_it(batch: Batch):
    model = build(loss="alrp", self_balance_window=2)
    first = model(*batch)
    assert model.statistics["balance_dense"] == 50
    model(*batch)
    expected = ((first["loss_cls"] + first["loss_bbox"] / 50) / (first["loss_bbox"] / 50)).item()
    model(*batch)
    assert model.statistics["balance_dense"].item() == pytest.approx(expected, rel=1e-5)
    twin = build(loss="alrp", self_balance_window=2)
    twin.load_state_dict(model.state_dict())
    assert twin.loss.balance.weight == model.loss.balance.weight != 50


def test_one_image_of_one_cell_on_the_coarsest_level():
    model = build(detections=DetectionSettings(0.0))
    step(model, random_images((32, 32)), [target([4.0, 4, 20, 20])])
    assert len(model.eval()(random_images((32, 32)))[0]["boxes"]) > 0


def test_a_loss_with_a_background_is_refused():
    model = build()
    with pytest.raises(ValueError, match="loss=SoftmaxCrossEntropy needs a background"):
        DenseDetector(
            model.backbone,
            model.head,
            model.anchors,
            assigner=model.assigner,
            loss=SoftmaxCrossEntropy(),
            coder=model.coder,
            num_classes=3,
            detections=model.detections,
            pre_nms=10,
        )


def test_a_state_dict_has_the_same_names_under_every_loss_but_for_the_state_of_the_loss():
    names = [set(build(**row).state_dict()) for row in ROWS if "centerness" not in row]
    of_loss = ("loss.", "score_scaling.")
    assert len({frozenset(name for name in own if not name.startswith(of_loss)) for own in names}) == 1
    assert {name for own in names for name in own if name.startswith("loss.")} == {
        name for name in build(loss="alrp").state_dict() if name.startswith("loss.balance.")
    }
