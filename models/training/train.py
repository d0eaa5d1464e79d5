"""The training loop. Knows steps, learning rates and the loss; leaves data, network and measuring to others."""

import time
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer
from torch.nn import functional as F

from .batch import Batch, batches
from .network import Network, Shape
from .optimizer import optimizers


@dataclass(frozen=True)
class Recipe:
    """Everything that, with the corpus, fixes the trained weights."""

    steps: int = 3600
    batch_tokens: int = 2048
    short_length: int = 96
    """tokens a row at first; longer documents wait"""
    long_length: int = 256
    """tokens a row later"""
    short_share: float = 0.7
    """share of the steps with short rows"""
    matrix_lr: float = 0.006
    other_lr: float = 0.002
    warmup_steps: int = 50
    decay_share: float = 0.5
    """the learning rate falls to zero over this last share of the steps"""
    seed: int = 0
    threads: int = 2


@dataclass(frozen=True)
class Trained:
    network: Network
    seconds: float
    final_loss: float


def learning_rate_factor(step: int, recipe: Recipe) -> float:
    remaining = (recipe.steps - step) / (recipe.steps * recipe.decay_share)
    return min(1.0, (step + 1) / recipe.warmup_steps, remaining)


def loss_of(network: Network, batch: Batch) -> torch.Tensor:
    """Cross-entropy in nats, averaged by weight."""
    learnt = batch.weights > 0
    weights = batch.weights[learnt]  # (N,)
    losses = F.cross_entropy(network(batch.tokens, batch.mask, learnt), batch.targets[learnt], reduction="none")
    return (losses * weights).sum() / weights.sum()


def train(tokenizer: Tokenizer, recipe: Recipe) -> Trained:
    torch.manual_seed(recipe.seed)
    torch.set_num_threads(recipe.threads)
    torch.use_deterministic_algorithms(True)
    network = Network(Shape(vocab=tokenizer.get_vocab_size()))
    group = optimizers(network, recipe.matrix_lr, recipe.other_lr)
    rates = [optimizer.param_groups[0]["lr"] for optimizer in group]
    short_steps = round(recipe.steps * recipe.short_share)
    short = batches(tokenizer, recipe.seed + 1, recipe.batch_tokens // recipe.short_length, recipe.short_length)
    long = batches(tokenizer, recipe.seed + 2, recipe.batch_tokens // recipe.long_length, recipe.long_length)
    started = time.perf_counter()
    smoothed = 0.0
    for step in range(recipe.steps):
        loss = loss_of(network, next(short if step < short_steps else long))
        network.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        for optimizer, rate in zip(group, rates, strict=True):
            optimizer.param_groups[0]["lr"] = rate * learning_rate_factor(step, recipe)
            optimizer.step()
        smoothed = loss.item() if step == 0 else 0.98 * smoothed + 0.02 * loss.item()
        if step % 100 == 99:
            print(f"step {step + 1:5d}  loss {smoothed:.4f}  {time.perf_counter() - started:6.0f} s", flush=True)
    return Trained(network, time.perf_counter() - started, smoothed)
