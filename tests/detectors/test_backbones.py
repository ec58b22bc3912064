"""Shapes, what trains and what does not, and weights from files."""

from collections import OrderedDict
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
from torch import nn
from torchvision import models

from rst.detectors import P2_TO_P6, P3_TO_P7, BackboneSettings, Pyramid, pyramid_backbone
from rst.detectors.features.backbones import BACKBONES, PyramidBackbone, Stages
from rst.detectors.features.deformable import is_of_offsets


@pytest.fixture(scope="module")
def mobilenet() -> nn.Module:
    """A classifier whose statistics and affines differ from their initial values, so that a mix-up shows."""
    torch.manual_seed(3)
    model = models.mobilenet_v2(weights=None, num_classes=7)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                assert tensor is not None
                nn.init.uniform_(tensor, 0.5, 1.5)
    return model.eval()


def build(name: str = "resnet18", pyramid: Pyramid = P2_TO_P6, **settings: Any) -> PyramidBackbone:
    return pyramid_backbone(BackboneSettings(name, **({"fpn_channels": 8} | settings)), pyramid)


def features(backbone: PyramidBackbone, image: torch.Tensor) -> torch.Tensor:
    return backbone.body(image)["p5"]


@pytest.mark.parametrize("name", BACKBONES)
def test_levels(name: str):
    if name in ("resnet50", "resnet101", "resnext101_64x4d"):
        with torch.device("meta"):  # shapes only
            backbone, image = build(name), torch.empty(1, 3, 96, 160)
    else:
        backbone, image = build(name), torch.rand(1, 3, 96, 160)
    levels = backbone(image)
    assert tuple(levels) == backbone.pyramid.names == ("p2", "p3", "p4", "p5", "p6")
    assert [tuple(level.shape[1:]) for level in levels.values()] == [
        (8, 24, 40),
        (8, 12, 20),
        (8, 6, 10),
        (8, 3, 5),
        (8, 2, 3),
    ]


# of the published classifiers, less their last layer
SIZES = {"resnet34": 21_284_672, "resnet50": 23_508_032, "resnet101": 42_500_160, "resnext101_64x4d": 81_406_272}


@pytest.mark.parametrize("name", SIZES)
def test_parameters(name: str):
    with torch.device("meta"):
        body = build(name).body
    assert sum(parameter.numel() for parameter in body.parameters()) == SIZES[name]
    if name == "resnext101_64x4d":
        convolution = body["layer3"][5].conv2
        assert (convolution.groups, tuple(convolution.weight.shape)) == (64, (1024, 16, 3, 3))


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_levels_of_a_dense_detector(name: str):
    backbone = build(name, P3_TO_P7)
    levels = backbone(torch.rand(1, 3, 96, 160))
    assert tuple(levels) == P3_TO_P7.names == ("p3", "p4", "p5", "p6", "p7")
    assert [tuple(level.shape[1:]) for level in levels.values()] == [
        (8, 12, 20),
        (8, 6, 10),
        (8, 3, 5),
        (8, 2, 3),
        (8, 1, 2),
    ]
    convolutions = backbone.fpn.extra_blocks
    torch.testing.assert_close(convolutions.p6(levels["p5"]), levels["p6"])
    torch.testing.assert_close(convolutions.p7(levels["p6"]), levels["p7"])  # without a ReLU between
    assert (levels["p6"] < 0).any()


@pytest.mark.parametrize("size", [(96, 160), (33, 65), (1, 31), (127, 129)])
@pytest.mark.parametrize("pyramid", [P2_TO_P6, P3_TO_P7], ids=["p2 to p6", "p3 to p7"])
def test_the_sizes_of_a_pyramid_are_those_of_its_maps(pyramid: Pyramid, size: tuple[int, int]):
    levels = build("resnet18", pyramid).eval()(torch.rand(1, 3, *size))
    assert pyramid.sizes(size) == tuple(tuple(level.shape[-2:]) for level in levels.values())
    assert pyramid.strides == tuple(2 ** int(name[1:]) for name in levels)


def test_p6_is_p5_subsampled():
    levels = build()(torch.rand(1, 3, 96, 160))
    assert torch.equal(levels["p6"], levels["p5"][:, :, ::2, ::2])


def small_body() -> tuple[nn.Module, Stages]:
    """A body of five convolutions of stride 2, each with a batch norm, and its division."""
    widths = [3, 4, 4, 6, 8, 10]
    body = nn.Sequential(
        *(
            nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride=2, padding=1), nn.BatchNorm2d(outputs))
            for inputs, outputs in pairwise(widths)
        )
    )
    return body, Stages(("0",), (("1",), ("2",), ("3",), ("4",)), (4, 6, 8, 10))


