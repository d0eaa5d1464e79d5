"""Streams as a service would send them, from numpy arrays that a test chooses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from neuroscope.v1 import inference_pb2 as pb
from neuroscope.v1 import tensor_pb2
from neuroscope.vocabulary import sites
from neuroscope.vocabulary.sites import Point
from neuroscope.vocabulary.tensors import parse_dtype
from neuroscope.wire.codec import Frame
from neuroscope.wire.frames import FramePacker, OutgoingTensor


def outgoing(
    plan_index: int,
    array: np.ndarray,
    *,
    row: int = 0,
    first_position: int = 0,
    positions: Sequence[int] = (),
    key_positions: Sequence[int] = (),
) -> OutgoingTensor:
    """An array as a sender hands it to the packer."""
    data = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
    return OutgoingTensor(plan_index, row, array.shape, first_position, data, positions, key_positions)


class Stream:
    """Makes the events of one stream, in the order in which its methods are called.

    Args:
        *points: (hook_id, Point) or Point, whose text is then the hook id.
        prompts: token ids of each row.
        dtype: of every tensor.
        response: the wrapping message.
    """

    def __init__(
        self,
        *points: Point | tuple[str, Point],
        prompts: Sequence[Sequence[int]] = ((1, 2, 3),),
        dtype: str = "float32",
        response: type[pb.GenerateResponse] | type[pb.CaptureResponse] = pb.GenerateResponse,
    ) -> None:
        self.prompts = prompts
        self.response = response
        self.token_count = 0
        self.specs = [
            tensor_pb2.TensorSpec(
                plan_index=index,
                hook_id=hook_id,
                site=point.to_message(),
                layer_name="" if point.layer is None else f"model.layers.{point.layer}",
                dtype=parse_dtype(dtype),
                axes=sites.COMPONENTS[point.component].axes,
            )
            for index, (hook_id, point) in enumerate(
                (str(entry), entry) if isinstance(entry, Point) else entry for entry in points
            )
        ]
        self.packer = FramePacker(self.specs)

    def started(self, *, warnings: Sequence[str] = ()) -> Any:
        """The first message."""
        prompts = [pb.TokenIds(ids=ids) for ids in self.prompts]
        return self.response(
            started=pb.StreamStarted(stream_id="s1", model_id="tiny", prompts=prompts, seed=7, warnings=warnings)
        )

    def plan(self) -> Any:
        """What will be sent."""
        return self.response(plan=tensor_pb2.TensorPlan(tensors=self.specs))

    def frames(self, step: int, *tensors: OutgoingTensor) -> list[Frame]:
        """The frames of a step or chunk."""
        return list(self.packer.pack(step, tensors))

    def token(self, step: int, text: str = "", *, row: int = 0, finish: int = 0, **fields: Any) -> Any:
        """A token."""
        self.token_count += 1
        token_id = fields.pop("token_id", 100 + step)
        return pb.GenerateResponse(
            token=pb.TokenEvent(row=row, step=step, text=text, token_id=token_id, finish_reason=finish, **fields)  # pyright: ignore[reportArgumentType]
        )

    def manifest(self) -> Any:
        """The last message, true to what was sent."""
        entries = [
            pb.ManifestEntry(
                plan_index=plan_index,
                hook_id=self.specs[plan_index].hook_id,
                row=row,
                piece_count=digest.piece_count,
                position_count=digest.position_count,
                dtype=self.specs[plan_index].dtype,
                length_bytes=digest.length_bytes,
                xxh3_64=digest.checksum,
            )
            for (plan_index, row), digest in self.packer.digests.items()
        ]
        usage = pb.Usage(prompt_tokens=sum(map(len, self.prompts)), completion_tokens=self.token_count)
        return self.response(manifest=pb.Manifest(entries=entries, usage=usage, frame_count=self.packer.frame_count))
