"""The order in which samples are trained on: a pure function of the seed and a position.

Nothing random is saved. A run that continues needs one integer, the number of samples drawn so
far; the ledger of a checkpoint holds it.
"""

import hashlib
from collections.abc import Sequence


class EpochSampler:
    """Goes through the samples in a new order every epoch, each exactly once per epoch.

    Position ``p`` is place ``p % n`` of epoch ``p // n``; the order of an epoch sorts the sample
    ids by ``sha256(seed, epoch, id)``, so it depends neither on the order of the file nor on what
    was drawn before.
    """

    def __init__(self, sample_ids: Sequence[str], seed: int) -> None:
        """Prepare the order of the given samples.

        Args:
            sample_ids: Ids of the samples, unique.
            seed: Seed of the run.

        Raises:
            ValueError: If there are no samples or an id occurs twice.
        """
        if not sample_ids:
            raise ValueError("no samples to train on; expected at least one in the training split")
        if len(set(sample_ids)) != len(sample_ids):
            twice = next(name for name in sample_ids if list(sample_ids).count(name) > 1)
            raise ValueError(f"sample id {twice!r} occurs twice; ids must be unique in a split")
        self.sample_ids = tuple(sample_ids)
        self.seed = seed
        self._orders: dict[int, list[int]] = {}

    def __len__(self) -> int:
        """Samples in an epoch."""
        return len(self.sample_ids)

    def index(self, position: int) -> int:
        """Return the index of the sample at a position; positions count over all epochs."""
        epoch, place = divmod(position, len(self.sample_ids))
        if epoch not in self._orders:
            self._orders = {epoch: self._order(epoch)}
        return self._orders[epoch][place]

    def epoch(self, position: int) -> int:
        """Return the epoch of a position, counted from 0."""
        return position // len(self.sample_ids)

    def _order(self, epoch: int) -> list[int]:
        def rank(index: int) -> bytes:
            text = f"{self.seed}\x1f{epoch}\x1f{self.sample_ids[index]}"
            return hashlib.sha256(text.encode()).digest()

        return sorted(range(len(self.sample_ids)), key=rank)