@pytest.mark.parametrize("train_batch_norm", [False, True])
def test_batch_norm_trains_where_it_is_asked_to(train_batch_norm: bool):
    backbone = PyramidBackbone(*small_body(), 8, 0, train_batch_norm=train_batch_norm)
    norms = [module for module in backbone.modules() if isinstance(module, nn.BatchNorm2d)]
    for mode, expected in ((False, False), (True, train_batch_norm)):
        backbone.train(mode)(torch.rand(2, 3, 64, 64))
        assert [norm.training for norm in norms] == [expected] * 5
        assert [bool(norm.running_mean.any()) for norm in norms if norm.running_mean is not None] == [expected] * 5


def test_another_feature_pyramid_takes_the_place_of_the_usual_one():
    class Alone(nn.Module):
        """Each level by itself."""

        def __init__(self, in_channels: list[int], out_channels: int, pyramid: Pyramid) -> None:
            super().__init__()
            self.last = nn.ModuleList(nn.Conv2d(channels, out_channels, 1) for channels in in_channels)
            self.beyond = pyramid.beyond(out_channels)

        def forward(self, stages: dict[str, torch.Tensor]) -> OrderedDict[str, torch.Tensor]:
            maps = [last(stage) for last, stage in zip(self.last, stages.values(), strict=True)]
            maps, names = self.beyond(maps, list(stages.values()), list(stages))
            return OrderedDict(zip(names, maps, strict=True))

    backbone = PyramidBackbone(*small_body(), 8, 0, pyramid=P3_TO_P7, fpn=Alone).eval()
    assert isinstance(backbone.fpn, Alone)
    assert [last.in_channels for last in backbone.fpn.last] == [6, 8, 10]
    image = torch.rand(1, 3, 96, 160)
    levels = backbone(image)
    assert tuple(levels) == P3_TO_P7.names
    assert [tuple(level.shape[1:]) for level in levels.values()] == [(8, *size) for size in P3_TO_P7.sizes((96, 160))]
    torch.testing.assert_close(levels["p5"], backbone.fpn.last[2](features(backbone, image)))


@pytest.mark.parametrize(("name", "first"), [("resnet18", "layer2"), ("mobilenet_v2", "4")])
def test_stem_and_stage_one_are_frozen_and_norms_evaluate(name: str, first: str):
    backbone = build(name).train()
    frozen = [n for n, p in backbone.body.named_parameters() if not p.requires_grad]
    trained = [n for n, p in backbone.body.named_parameters() if p.requires_grad]
    assert frozen
    assert trained[0].startswith(f"{first}.")  # parameters come in the order of the layers
    norms = [m for m in backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    assert not any(m.training for m in norms)
    assert any(".bn" in n or ".1.weight" in n for n in trained)  # the affine of the later norms trains

    before = {n: t.clone() for n, t in backbone.body.state_dict().items()}
    optimizer = torch.optim.SGD(backbone.parameters(), lr=0.1, weight_decay=0.1)
    sum(level.square().mean() for level in backbone(torch.rand(2, 3, 64, 64)).values()).backward()
    optimizer.step()
    after = backbone.body.state_dict()
    unchanged = {n for n in before if torch.equal(before[n], after[n])}
    assert {n for n in before if "running" in n or "tracked" in n} | set(frozen) == unchanged


@pytest.mark.parametrize(("frozen_stages", "expected"), [(-1, set()), (0, {"conv1", "bn1"}), (4, None)])
def test_frozen_stages(frozen_stages: int, expected: set[str] | None):
    body = build(frozen_stages=frozen_stages).body
    frozen = {n.partition(".")[0] for n, p in body.named_parameters() if not p.requires_grad}
    assert frozen == ({n.partition(".")[0] for n, _ in body.named_parameters()} if expected is None else expected)


def test_weights_by_name(tmp_path: Path, mobilenet: nn.Module):
    state = {k: v for k, v in mobilenet.state_dict().items() if not k.endswith("num_batches_tracked")}
    path = tmp_path / "by_name.pt"
    torch.save(dict(reversed(state.items())), path)  # order plays no part; counters may be missing
    backbone = build("mobilenet_v2", weights=str(path)).eval()
    image = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(features(backbone, image), mobilenet.features[:18](image))


def test_weights_by_order(tmp_path: Path, mobilenet: nn.Module):
    # The published file calls the layers of a block conv.0, conv.1 ... where torchvision nests them.
    state = mobilenet.features.state_dict()
    path = tmp_path / "by_order.pt"
    torch.save({f"layers.{i}.{key.rpartition('.')[2]}": value for i, (key, value) in enumerate(state.items())}, path)
    backbone = build("mobilenet_v2", weights=str(path)).eval()
    image = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(features(backbone, image), mobilenet.features[:18](image))


def test_resnet_weights_by_name(tmp_path: Path):
    classifier = models.resnet18(weights=None, num_classes=3)
    torch.save(classifier.state_dict(), tmp_path / "resnet.pt")
    body = build(weights=str(tmp_path / "resnet.pt")).body
    state = classifier.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in body.state_dict().items())


