"""The network, llama-shaped, in torch and for training only.

Parameter names are those of a Hugging Face checkpoint, so that the state dict is the export. Knows nothing of text.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Shape:
    """The sizes of the network; ``vocab`` comes from the tokenizer."""

    vocab: int
    dim: int = 128
    layers: int = 4
    heads: int = 8
    kv_heads: int = 4
    head_dim: int = 16
    hidden: int = 352
    context: int = 512
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-5


def rope_tables(shape: Shape) -> tuple[Tensor, Tensor]:
    """Cosines and sines, each (context, head_dim / 2)."""
    frequencies = shape.rope_theta ** (-torch.arange(0, shape.head_dim, 2).float() / shape.head_dim)
    angles = torch.outer(torch.arange(shape.context).float(), frequencies)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of the two halves of a head, (B, H, T, head_dim)."""
    low, high = x.chunk(2, dim=-1)
    return torch.cat([low * cos - high * sin, high * cos + low * sin], dim=-1)


class Attention(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.q_proj = nn.Linear(shape.dim, shape.heads * shape.head_dim, bias=False)
        self.k_proj = nn.Linear(shape.dim, shape.kv_heads * shape.head_dim, bias=False)
        self.v_proj = nn.Linear(shape.dim, shape.kv_heads * shape.head_dim, bias=False)
        self.o_proj = nn.Linear(shape.heads * shape.head_dim, shape.dim, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        B, T, _ = x.shape
        q, k, v = (
            projection(x).view(B, T, -1, self.shape.head_dim).transpose(1, 2)  # (B, H or H_kv, T, head_dim)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        groups = self.shape.heads // self.shape.kv_heads
        k = rotate(k, cos, sin).repeat_interleave(groups, dim=1)
        v = v.repeat_interleave(groups, dim=1)
        out = F.scaled_dot_product_attention(rotate(q, cos, sin), k, v, attn_mask=mask)
        return self.o_proj(out.transpose(1, 2).reshape(B, T, -1))


class MLP(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.dim, shape.hidden, bias=False)
        self.up_proj = nn.Linear(shape.dim, shape.hidden, bias=False)
        self.down_proj = nn.Linear(shape.hidden, shape.dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(shape.dim, eps=shape.norm_eps)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = nn.RMSNorm(shape.dim, eps=shape.norm_eps)
        self.mlp = MLP(shape)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, mask)
        return x + self.mlp(self.post_attention_layernorm(x))


class Trunk(nn.Module):
    """Everything below the unembedding; called ``model`` in a checkpoint."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(shape.vocab, shape.dim)
        self.layers = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = nn.RMSNorm(shape.dim, eps=shape.norm_eps)


class Network(nn.Module):
    """Token ids (B, T) and a mask (B, 1, T, T), true where a query may look, to the logits that are asked for."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.model = Trunk(shape)
        cos, sin = rope_tables(shape)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        self._initialise()

    def _initialise(self) -> None:
        for name, parameter in self.named_parameters():
            if "embed" in name:
                nn.init.normal_(parameter, std=0.02)
            elif name.endswith(("o_proj.weight", "down_proj.weight")):
                nn.init.normal_(parameter, std=1e-3)  # blocks start close to the identity
            elif parameter.ndim == 2:
                nn.init.normal_(parameter, std=self.shape.dim**-0.5)

    def forward(self, tokens: Tensor, mask: Tensor, wanted: Tensor) -> Tensor:
        """Logits (N, vocab) of the N positions at which ``wanted`` (B, T) is true."""
        T = tokens.shape[1]
        x = self.model.embed_tokens(tokens)  # (B, T, dim)
        mask = torch.zeros(mask.shape).masked_fill(~mask, float("-inf"))  # once, not in every layer
        for block in self.model.layers:
            x = block(x, self.cos[:T], self.sin[:T], mask)
        return F.linear(self.model.norm(x[wanted]), self.model.embed_tokens.weight)
