"""What a frozen vision tower made of a prompt's media, kept by content."""

from collections import OrderedDict
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Seen:
    """The vision tower's outputs for the media of one prompt."""

    features: Tensor
    """[tokens, hidden]."""
    deepstack: tuple[Tensor, ...]
    """[tokens, hidden] for some first layers of Qwen3-VL; empty elsewhere."""

    @property
    def num_bytes(self) -> int:
        """Memory they take."""
        return sum(tensor.nbytes for tensor in (self.features, *self.deepstack))


class VisionCache:
    """Outputs up to a size; the one that was not used for longest goes first."""

    def __init__(self, max_bytes: int) -> None:
        """Start empty."""
        self._max_bytes, self._bytes = max_bytes, 0
        self._seen: OrderedDict[str, Seen] = OrderedDict()
        self.hits = self.misses = 0

    def get(self, content_hash: str) -> Seen | None:
        """Return what is kept under a content hash."""
        seen = self._seen.get(content_hash)
        if seen is None:
            self.misses += 1
            return None
        self.hits += 1
        self._seen.move_to_end(content_hash)
        return seen

    def put(self, content_hash: str, seen: Seen) -> None:
        """Keep outputs; they are copied to the CPU's memory where they are elsewhere."""
        kept = Seen(
            features=seen.features.cpu(), deepstack=tuple(layer.cpu() for layer in seen.deepstack)
        )
        self._seen[content_hash] = kept
        self._bytes += kept.num_bytes
        while self._bytes > self._max_bytes:
            _, dropped = self._seen.popitem(last=False)
            self._bytes -= dropped.num_bytes
