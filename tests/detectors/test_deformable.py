"""Deformable backbones: what they compute, what trains, and which weights they take.

K  taps of all groups of offsets: 4 groups x 9
"""

from pathlib import Path
from typing import cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import models
from torchvision.models.resnet import Bottleneck, ResNet

from rst.detectors import BackboneSettings, ProposalSettings, faster_rcnn, pyramid_backbone
from rst.detectors.features.backbones import PyramidBackbone
from rst.detectors.features.deformable import DeformableConv2d, deform_bottlenecks
from rst.detectors.features.weights import fit_state_dict
from rst.training import OptimizerSettings

K = 36


def build(weights: Path | str | None = None, frozen_stages: int = 1, name: str = "resnet50") -> PyramidBackbone:
    file = None if weights is None else str(weights)
    return pyramid_backbone(BackboneSettings(name, file, frozen_stages, fpn_channels=8, deformable=True))


def convolution(**options: int) -> tuple[nn.Conv2d, Tensor]:
    torch.manual_seed(0)
    return nn.Conv2d(8, 12, 3, **({"padding": 1} | options)), torch.randn(2, 8, 9, 11)


@pytest.fixture(scope="module")
def classifier() -> ResNet:
    """A small ResNet with bottlenecks, trained in all its tensors as far as a test can tell."""
    torch.manual_seed(1)
    model = models.resnet50(weights=None)
    for key, value in model.state_dict().items():
        if ".bn" in key or key.startswith("bn") or ".downsample.1" in key:
            value.copy_(torch.rand(value.shape) + 0.5 if value.is_floating_point() else torch.tensor(7))
    return model.eval()


