"""What a model can do besides running: found by probes of a few tokens when it is loaded, so that no request waits."""

from __future__ import annotations

from dataclasses import dataclass

from neuroscope_inference.engine import caches
from neuroscope_inference.engine.layout import Layout
from neuroscope_inference.engine.unembedding import Unembedding


@dataclass(frozen=True, slots=True)
class ModelCapabilities:
    """The outcome of the probes.

    Attributes:
        can_batch: rows may decode together.
        can_cut: logits of a prompt's last position can be had alone.
        why_no_lens: why no lens can be applied; empty if one can.
    """

    can_batch: bool
    can_cut: bool
    why_no_lens: str

    @classmethod
    def probe(cls, layout: Layout, vocab_size: int) -> ModelCapabilities:
        """Those of a model whose points have been proved; eleven forward passes of up to five tokens."""
        end = Unembedding(layout.model, layout)
        return cls(caches.can_batch(layout.model, vocab_size), end.can_slice_positions(), end.why_unavailable())
