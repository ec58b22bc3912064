"""Two protocols to score detections: COCO's, and LVIS's for annotations that name only some of the absent classes.

Both match at ten IoU thresholds and read precision at 101 recalls. They differ in how many detections count, and in
what the annotations say about absent classes (paper, sections 5 and 6).
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

IouType = Literal["bbox", "segm"]
ProtocolName = Literal["coco", "lvis"]

# As in the published tools; np.arange would end slightly above .95
IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)

SIZES = {"": "all", "s": "small", "m": "medium", "l": "large"}  # suffix of a metric, name
AREAS = np.array([[0, 1e10], [0, 32**2], [32**2, 96**2], [96**2, 1e10]])  # (4, 2) square pixels, both ends included


@dataclass(frozen=True)
class Protocol:
    """What COCO and LVIS do differently.

    Attributes:
        name: "coco" or "lvis".
        limits: the numbers of detections at which recall is read; precision takes the last of them.
        limit_per_image: whether the last limit counts the detections of an image (LVIS), or those of each class in
            it (COCO).
        federated: whether a detection counts only where its class is annotated or known to be absent, and an
            unmatched one is ignored where not all objects of its class are annotated.
    """

    name: ProtocolName
    limits: tuple[int, ...]
    limit_per_image: bool
    federated: bool


PROTOCOLS: dict[ProtocolName, Protocol] = {
    "coco": Protocol("coco", limits=(1, 10, 100), limit_per_image=False, federated=False),
    "lvis": Protocol("lvis", limits=(300,), limit_per_image=True, federated=True),
}