@pytest.fixture(scope="module")
def file(classifier: ResNet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "resnet50.pt"
    torch.save(classifier.state_dict(), path)
    return path


@pytest.mark.parametrize("options", [{}, {"stride": 2}, {"groups": 4}, {"dilation": 2, "padding": 2}], ids=str)
def test_it_starts_as_half_of_the_convolution(options: dict[str, int]):
    conv, x = convolution(**options)
    assert conv.bias is not None
    expected = 0.5 * (conv(x) - conv.bias[:, None, None]) + conv.bias[:, None, None]
    torch.testing.assert_close(DeformableConv2d(conv)(x), expected)


def test_with_factors_of_one_it_is_the_convolution():
    conv, x = convolution()
    deformable = DeformableConv2d(conv)
    nn.init.constant_(cast(Tensor, deformable.conv_offset.bias)[2 * K :], 40.0)  # its sigmoid is 1
    torch.testing.assert_close(deformable(x), conv(x))


def test_offsets_and_factors_against_a_plain_restatement():
    """Every tap by itself: bilinear sampling by `grid_sample` at its place plus (y, x), times its factor."""
    conv, x = convolution(stride=2, groups=2)
    deformable = DeformableConv2d(conv)
    nn.init.normal_(deformable.conv_offset.weight, std=0.1)
    n, channels, height, width = x.shape
    branch = F.conv2d(x, deformable.conv_offset.weight, deformable.conv_offset.bias, stride=2, padding=1)
    rows, columns = branch.shape[2:]
    offsets = branch[:, : 2 * K].view(n, 4, 9, 2, rows, columns)
    factors = branch[:, 2 * K :].sigmoid().view(n, 4, 9, rows, columns)
    taps = x.new_zeros(n, channels, 9, rows, columns)
    for group in range(4):
        own = slice(group * 2, group * 2 + 2)  # 8 channels in 4 groups
        for tap in range(9):
            y = torch.arange(rows)[:, None] * 2 - 1 + tap // 3 + offsets[:, group, tap, 0]
            place = torch.arange(columns) * 2 - 1 + tap % 3 + offsets[:, group, tap, 1]
            grid = torch.stack((place / (width - 1), y / (height - 1)), dim=-1) * 2 - 1
            sampled = F.grid_sample(x[:, own], grid, padding_mode="zeros", align_corners=True)
            taps[:, own, tap] = sampled * factors[:, group, tap][:, None]
    unfolded = taps.view(n, 2, 4, 9, rows, columns)
    kernel = conv.weight.view(2, 6, 4, 9)
    expected = torch.einsum("ngctyx,goct->ngoyx", unfolded, kernel).reshape(n, 12, rows, columns)
    assert conv.bias is not None
    torch.testing.assert_close(deformable(x), expected + conv.bias[:, None, None], rtol=1e-4, atol=1e-5)


def test_gradients_are_those_of_its_values():
    conv, _ = convolution()
    conv = conv.double()
    deformable = DeformableConv2d(conv).double()
    nn.init.normal_(deformable.conv_offset.weight, std=0.05)
    nn.init.uniform_(cast(Tensor, deformable.conv_offset.bias), 0.2, 0.4)  # between cells, where it is smooth
    x = torch.randn(1, 8, 4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(deformable, (x,), fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_it_is_as_the_convolution(dtype: torch.dtype):
    conv, x = convolution()
    deformable = DeformableConv2d(conv)
    with torch.autocast("cpu", dtype=dtype):
        output = deformable(x.to(dtype))
    assert output.dtype == dtype
    torch.testing.assert_close(output.float(), deformable(x), rtol=0.02, atol=0.02)
    output.sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in deformable.parameters())


@pytest.mark.parametrize(("name", "blocks"), [("resnet50", 13), ("resnet101", 30), ("resnext101_64x4d", 30)])
def test_stages_c3_to_c5_are_deformable(name: str, blocks: int):
    with torch.device("meta"):
        backbone = build(name=name)
    deformed = [n for n, m in backbone.named_modules() if isinstance(m, DeformableConv2d)]
    assert len(deformed) == blocks
    assert {n.split(".")[1] for n in deformed} == {"layer2", "layer3", "layer4"}
    assert all(n.endswith(".conv2") for n in deformed)


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "mobilenet_v2"])
def test_without_bottlenecks_there_is_none(name: str):
    words = rf"backbone\.deformable=True needs .*\(resnet50, resnet101, resnext101_64x4d\); backbone\.name='{name}'"
    with pytest.raises(ValueError, match=words):
        build(name=name)


def test_a_step_of_the_backbone(file: Path):
    """Frozen stem and stage, norms in evaluation, and everything else trains, the offsets with the rest."""
    backbone = build(file).train()
    assert not any(module.training for module in backbone.modules() if isinstance(module, nn.BatchNorm2d))
    before = {key: value.clone() for key, value in backbone.body.state_dict().items()}
    optimizer = OptimizerSettings(lr=1e-6, weight_decay=0.01).build(backbone)
    (group,) = optimizer.param_groups
    assert len(group["params"]) == sum(parameter.requires_grad for parameter in backbone.parameters())
    assert {id(p) for n, p in backbone.named_parameters() if "conv_offset" in n} <= {id(p) for p in group["params"]}
    levels = backbone(torch.rand(2, 3, 64, 64))
    sum(level.square().mean() for level in levels.values()).backward()
    optimizer.step()
    unchanged = {key for key, value in backbone.body.state_dict().items() if torch.equal(before[key], value)}
    parts = {key.partition(".")[0] for key in unchanged if "running" not in key and "num_batches" not in key}
    assert parts == {"conv1", "bn1", "layer1"}
    assert sum("conv_offset" in key for key in before.keys() - unchanged) == 2 * 13


def test_weights_of_plain_convolutions_load(file: Path, classifier: ResNet):
    """Every tensor of the file arrives, and only the offsets, which start at zero, are not from it."""
    body = build(file).body.state_dict()
    state = {key: value for key, value in classifier.state_dict().items() if not key.startswith("fc.")}
    offsets = body.keys() - state.keys()
    assert state.keys() <= body.keys()
    assert all(torch.equal(value, body[key]) for key, value in state.items())
    assert len(offsets) == 2 * 13
    assert all(".conv2.conv_offset." in key and not body[key].any() for key in offsets)


