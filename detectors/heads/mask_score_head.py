"""How good a predicted mask is: the head that Mask Scoring R-CNN adds (Huang et al., CVPR 2019).

T  RoIs    F  channels    C  classes    s  side of a pooled RoI, cells    S  side of a mask, 2 s
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.faster_rcnn import TwoMLPHead

CONVOLUTIONS = 4  # the last with a stride of 2
WIDTH = 1024  # of the two hidden layers


class MaskScoreHead(nn.Module):
    """The IoU of a predicted mask with its object, from the pooled features and the mask; one output per class.

    As in `MaskHead` only the output of one class is computed.

    Args:
        in_channels: F.
        channels: of the convolutions.
        side: s.
        num_classes: C.
    """

    def __init__(self, in_channels: int, channels: int, side: int, num_classes: int) -> None:
        super().__init__()
        layers = []
        for number in range(CONVOLUTIONS):
            stride = 2 if number == CONVOLUTIONS - 1 else 1
            layer = nn.Conv2d(in_channels + 1 if number == 0 else channels, channels, 3, stride, padding=1)
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
            layers += [layer, nn.ReLU(inplace=True)]
        self.tower = nn.Sequential(*layers)
        self.hidden = TwoMLPHead(channels * (-(-side // 2)) ** 2, WIDTH)
        self.iou = nn.Linear(WIDTH, num_classes)
        for layer in (self.hidden.fc6, self.hidden.fc7):
            nn.init.kaiming_uniform_(layer.weight, a=1, mode="fan_in")
            nn.init.zeros_(layer.bias)
        nn.init.normal_(self.iou.weight, std=0.01)
        nn.init.zeros_(self.iou.bias)

    def forward(
        self,
        pooled: Tensor,  # (T, F, s, s)
        logits: Tensor,  # (T, S, S) of the predicted masks
        labels: Tensor,  # (T,) int64
    ) -> Tensor:
        """The IoUs, (T,) float32, not bounded."""
        probabilities = F.max_pool2d(logits.float().sigmoid()[:, None], 2).to(pooled.dtype)
        hidden = self.hidden(self.tower(torch.cat((pooled, probabilities), dim=1)))
        products = torch.linalg.vecdot(hidden.float(), self.iou.weight[labels].float())
        return products + self.iou.bias[labels]


def mask_ious(
    logits: Tensor,  # (T, S, S) of the predicted masks
    truths: Tensor,  # (T, S, S) 0 or 1
    shares: Tensor,  # (T,) the part of each object that its RoI holds
) -> Tensor:
    """(T,) float32 in [0, 1]: IoU of each predicted mask with its whole object, also with what lies outside of the RoI.

    The area of the object in cells is that of its part in the RoI, over the share of it (as published).
    """
    predicted = logits.detach() > 0
    common = (predicted & (truths > 0)).flatten(1).sum(1)
    whole = truths.flatten(1).sum(1) / (shares + 1e-7)
    return common / (predicted.flatten(1).sum(1) + whole - common).clamp(min=1e-7)
