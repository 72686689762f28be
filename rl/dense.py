"""Dense supervision of a policy's visual tokens: what covers each, and where that thing ends.

A Qwen2.5-VL from random weights hardly learns to point from boxes in text alone: nothing in its
input carries an absolute position, only rotations do. This loss asks every merged visual token for
the class and colour of the object that covers it, and, two text layers further, for the edges of
that object's box and for its own time, in the vocabulary of number tokens. Answering then is
finding the right token and copying; two attention heads are told which tokens to find. What is
added to the model for this is thrown away after training.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scenerl.envs.records import MediaRef
from scenerl.rl.forward import Pack
from scenerl.rl.policy import stock_model

MIN_COVER = 0.12
"""Share of a token's pixels that an object must cover to be what the token shows."""
BACKGROUND_WEIGHT = 0.3
EDGE_SIGMA_PX = 3.0
"""Width of the target distribution over number tokens around a true box edge."""
TEXT_LAYER = 1
"""Index of the text layer behind which boxes and times are read."""
POINTER_LAYER = 3
"""Index of the text layer whose first query heads (one key head) point at the object."""
POINTER_SPAN = 2
"""Temporal patches of the object that the first and the last number of a span point at."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class DenseTarget:
    """What is true about the merged visual tokens of one prompt, in their order."""

    label: Tensor
    """int64 [tokens]: 0 for background, else class + 1."""
    color: Tensor
    """int64 [tokens]: 0 for background, else colour + 1."""
    box_px: Tensor
    """int64 [tokens, 4] in pixels of the resized frame; zeros for background and for videos."""
    time_s: Tensor
    """int64 [tokens]: rounded time of the token's first frame; -1 for images."""
    is_object: Tensor
    """bool [tokens]: shows the object that the prompt asks for."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Names of the classes and colours that heads tell apart."""

    labels: tuple[str, ...]
    colors: tuple[str, ...]

    @staticmethod
    def of_rooms() -> "Vocabulary":
        """Return the vocabulary of the synthetic rooms."""
        from scenerl.preprocess.rooms_furniture import COLORS, FURNITURE

        return Vocabulary(tuple(FURNITURE), tuple(COLORS))