def test_weights_by_order_and_published_ones(
    file: Path, classifier: ResNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    state = classifier.state_dict()
    renamed = [(key, value) for key, value in state.items() if not key.startswith("fc.")]
    torch.save({f"{i}.{key.rpartition('.')[2]}": value for i, (key, value) in enumerate(renamed)}, tmp_path / "x.pt")
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda url, **options: state)
    expected = build(file).body.state_dict()
    for weights in (tmp_path / "x.pt", "IMAGENET1K_V1"):
        found = build(weights).body.state_dict()
        assert all(torch.equal(value, found[key]) for key, value in expected.items())


def test_weights_with_offsets_load_them(tmp_path: Path):
    state = build().body.state_dict()
    for key, value in state.items():
        if "conv_offset" in key:
            value.uniform_()
    torch.save(state, tmp_path / "deformable.pt")
    found = build(tmp_path / "deformable.pt", frozen_stages=4).body  # nothing is left to learn here
    assert all(torch.equal(value, found.state_dict()[key]) for key, value in state.items())
    assert not any(parameter.requires_grad for parameter in found.parameters())


@pytest.mark.parametrize(
    ("changes", "deformable", "words"),
    [
        ({}, False, r"is of another backbone: it holds 'layer2\.0\.conv2\.conv_offset\.weight'"),
        ({"layer3.1.conv2.conv_offset.bias": None}, True, r"has no key 'layer3\.1\.conv2\.conv_offset\.bias'"),
        ({"layer2.0.conv2.weight": None}, True, r"has no key 'layer2\.0\.conv2\.weight'"),
        (
            {"layer2.0.conv2.conv_offset.weight": torch.empty(27, 128, 3, 3)},  # of one group of offsets
            True,
            r"'layer2\.0\.conv2\.conv_offset\.weight' has shape \(27, 128, 3, 3\)",
        ),
    ],
)
def test_offsets_that_do_not_fit(changes: dict[str, Tensor | None], deformable: bool, words: str):
    with torch.device("meta"):
        state, plain = build().body.state_dict(), models.resnet50(weights=None).state_dict()
    changed = {key: value for key, value in {**state, **changes}.items() if value is not None}
    with pytest.raises(ValueError, match=f"some.pt:? {words}"):
        fit_state_dict(changed, state if deformable else plain, Path("some.pt"))


def test_a_detector_trains_on_it_under_autocast():
    torch.manual_seed(0)
    proposals = ProposalSettings(64, 32, 64, 32)
    settings = BackboneSettings("resnet50", fpn_channels=8, deformable=True)
    model = faster_rcnn(3, backbone=settings, head_channels=16, proposals=proposals).train()
    targets = [{"boxes": torch.tensor([[8.0, 8.0, 40.0, 48.0]]), "labels": torch.tensor([1])}]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model([torch.rand(3, 64, 64)], targets)
    sum(losses.values()).backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if "conv_offset" in n}
    assert all(grad is not None and grad.isfinite().all() and grad.any() for grad in gradients.values())


def test_offsets_that_no_weights_hold_must_train(file: Path):
    """Frozen at zero they would halve the features of a pretrained stage for ever."""
    with pytest.raises(ValueError, match=r"backbone\.frozen_stages=2 .* backbone\.weights=.*resnet50\.pt"):
        build(file, frozen_stages=2)
    build(None, frozen_stages=2)  # as for a detector whose weights come from a checkpoint


def test_only_bottlenecks_are_deformed():
    stage = nn.Sequential(nn.Conv2d(64, 64, 3, padding=1), Bottleneck(64, 16))
    assert deform_bottlenecks(stage) == 1
    assert isinstance(stage[0], nn.Conv2d)
