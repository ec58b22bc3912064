"""Shapes, what trains and what does not, and weights from files."""

from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from torch import nn
from torchvision import models

from rst.detectors.features.backbones import BACKBONES, DENSE, pyramid_backbone


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


def features(backbone: nn.Module, image: torch.Tensor) -> torch.Tensor:
    return backbone.body(image)["3"]


@pytest.mark.parametrize("name", BACKBONES)
def test_levels(name: str):
    if name in ("resnet50", "resnet101"):
        with torch.device("meta"):  # shapes only
            backbone, image = pyramid_backbone(name, out_channels=8), torch.empty(1, 3, 96, 160)
    else:
        backbone, image = pyramid_backbone(name, out_channels=8), torch.rand(1, 3, 96, 160)
    levels = backbone(image)
    assert list(levels) == ["0", "1", "2", "3", "pool"]
    assert [tuple(level.shape[1:]) for level in levels.values()] == [
        (8, 24, 40),
        (8, 12, 20),
        (8, 6, 10),
        (8, 3, 5),
        (8, 2, 3),
    ]


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_levels_of_a_dense_detector(name: str):
    backbone = pyramid_backbone(name, out_channels=8, pyramid=DENSE)
    levels = backbone(torch.rand(1, 3, 96, 160))
    assert tuple(levels) == DENSE.names == ("1", "2", "3", "p6", "p7")
    assert [tuple(level.shape[1:]) for level in levels.values()] == [
        (8, 12, 20),
        (8, 6, 10),
        (8, 3, 5),
        (8, 2, 3),
        (8, 1, 2),
    ]
    convolutions = backbone.fpn.extra_blocks
    torch.testing.assert_close(convolutions.p6(levels["3"]), levels["p6"])
    torch.testing.assert_close(convolutions.p7(levels["p6"]), levels["p7"])  # without a ReLU between
    assert (levels["p6"] < 0).any()


def test_p6_is_p5_subsampled():
    levels = pyramid_backbone("resnet18", out_channels=8)(torch.rand(1, 3, 96, 160))
    assert torch.equal(levels["pool"], levels["3"][:, :, ::2, ::2])


@pytest.mark.parametrize(("name", "first"), [("resnet18", "layer2"), ("mobilenet_v2", "4")])
def test_stem_and_stage_one_are_frozen_and_norms_evaluate(name: str, first: str):
    backbone = pyramid_backbone(name, out_channels=8).train()
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
    body = pyramid_backbone("resnet18", out_channels=8, frozen_stages=frozen_stages).body
    frozen = {n.partition(".")[0] for n, p in body.named_parameters() if not p.requires_grad}
    assert frozen == ({n.partition(".")[0] for n, _ in body.named_parameters()} if expected is None else expected)


def test_weights_by_name(tmp_path: Path, mobilenet: nn.Module):
    state = {k: v for k, v in mobilenet.state_dict().items() if not k.endswith("num_batches_tracked")}
    path = tmp_path / "by_name.pt"
    torch.save(dict(reversed(state.items())), path)  # order plays no part; counters may be missing
    backbone = pyramid_backbone("mobilenet_v2", weights=str(path), out_channels=8).eval()
    image = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(features(backbone, image), mobilenet.features[:18](image))


def test_weights_by_order(tmp_path: Path, mobilenet: nn.Module):
    # The published file calls the layers of a block conv.0, conv.1 ... where torchvision nests them.
    state = mobilenet.features.state_dict()
    path = tmp_path / "by_order.pt"
    torch.save({f"layers.{i}.{key.rpartition('.')[2]}": value for i, (key, value) in enumerate(state.items())}, path)
    backbone = pyramid_backbone("mobilenet_v2", weights=str(path), out_channels=8).eval()
    image = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(features(backbone, image), mobilenet.features[:18](image))


def test_resnet_weights_by_name(tmp_path: Path):
    classifier = models.resnet18(weights=None, num_classes=3)
    torch.save(classifier.state_dict(), tmp_path / "resnet.pt")
    body = pyramid_backbone("resnet18", weights=str(tmp_path / "resnet.pt"), out_channels=8).body
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
    body = pyramid_backbone("resnet18", weights="IMAGENET1K_V1", out_channels=8).body
    assert asked == [models.ResNet18_Weights.IMAGENET1K_V1.url]
    assert all(torch.equal(value, classifier.state_dict()[key]) for key, value in body.state_dict().items())
    with pytest.raises(RuntimeError, match=r"weights='IMAGENET1K_V1' of resnet18 could not be .*no route to host"):
        pyramid_backbone("resnet18", weights="IMAGENET1K_V1")


def refused(path: Path, state: object, words: str) -> None:
    torch.save(state, path)
    with pytest.raises(ValueError, match=words) as caught:
        pyramid_backbone("mobilenet_v2", weights=str(path), out_channels=8)
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


def test_truncated_and_foreign_files(tmp_path: Path, mobilenet: nn.Module):
    path = tmp_path / "weights.pt"
    torch.save(mobilenet.state_dict(), path)
    for content in (path.read_bytes()[:4096], b"", b"no weights at all"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"weights\.pt cannot be read"):
            pyramid_backbone("mobilenet_v2", weights=str(path))


def test_names_that_are_not_known():
    with pytest.raises(ValueError, match="backbone='vgg16' is not one of resnet18, resnet34, resnet50"):
        pyramid_backbone("vgg16")
    published = r"weights='IMAGENET' is neither a file nor one of .*: IMAGENET1K_V1, IMAGENET1K_V2"
    with pytest.raises(ValueError, match=published):
        pyramid_backbone("resnet50", weights="IMAGENET")
    with pytest.raises(ValueError, match="frozen_stages=5"):
        pyramid_backbone("resnet18", frozen_stages=5)
