"""Requests of a chat service: a few system prompts that many requests share, own tokens, generated tokens."""

from collections.abc import Iterator
from typing import NamedTuple

import torch

NUM_PREFIXES = 40
PREFIX_TOKENS = (1024, 4096)
OWN_TOKENS = (32, 512)
GENERATED_TOKENS = (16, 512)
VOCABULARY = 128 * 1024


class Request(NamedTuple):
    """Token ids, int32: those known when the request starts, and all of them when it ends (the prompt comes first)."""

    prompt: torch.Tensor
    whole: torch.Tensor


def requests(count: int, seed: int = 0) -> Iterator[Request]:
    """Yield `count` requests. The k-th most popular of the shared prefixes is chosen in proportion to 1/k."""
    random = torch.Generator().manual_seed(seed)

    def tokens(lengths: tuple[int, int]) -> torch.Tensor:
        shortest, longest = lengths
        length = int(torch.randint(shortest, longest + 1, (), generator=random))
        return torch.randint(VOCABULARY, (length,), dtype=torch.int32, generator=random)

    prefixes = [tokens(PREFIX_TOKENS) for _ in range(NUM_PREFIXES)]
    popularity = 1 / torch.arange(1, NUM_PREFIXES + 1)
    for choice in torch.multinomial(popularity, count, replacement=True, generator=random).tolist():
        own, generated = tokens(OWN_TOKENS), tokens(GENERATED_TOKENS)
        whole = torch.cat([prefixes[choice], own, generated])
        yield Request(whole[: len(whole) - len(generated)], whole)
