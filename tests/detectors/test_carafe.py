"""CARAFE against the published operator, restated for one cell after another, and its feature pyramid."""

from collections import OrderedDict

import pytest
import torch
from plain_carafe import plain_kernels, plain_reassembly
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils._python_dispatch import TorchDispatchMode

from rst.detectors import P2_TO_P6, P3_TO_P7, BackboneSettings, Pyramid, pyramid_backbone
from rst.detectors.features import reassembly
from rst.detectors.features.carafe import Carafe, CarafeFPN
from rst.detectors.features.reassembly import reassemble


def random_case(
    size: tuple[int, int] = (4, 5), side: int = 5, scale: int = 2, channels: int = 3, images: int = 2, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Features (n, C, h, w) and the outputs of an encoder (n, k^2 r^2, h, w), float64."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(images, channels, *size, generator=generator, dtype=torch.float64)
    encoded = torch.randn(images, (side * scale) ** 2, *size, generator=generator, dtype=torch.float64)
    return features, 2 * encoded


def ours(features: Tensor, encoded: Tensor, side: int, scale: int) -> Tensor:
    return reassemble(features, encoded.unflatten(1, (side**2, scale**2)).softmax(1))


def plain_upsampling(module: Carafe, features: Tensor) -> Tensor:
    """A `Carafe` as published."""
    encoded = module.encoder(module.compressor(features))
    return plain_reassembly(features, plain_kernels(encoded, 5, 2), 2)


def float64_fpn(pyramid: Pyramid = P2_TO_P6, encoder_std: float = 0.2) -> CarafeFPN:
    """A small one whose kernels differ from cell to cell."""
    torch.manual_seed(0)
    fpn = CarafeFPN([3, 4, 5, 6][pyramid.finest - 2 :], 4, pyramid).double()
    for module in fpn.upsampling:
        assert isinstance(module, Carafe)
        nn.init.normal_(module.encoder.weight, std=encoder_std)
    return fpn


def stages(pyramid: Pyramid, size: tuple[int, int], dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """The outputs of a backbone for an image of that size."""
    generator = torch.Generator().manual_seed(1)
    channels = [3, 4, 5, 6][pyramid.finest - 2 :]
    return {
        name: torch.randn(1, count, *of_level, generator=generator, dtype=dtype)
        for name, count, of_level in zip(pyramid.names, channels, pyramid.sizes(size), strict=False)
    }


@pytest.fixture(params=[None, 1, 200], ids=["one chunk", "a channel at a time", "chunks that differ"])
def chunks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param is not None:
        monkeypatch.setattr(reassembly, "CHUNK_CPU", request.param)


@pytest.mark.usefixtures("chunks")
@pytest.mark.parametrize(("side", "scale"), [(5, 2), (3, 2), (1, 2), (5, 1), (3, 3)])
@pytest.mark.parametrize("size", [(4, 5), (1, 1), (1, 7)])
def test_it_is_the_published_operator(size: tuple[int, int], side: int, scale: int):
    features, encoded = random_case(size, side, scale)
    expected = plain_reassembly(features, plain_kernels(encoded, side, scale), scale)
    torch.testing.assert_close(ours(features, encoded, side, scale), expected, rtol=0, atol=1e-14)


@pytest.mark.usefixtures("chunks")
def test_its_gradients_are_those_of_the_published_operator():
    results = []
    for way in (plain_reassembly, None):
        features, encoded = (tensor.requires_grad_() for tensor in random_case((3, 4)))
        fine = ours(features, encoded, 5, 2) if way is None else way(features, plain_kernels(encoded, 5, 2), 2)
        upper = torch.randn(fine.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        results.append(torch.autograd.grad(fine, (features, encoded), upper))
    for got, expected in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize(("side", "scale"), [(5, 2), (3, 3)])
def test_gradients_by_differences(side: int, scale: int):
    features, encoded = random_case((2, 3), side, scale, channels=2, images=1)
    kernels = encoded.unflatten(1, (side**2, scale**2)).softmax(1)  # as they come from a view: any layout
    assert torch.autograd.gradcheck(reassemble, (features.requires_grad_(), kernels.requires_grad_()))


def test_layouts_in_memory_change_nothing():
    features, encoded = (tensor.float() for tensor in random_case((6, 7), channels=8))
    upper = torch.randn(2, 8, 12, 14)
    results = []
    for layout in (torch.contiguous_format, torch.channels_last):
        inputs = [tensor.detach().clone(memory_format=layout).requires_grad_() for tensor in (features, encoded)]
        fine = ours(inputs[0], inputs[1], 5, 2)
        results.append((fine, *torch.autograd.grad(fine, inputs, upper.contiguous(memory_format=layout))))
    for got, expected in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(got, expected)


def test_a_second_derivative_is_refused():
    features, encoded = (tensor.requires_grad_() for tensor in random_case((2, 2)))
    (gradient,) = torch.autograd.grad(ours(features, encoded, 5, 2).square().sum(), features, create_graph=True)
    with pytest.raises(RuntimeError, match=r"reassemble_backward.*no autograd formula"):
        gradient.sum().backward()


class Largest(TorchDispatchMode):
    """The number of values of the largest tensor that any operation makes."""

    values = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.values = max(self.values, result.untyped_storage().nbytes() // result.element_size())
        return result


def test_neither_pass_makes_or_keeps_an_unfolded_map():
    """An unfolded map has 25 times the values of the coarse one, the fine map 4 times."""
    features, encoded = (tensor.float().requires_grad_() for tensor in random_case((12, 16), channels=64, images=1))
    kernels = encoded.unflatten(1, (25, 4)).softmax(1)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        fine = reassemble(features, kernels)
    assert sum(tensor.numel() for tensor in kept) == features.numel() + kernels.numel()
    upper = torch.ones_like(fine)
    with Largest() as largest:
        reassemble(features, kernels)
        torch.autograd.grad(fine, (features, kernels), upper)
    assert largest.values <= fine.numel()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_kernels_and_sums_are_float32_under_autocast(dtype: torch.dtype):
    torch.manual_seed(0)
    module, features = Carafe(16), torch.randn(1, 16, 5, 6, requires_grad=True)
    nn.init.normal_(module.encoder.weight, std=0.2)
    with torch.autocast("cpu", dtype):
        half = features.to(dtype)
        kernels, fine = module.kernels(half), module(half)
    assert (kernels.dtype, fine.dtype) == (torch.float32, dtype)
    torch.testing.assert_close(kernels.sum(1), torch.ones(1, 4, 5, 6))
    assert torch.equal(fine, reassemble(half.float(), kernels).to(dtype)), "rounded once"
    fine.float().square().sum().backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.dtype == torch.float32
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name
    assert features.grad is not None
    assert features.grad.isfinite().all()


def test_a_module_of_bfloat16():
    module = Carafe(8).bfloat16()
    fine = module(torch.randn(1, 8, 3, 3, dtype=torch.bfloat16))
    assert fine.dtype == torch.bfloat16
    fine.sum().backward()


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # opcheck reads it itself
def test_the_operator_as_compilers_see_it():
    """Shapes known ahead, registered gradients, nothing changed in place."""
    features, encoded = random_case((3, 4))
    kernels = encoded.unflatten(1, (25, 4)).softmax(1)
    torch.library.opcheck(reassemble, (features.requires_grad_(), kernels.requires_grad_()))


@pytest.mark.parametrize("autocast", [False, True])
def test_compiled_it_is_one_graph_equal_to_eager(autocast: bool):
    """Traced with its backward pass, as a compiler gets both, for every later size again."""
    torch.manual_seed(0)
    module, graphs = Carafe(8), CompileCounterWithBackend("aot_eager")
    nn.init.normal_(module.encoder.weight, std=0.2)
    compiled = torch.compile(module, backend=graphs, fullgraph=True)
    for size in ((5, 9), (8, 8), (17, 13)):
        features, results = torch.randn(1, 8, *size), []
        for way in (module, compiled):
            module.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                fine = way(features)
            fine.square().sum().backward()
            results.append((fine, *(p.grad for p in module.parameters())))
        for got, expected in zip(results[1], results[0], strict=True):
            torch.testing.assert_close(got, expected)
    assert graphs.frame_count <= 2, "the second size makes a graph for all"


def test_a_compiled_pyramid_is_one_graph():
    fpn, inputs = float64_fpn(), stages(P2_TO_P6, (100, 72))
    compiled = torch.compile(fpn, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(inputs), fpn(inputs))


@pytest.mark.parametrize("size", [(64, 96), (33, 65), (1, 31), (100, 129), (800 // 8, 1333 // 8)])
@pytest.mark.parametrize("pyramid", [P2_TO_P6, P3_TO_P7], ids=["p2 to p6", "p3 to p7"])
def test_levels_of_any_size(pyramid: Pyramid, size: tuple[int, int]):
    levels = CarafeFPN([3, 4, 5, 6][pyramid.finest - 2 :], 4, pyramid).double()(stages(pyramid, size))
    assert tuple(levels) == pyramid.names
    assert tuple(tuple(level.shape[-2:]) for level in levels.values()) == pyramid.sizes(size)


@pytest.mark.parametrize("pyramid", [P2_TO_P6, P3_TO_P7], ids=["p2 to p6", "p3 to p7"])
def test_its_pyramid_is_the_published_one(pyramid: Pyramid):
    """Odd sizes on purpose: 100 x 72 pixels have a P3 of 13 x 9 and a P4 of 7 x 5 cells."""
    fpn, inputs = float64_fpn(pyramid), stages(pyramid, (100, 72))
    finest_first = list(inputs.values())
    laterals = [layer(stage) for layer, stage in zip(fpn.laterals, finest_first, strict=False)]
    laterals.append(fpn.laterals[len(finest_first)](finest_first[-1]))  # P6 on C5, not on P5
    for layer in fpn.laterals[len(finest_first) + 1 :]:
        laterals.append(layer(laterals[-1]))  # before anything is added to it
    assert [layer.stride[0] for layer in fpn.laterals] == [1] * len(finest_first) + [2] * (5 - len(finest_first))
    for i in range(4, 0, -1):
        fine = plain_upsampling(fpn.upsampling[i - 1], laterals[i])
        laterals[i - 1] = laterals[i - 1] + fine[:, :, : laterals[i - 1].shape[2], : laterals[i - 1].shape[3]]
    expected = OrderedDict(zip(pyramid.names, (o(m) for o, m in zip(fpn.outputs, laterals, strict=True)), strict=True))
    torch.testing.assert_close(fpn(inputs), expected)


def test_the_names_of_its_weights():
    shapes = {
        name: tuple(value.shape) for name, value in CarafeFPN([24, 32, 96, 320], 256, P2_TO_P6).state_dict().items()
    }
    expected = {}
    for i, (channels, side) in enumerate([(24, 1), (32, 1), (96, 1), (320, 1), (320, 3)]):
        expected |= {f"laterals.{i}.weight": (256, channels, side, side), f"laterals.{i}.bias": (256,)}
        expected |= {f"outputs.{i}.weight": (256, 256, 3, 3), f"outputs.{i}.bias": (256,)}
    for i in range(4):
        expected |= {f"upsampling.{i}.compressor.weight": (64, 256, 1, 1), f"upsampling.{i}.compressor.bias": (64,)}
        expected |= {f"upsampling.{i}.encoder.weight": (100, 64, 3, 3), f"upsampling.{i}.encoder.bias": (100,)}
    assert shapes == expected


def test_first_weights_are_the_published_ones():
    torch.manual_seed(0)
    fpn = CarafeFPN([24, 32, 96, 320], 64, P2_TO_P6)
    for name, value in fpn.named_parameters():
        if name.endswith("bias"):
            assert not value.any(), name
        elif "encoder" in name:
            assert value.std().item() == pytest.approx(0.001, rel=0.03), name
        else:  # Xavier-uniform
            inputs, outputs = value[0].numel(), value.shape[0] * value[0, 0].numel()
            limit = (6 / (inputs + outputs)) ** 0.5
            assert 0.98 * limit < value.abs().max().item() <= limit, name
            assert value.std().item() == pytest.approx(limit / 3**0.5, rel=0.05), name
    kernels = fpn.upsampling[0].kernels(torch.randn(1, 64, 4, 4))
    torch.testing.assert_close(kernels, torch.full_like(kernels, 1 / 25), rtol=0.1, atol=0)


def test_an_unknown_upsampling_is_refused():
    with pytest.raises(ValueError, match=r"backbone\.fpn_upsampling='cubic' is not one of nearest, bilinear, carafe"):
        BackboneSettings("resnet18", fpn_upsampling="cubic")  # pyright: ignore[reportArgumentType]


def test_settings_choose_the_pyramid():
    backbone = pyramid_backbone(BackboneSettings("resnet18", fpn_channels=8, fpn_upsampling="carafe"))
    assert isinstance(backbone.fpn, CarafeFPN)
    levels = backbone(torch.rand(1, 3, 96, 160))
    assert [tuple(level.shape[1:]) for level in levels.values()] == [(8, *s) for s in P2_TO_P6.sizes((96, 160))]
    assert not isinstance(pyramid_backbone(BackboneSettings("resnet18", fpn_channels=8)).fpn, CarafeFPN)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="mmcv has the operator on GPUs alone")
def test_against_mmcv():
    operators = pytest.importorskip("mmcv.ops")
    features, encoded = (tensor.float().cuda().requires_grad_() for tensor in random_case((13, 9), channels=32))
    kernels = plain_kernels(encoded, 5, 2)
    results = []
    for fine in (ours(features, encoded, 5, 2), operators.carafe(features, kernels, 5, 1, 2)):
        results.append((fine, *torch.autograd.grad(fine.square().sum(), (features, encoded), retain_graph=True)))
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