def dense_target(media: MediaRef, object_id: int | None, vocabulary: Vocabulary) -> DenseTarget:
    """Read the instance images of a medium and label its merged visual tokens.

    Args:
        media: The image or video.
        object_id: What the prompt asks for; None for a question about the whole.
        vocabulary: Classes and colours.

    Raises:
        ValueError: If the scene has no instance images.
    """
    instances, labels, colors = _scene_instances(media.path, vocabulary)
    frames = np.stack([instances[index] for index in media.frame_indices])
    frames = frames if len(frames) % 2 == 0 else np.concatenate([frames, frames[-1:]])
    width, height = media.size
    rows = (np.arange(height) + 0.5) * frames.shape[1] / height
    columns = (np.arange(width) + 0.5) * frames.shape[2] / width
    frames = frames[:, rows.astype(int)][:, :, columns.astype(int)]  # [frames, height, width]
    pairs = frames if media.kind == "image" else np.maximum(frames[0::2], frames[1::2])
    pairs = pairs[:1] if media.kind == "image" else pairs
    cells = _cover(pairs)
    boxes = np.zeros((*cells.shape, 4), dtype=np.int64)
    if media.kind == "image":
        for shown in np.unique(pairs[0][pairs[0] > 0]):
            ys, xs = np.nonzero(pairs[0] == shown)
            boxes[cells == shown] = (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
    times = np.full(cells.shape, -1)
    if media.kind == "video":
        times[:] = np.round(np.array(media.times_s[0::2]))[:, None, None]
    flat = torch.from_numpy(cells).flatten()
    return DenseTarget(
        label=labels[flat],
        color=colors[flat],
        box_px=torch.from_numpy(boxes).reshape(-1, 4),
        time_s=torch.from_numpy(times).flatten(),
        is_object=flat == (-1 if object_id is None else object_id),
    )


class DenseHeads(nn.Module):
    """The heads, and hooks that keep what the policy's forward computes on its way."""

    def __init__(self, policy: nn.Module, tokenizer: Any, vocabulary: Vocabulary) -> None:
        """Attach to a policy; `detach` removes the hooks.

        Raises:
            ValueError: If the tokenizer does not have numbers as single tokens.
        """
        super().__init__()
        names = [str(number) for number in range(512)]
        ids = tokenizer.convert_tokens_to_ids(names)
        pairs = zip(ids, names, strict=True)
        if any(index is None or tokenizer.decode([index]) != name for index, name in pairs):
            raise ValueError(
                "dense supervision needs a tokenizer with 0..511 as single tokens; set "
                "sft.dense_weight=0 for other policies"
            )
        self._number_ids = torch.tensor(ids)
        self._stock = [stock_model(policy)]  # in a list: not a submodule
        text = self._stock[0].config.text_config
        width, classes, colors = text.hidden_size, len(vocabulary.labels), len(vocabulary.colors)
        self.label = nn.Linear(width, classes + 1)
        self.color = nn.Linear(width, colors + 1)
        self.text_label = nn.Linear(width, classes + 1)
        self.text_color = nn.Linear(width, colors + 1)
        self.edges = nn.ModuleList(nn.Linear(width, width) for _ in range(4))
        self.time = nn.Linear(width, width)
        self.scale = nn.Parameter(torch.tensor(20.0))
        self._kept: dict[str, Any] = {}
        model = self._stock[0].model
        layers = model.language_model.layers
        self._pointer = [layers[POINTER_LAYER].self_attn]
        self._hooks = [
            model.visual.register_forward_hook(self._keep("vision")),
            layers[TEXT_LAYER].register_forward_hook(self._keep("text")),
            self._pointer[0].register_forward_pre_hook(self._keep_inputs, with_kwargs=True),
        ]

    def detach(self) -> None:
        """Remove the hooks from the policy."""
        for hook in self._hooks:
            hook.remove()

    def loss(self, packs: Sequence[Pack], targets: Sequence[DenseTarget]) -> Tensor:
        """Return the dense loss of the batch that the policy has just seen.

        Args:
            packs: What went through the forward pass, in its order; one completion each.
            targets: Of the same prompts.
        """
        vision = self._kept.pop("vision").pooler_output
        vision = vision if isinstance(vision, Tensor) else torch.cat(list(vision))
        hidden = self._kept.pop("text")
        hidden = hidden[0] if isinstance(hidden, tuple) else hidden
        media = [self._media_tokens(pack).to(hidden.device) for pack in packs]
        text = torch.cat([hidden[row, rows] for row, rows in enumerate(media)])
        label = torch.cat([target.label for target in targets]).to(text.device)
        color = torch.cat([target.color for target in targets]).to(text.device)
        weight = torch.where(label > 0, 1.0, BACKGROUND_WEIGHT)

        def classify(logits: Tensor, truth: Tensor) -> Tensor:
            losses = F.cross_entropy(logits.float(), truth, reduction="none")
            return (losses * weight).sum() / weight.sum()

        total = classify(self.label(vision), label) + classify(self.color(vision), color)
        total = total + 0.5 * classify(self.text_label(text), label)
        total = total + 0.5 * classify(self.text_color(text), color)
        boxes = torch.cat([target.box_px for target in targets]).to(text.device)
        times = torch.cat([target.time_s for target in targets]).to(text.device)
        total = total + self._edge_loss(text, boxes) + self._time_loss(text, times)
        return total + 0.5 * self._pointer_loss(packs, targets, media)

    def _media_tokens(self, pack: Pack) -> Tensor:
        """Return the positions of the prompt's visual tokens."""
        config, ids = self._stock[0].config, pack.encoded.prompt_ids
        is_media = (ids == config.image_token_id) | (ids == config.video_token_id)
        positions: Tensor = is_media.nonzero()[:, 0]
        return positions

    def _pointer_loss(
        self, packs: Sequence[Pack], targets: Sequence[DenseTarget], media: Sequence[Tensor]
    ) -> Tensor:
        """Return -log of the attention that number positions pay to the object's tokens."""
        from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb

        hidden, (cos, sin) = self._kept.pop("attention")
        attention, width = self._pointer[0], self._pointer[0].head_dim
        heads = attention.num_key_value_groups
        query = attention.q_proj(hidden).unflatten(-1, (-1, width)).transpose(1, 2)[:, :heads]
        key = attention.k_proj(hidden).unflatten(-1, (-1, width)).transpose(1, 2)[:, :1]
        query, key = apply_rotary_pos_emb(query, key, cos, sin)
        losses = []
        for row, (pack, target) in enumerate(zip(packs, targets, strict=True)):
            for position, wanted in self._pointers(pack, target):
                scores = query[row, :, position] @ key[row, 0, : position + 1].T * width**-0.5
                logprobs = torch.log_softmax(scores.float(), dim=-1)  # [heads, keys]
                wanted_at = media[row][wanted.to(hidden.device)]
                losses.append(-torch.logsumexp(logprobs[:, wanted_at], dim=-1).mean())
        return torch.stack(losses).mean() if losses else torch.zeros((), device=hidden.device)

    def _pointers(self, pack: Pack, target: DenseTarget) -> list[tuple[int, Tensor]]:
        """Return (position that predicts a number, bool [tokens] to attend to) of one pack."""
        if not target.is_object.any():
            return []
        ids = pack.completion_ids[0]
        numbers = torch.isin(ids, self._number_ids.to(ids.device)).nonzero()[:, 0].tolist()
        before = len(pack.encoded.prompt_ids) - 1
        if target.time_s[0] < 0:  # a box: the last four numbers
            return [(before + number, target.is_object) for number in numbers[-4:]]
        times = torch.tensor(sorted(set(target.time_s[target.is_object].tolist())))
        half = len(numbers) // 2
        parts = [times[:POINTER_SPAN]] * half + [times[-POINTER_SPAN:]] * (len(numbers) - half)
        return [
            (before + number, target.is_object & torch.isin(target.time_s, part))
            for number, part in zip(numbers, parts, strict=True)
        ]

    def _edge_loss(self, text: Tensor, boxes: Tensor) -> Tensor:
        known = boxes[:, 2] > 0
        if not known.any():
            return text.new_zeros(())
        numbers = torch.arange(512, device=text.device)
        losses = []
        for edge, head in enumerate(self.edges):
            distance = (numbers[None] - boxes[known][:, edge, None]) / EDGE_SIGMA_PX
            soft = torch.softmax(-0.5 * distance**2, dim=-1)
            losses.append(-(soft * self._number_logprobs(head(text[known]))).sum(-1).mean())
        return torch.stack(losses).mean()

    def _time_loss(self, text: Tensor, times: Tensor) -> Tensor:
        known = times >= 0
        if not known.any():
            return text.new_zeros(())
        logprobs = self._number_logprobs(self.time(text[known]))
        return 0.5 * F.nll_loss(logprobs, times[known])

    def _number_logprobs(self, features: Tensor) -> Tensor:
        embeddings = self._stock[0].get_input_embeddings().weight[self._number_ids]
        return F.log_softmax(self.scale * features @ embeddings.T, dim=-1)

    def _keep_inputs(self, _module: nn.Module, arguments: Any, keywords: dict[str, Any]) -> None:
        hidden = keywords["hidden_states"] if "hidden_states" in keywords else arguments[0]
        self._kept["attention"] = (hidden, keywords["position_embeddings"])

    def _keep(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            self._kept[name] = output

        return hook


def _cover(frames: np.ndarray, cell: int = 28) -> np.ndarray:
    """Return the object that covers most of each cell, int64 [frames, rows, columns]; 0 is none."""
    count, height, width = frames.shape
    cells = frames.reshape(count, height // cell, cell, width // cell, cell)
    cells = cells.transpose(0, 1, 3, 2, 4).reshape(count, height // cell, width // cell, -1)
    objects = np.arange(1, int(frames.max()) + 1)
    if not len(objects):
        return np.zeros(cells.shape[:3], dtype=np.int64)
    pixels = np.stack([(cells == number).sum(-1) for number in objects], axis=-1)
    best: np.ndarray = pixels.argmax(-1) + 1
    return np.where(pixels.max(-1) >= MIN_COVER * cell * cell, best, 0).astype(np.int64)


@functools.lru_cache(maxsize=512)
def _scene_instances(
    path: str, vocabulary: Vocabulary
) -> tuple[dict[int, np.ndarray], Tensor, Tensor]:
    """Return the instance images by frame, and class and colour of each object id."""
    from scenerl.preprocess.scene import Scene

    scene = Scene.open(path, check="files")
    images: dict[int, np.ndarray] = {}
    for index in scene.frame_indices:
        image = scene.instances(index)
        if image is None:
            raise ValueError(
                f"{path} has no instance images, which dense supervision needs; set "
                "sft.dense_weight=0 for recordings without them"
            )
        images[index] = image.astype(np.uint8)
    size = max((item.object_id for item in scene.objects), default=0) + 1
    labels, colors = torch.zeros(size, dtype=torch.int64), torch.zeros(size, dtype=torch.int64)
    for item in scene.objects:
        color = item.attributes.get("color", "")
        if item.label in vocabulary.labels:
            labels[item.object_id] = vocabulary.labels.index(item.label) + 1
        if color in vocabulary.colors:
            colors[item.object_id] = vocabulary.colors.index(color) + 1
    return images, labels, colors
