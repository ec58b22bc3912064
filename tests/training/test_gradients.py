"""The logged norms of the gradients are those that a computation by hand gives: before clipping, without a scaler."""

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.plugins import MixedPrecision
from torch import nn

from rst.training import DetectionTraining, OptimizerSettings
from rst.training.curves import draw_curves, read_metrics
from rst.training.gradients import gradient_norms, norm_names
from rst.training.loggers import MetricsLogger
from rst.training.records import METRICS_FILE

NAMES = ["gradient_norm", "gradient_norm_backbone", "gradient_norm_head", "gradient_norm_scale"]
CLIP = 0.01


class TwoParts(nn.Module):
    """A backbone, half of it frozen, a head, and a parameter of its own."""

    num_classes = 1

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4))
        self.backbone[0].requires_grad_(False)
        self.head = nn.Linear(4, 2)
        self.unused = nn.Linear(2, 2).requires_grad_(False)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, images, targets):
        output = self.scale * self.head(self.backbone(torch.stack([image.mean((1, 2)) for image in images])))
        return {"loss_square": output.square().mean(), "loss_size": output.float().norm()}


class NormsByHand(Callback):
    """Adds up the gradients of a step's batches by itself, where backward makes them, in float64."""

    def __init__(self):
        self.sums: dict[str, torch.Tensor] = {}
        self.norms: list[list[float]] = []  # of each step, in the order of NAMES
        self.clipped: list[float] = []
        self.poisoned: int | None = None  # the batch whose gradients overflow

    def on_train_start(self, trainer, pl_module):
        for name, parameter in pl_module.model.named_parameters():
            if parameter.requires_grad:
                parameter.register_hook(lambda gradient, name=name: self._add(name, gradient))
        self.trainer = trainer

    def _add(self, name, gradient):
        self.sums[name] = self.sums.get(name, 0) + gradient.double()
        return gradient * float("inf") if self.trainer.fit_loop.batch_idx == self.poisoned else None

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        scale = 1.0 if scaler is None else scaler.get_scale()
        squares = {name: float((gradient / scale).square().sum()) for name, gradient in self.sums.items()}
        parts = [sum(value for name, value in squares.items() if name.startswith(part)) for part in ("b", "h", "s")]
        self.norms.append([sum(squares.values()) ** 0.5, *(square**0.5 for square in parts)])
        self.sums = {}

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.clipped.append(float(gradient_norms(pl_module.model)["gradient_norm"]))


def train(folder, *, scaler=False, poisoned=None, **options):
    torch.manual_seed(0)
    batches = [([torch.rand(3, 8, 8)], [{"image_id": number}]) for number in range(7)]
    by_hand = NormsByHand()
    by_hand.poisoned = poisoned
    # float32 under the scaler: what is tested is the factor, and half precision would blur it
    plugins = [MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu", init_scale=1024.0))]
    plugins[0].autocast_context_manager = lambda: torch.autocast("cpu", enabled=False)  # pyright: ignore
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=MetricsLogger(folder),
        callbacks=[by_hand],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        plugins=plugins if scaler else [],
        **{"log_every_n_steps": 1, "gradient_clip_val": CLIP, **options},
    )
    module = DetectionTraining(TwoParts(), OptimizerSettings(lr=0.1))
    trainer.fit(module, torch.utils.data.DataLoader(batches, batch_size=None))
    assert set(NAMES) <= set(module.logged)
    return by_hand, read_metrics(folder / METRICS_FILE)


@pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers")
@pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`")
@pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated")
class TestInARun:
    @pytest.mark.parametrize("scaler", [False, True], ids=["float32", "scaler"])
    @pytest.mark.parametrize("accumulated", [1, 2])
    def test_each_step_has_the_norms_by_hand(self, tmp_path, scaler, accumulated):
        by_hand, curves = train(tmp_path, scaler=scaler, accumulate_grad_batches=accumulated)
        assert len(by_hand.norms) == -(-7 // accumulated)
        for name, expected in zip(NAMES, zip(*by_hand.norms, strict=True), strict=True):
            steps, values = curves[name]
            assert steps.tolist() == list(range(len(expected)))
            assert values == pytest.approx(list(expected), rel=1e-5)
        assert min(curves["gradient_norm"][1]) > 2 * CLIP, "clipping must have had something to do"
        assert by_hand.clipped[-1] == pytest.approx(CLIP, rel=1e-3)

    def test_only_logged_steps_are_measured(self, tmp_path):
        by_hand, curves = train(tmp_path, log_every_n_steps=3)
        assert curves["gradient_norm"][0].tolist() == curves["loss"][0].tolist() == [2, 5]
        assert curves["gradient_norm"][1] == pytest.approx([by_hand.norms[2][0], by_hand.norms[5][0]], rel=1e-5)

    def test_a_step_that_a_scaler_leaves_out_has_no_norm(self, tmp_path):
        _, curves = train(tmp_path, scaler=True, poisoned=3)
        assert curves["gradient_norm"][0].tolist() == [0, 1, 2, 4, 5, 6]
        assert draw_curves(tmp_path, tmp_path / "curves.png").is_file()


def test_parts_without_a_gradient_count_nothing():
    model = TwoParts()
    assert norm_names(model) == [NAMES[0], NAMES[3], *NAMES[1:3]]
    model.head.weight.grad = torch.full((2, 4), 3.0)
    norms = gradient_norms(model)
    assert list(norms) == norm_names(model)
    assert norms["gradient_norm"] == norms["gradient_norm_head"] == pytest.approx(3.0 * 8**0.5)
    assert norms["gradient_norm_backbone"] == norms["gradient_norm_scale"] == 0


def test_a_model_with_nothing_to_train_has_no_norm():
    assert gradient_norms(nn.Linear(2, 2).requires_grad_(False)) == {}