def test_published_weights(monkeypatch: pytest.MonkeyPatch):
    """The download itself is replaced: the tests do without network."""
    classifier = models.resnet18(weights=None)
    asked = []

    def download(url: str, **options: object) -> dict[str, torch.Tensor]:
        asked.append(url)
        if len(asked) > 1:
            raise URLError("no route to host")
        return classifier.state_dict()

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", download)
    body = build(weights="IMAGENET1K_V1").body
    assert asked == [models.ResNet18_Weights.IMAGENET1K_V1.url]
    assert all(torch.equal(value, classifier.state_dict()[key]) for key, value in body.state_dict().items())
    with pytest.raises(RuntimeError, match=r"weights='IMAGENET1K_V1' of resnet18 could not be .*no route to host"):
        build(weights="IMAGENET1K_V1")


@pytest.mark.parametrize("deformable", [False, True])
def test_published_weights_of_the_largest_backbone(monkeypatch: pytest.MonkeyPatch, deformable: bool):
    """Every key and shape of torchvision's ResNeXt-101 64x4d finds its place; neither network nor memory is needed."""
    asked, weights = [], models.ResNeXt101_64X4D_Weights.IMAGENET1K_V1
    with torch.device("meta"):
        published = models.resnext101_64x4d(weights=None).state_dict()
        monkeypatch.setattr(
            "torchvision.models._api.load_state_dict_from_url", lambda url, **_: asked.append(url) or published
        )
        body = build("resnext101_64x4d", weights="IMAGENET1K_V1", deformable=deformable).body
    assert asked == [weights.url]
    assert weights.meta["num_params"] == SIZES["resnext101_64x4d"] + 2049 * 1000
    own = {key: value.shape for key, value in body.state_dict().items() if not is_of_offsets(key)}
    assert own == {key: value.shape for key, value in published.items() if not key.startswith("fc.")}
    assert deformable == (len(own) < len(body.state_dict()))


def refused(path: Path, state: object, words: str) -> None:
    torch.save(state, path)
    with pytest.raises(ValueError, match=words) as caught:
        build("mobilenet_v2", weights=str(path))
    assert str(path) in str(caught.value)


def test_weights_that_do_not_fit_name_file_and_key(tmp_path: Path, mobilenet: nn.Module):
    state, path = dict(mobilenet.state_dict()), tmp_path / "weights.pt"
    refused(path, {**state, "features.3.conv.1.0.weight": torch.zeros(2, 3)}, r"'features.3.conv.1.0.weight' has shape")
    refused(path, {k: v for k, v in state.items() if k != "features.2.conv.3.bias"}, "no key 'features.2.conv.3.bias'")
    by_order = {f"x{i}.{k.rpartition('.')[2]}": v for i, (k, v) in enumerate(state.items()) if "classifier" not in k}
    swapped = {**by_order, "x0.weight": torch.zeros(1)}
    refused(path, swapped, r"'x0.weight' has shape \(1,\), the backbone's 'features.0.0.weight'")
    renamed = {("x0.bias" if k == "x0.weight" else k): v for k, v in by_order.items()}
    refused(path, renamed, "no key 'features.0.0.weight', and in its place 'x0.bias'")
    refused(path, {"epoch": 3}, "key 'epoch' is a int, not a tensor")
    refused(path, [1, 2], "holds no state dict but a list")
    refused(path, models.resnet18(weights=None).state_dict(), "no key 'features.0.0.weight'")
    foreign = {**state, "features.18.2.scale": torch.zeros(1)}
    refused(path, foreign, "weights.pt is of another backbone: it holds 'features.18.2.scale', which this one lacks")


def test_weights_of_a_deeper_backbone_are_refused(tmp_path: Path):
    """They hold every tensor of the smaller one, in the same shapes."""
    torch.save(models.resnet34(weights=None).state_dict(), tmp_path / "weights.pt")
    with pytest.raises(ValueError, match=r"weights\.pt is of another backbone: it holds 'layer1\.2\.conv1\.weight'"):
        build(weights=str(tmp_path / "weights.pt"))


def test_a_foreign_last_layer_is_left_out(tmp_path: Path, mobilenet: nn.Module):
    torch.save({**mobilenet.state_dict(), "head.weight": torch.zeros(3)}, tmp_path / "weights.pt")
    build("mobilenet_v2", weights=str(tmp_path / "weights.pt"))


def test_truncated_and_foreign_files(tmp_path: Path, mobilenet: nn.Module):
    path = tmp_path / "weights.pt"
    torch.save(mobilenet.state_dict(), path)
    for content in (path.read_bytes()[:4096], b"", b"no weights at all"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"weights\.pt cannot be read"):
            build("mobilenet_v2", weights=str(path))


def test_names_that_are_not_known():
    with pytest.raises(ValueError, match=r"backbone\.name='vgg16' is not one of resnet18, resnet34, resnet50"):
        build("vgg16")
    published = r"weights='IMAGENET' is neither a file nor one of .*: IMAGENET1K_V1, IMAGENET1K_V2"
    with pytest.raises(ValueError, match=published):
        build("resnet50", weights="IMAGENET")
    with pytest.raises(ValueError, match=r"backbone\.frozen_stages=5"):
        build(frozen_stages=5)
