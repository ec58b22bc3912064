"""One ranking over a process group: the positives of all processes, and the negatives of each where they are.

    R  positives of all processes, in the order of the processes      P  positives of this process

The count of a positive is a sum over the logits. So each process counts its own logits for all R positives, and the
counts are added. The traffic is O(R), whatever the number of logits.
"""

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup

from .passes import Masses


class Group:
    """The processes that share a ranking, and how many positives each has; without a process group this one alone."""

    def __init__(self, process_group: ProcessGroup | None, positives: int, device: torch.device) -> None:
        """`positives` is P. With a process group the others' numbers are gathered, which costs one host sync."""
        self.process_group = process_group
        self.size = 1 if process_group is None else dist.get_world_size(process_group)
        self.positives = [positives]  # of each process
        if process_group is not None:
            gathered = torch.zeros(self.size, dtype=torch.int64, device=device)
            dist.all_gather_into_tensor(gathered, gathered.new_tensor([positives]), group=process_group)
            self.positives = gathered.tolist()
        begin = 0 if process_group is None else sum(self.positives[: dist.get_rank(process_group)])
        self.own = slice(begin, begin + positives)  # this process's part of a tensor (R,)

    @property
    def total(self) -> int:
        """R."""
        return sum(self.positives)

    @property
    def divisor(self) -> int:
        """The divisor of a mean over the positives: R, or 1 where there are none."""
        return max(self.total, 1)

    def gather(self, values: Tensor) -> Tensor:
        """The `values` (P,) of all processes, (R,)."""
        if self.process_group is None:
            return values
        longest = max(self.positives)
        padded = values.new_zeros(longest)
        padded[: len(values)] = values
        gathered = values.new_zeros(self.size * longest)
        dist.all_gather_into_tensor(gathered, padded, group=self.process_group)
        parts = gathered.split(longest or 1)
        return torch.cat([part[:number] for part, number in zip(parts, self.positives, strict=False)])

    def add(self, masses: Masses) -> Masses:
        """The sums of the masses over the processes; a NaN in one process reaches all of them."""
        if self.process_group is None:
            return masses
        sums = torch.cat([masses.false_positives, masses.true_positives, masses.poison])
        dist.all_reduce(sums, group=self.process_group)
        return Masses(sums[: self.total], sums[self.total : 2 * self.total], sums[2 * self.total :])
