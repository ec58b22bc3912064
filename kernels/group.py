"""One ranking over many processes: the positives are everybody's, the negatives stay where they are.

    P  positives of this process      R  positives of all processes of the group, in the order of their ranks

The count of a positive is a sum over the logits, so each process counts its own against everybody's positives and the
counts are added. Traffic is O(R), whatever the number of logits.
"""

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup

from .targets import Masses


class Shared:
    """The positives of a group of processes, and what this process needs to know of its place among them."""

    def __init__(self, group: ProcessGroup | None, count: int, device: torch.device) -> None:
        """Learns how many positives the other processes have: with a group, one host sync; `count` is P."""
        self.group = group
        self.world = 1 if group is None else dist.get_world_size(group)
        self.counts = [count]
        if group is not None:
            counts = torch.zeros(self.world, dtype=torch.int64, device=device)
            dist.all_gather_into_tensor(counts, counts.new_tensor([count]), group=group)
            self.counts = counts.tolist()
        begin = 0 if group is None else sum(self.counts[: dist.get_rank(group)])
        self.own = slice(begin, begin + count)  # of this process, in (R,)

    @property
    def total(self) -> int:
        """R."""
        return sum(self.counts)

    @property
    def divisor(self) -> int:
        """What a sum over the positives is divided by to make a mean: R, and 1 where there are none."""
        return max(self.total, 1)

    def gather(self, values: Tensor) -> Tensor:
        """Everybody's `values` (P,), (R,)."""
        if self.group is None:
            return values
        longest = max(self.counts)
        padded = values.new_zeros(longest)
        padded[: len(values)] = values
        gathered = values.new_zeros(self.world * longest)
        dist.all_gather_into_tensor(gathered, padded, group=self.group)
        return torch.cat([part[:size] for part, size in zip(gathered.split(longest or 1), self.counts, strict=False)])

    def add(self, masses: Masses, poison: Tensor) -> tuple[Masses, Tensor]:
        """The sums over the processes; a NaN of one is everybody's. `poison` () is 0 or NaN."""
        if self.group is None:
            return masses, poison
        sums = torch.cat([*masses, poison[None]])
        dist.all_reduce(sums, group=self.group)
        return Masses(sums[: self.total], sums[self.total : -1]), sums[-1]
