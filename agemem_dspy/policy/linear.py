"""Linear layers for the few tokens of a sampling pass, on a CPU.

A layer computes X Wᵀ. Intel's MKL, which PyTorch multiplies with on x86, shares the work among threads as if X had many
rows; with the few of a sampling pass a second thread hardly helps. W Xᵀ, the same sums, it shares by the outputs of the
layer: two threads need 0.4 to 0.8 of the time for SmolLM2's layers, if Xᵀ has at most 8 columns or a multiple of 16.
One token alone and hundreds cost the same either way, and so does everything on one thread.
"""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

_FEWEST, _ANY, _MULTIPLE, _MOST = 2, 8, 16, 192


class FewTokensLinear(torch.nn.Linear):
    """A `torch.nn.Linear` that computes W Xᵀ where that is faster and no gradient is wanted."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 - its name in torch
        """Return (…, out) for (…, in)."""
        tokens = input.numel() // self.in_features
        if torch.is_grad_enabled() or not _is_faster(tokens):
            return super().forward(input)
        rows = input.reshape(tokens, self.in_features)
        columns = (rows.contiguous() if tokens <= _ANY else rows).t()
        bias: torch.Tensor | None = self.bias
        product = torch.mm(self.weight, columns) if bias is None else torch.addmm(bias[:, None], self.weight, columns)
        return product.t().view(*input.shape[:-1], self.out_features)


def suit_few_tokens(model: torch.nn.Module) -> None:
    """Let a model's linear layers choose the order of multiplication, where MKL does it; else change nothing."""
    if torch.backends.mkl.is_available():
        for module in model.modules():
            if type(module) is torch.nn.Linear and module.weight.device.type == "cpu":
                module.__class__ = FewTokensLinear


def rounded_up(tokens: int, model: PreTrainedModel) -> int:
    """Return how many tokens are computed in less time than `tokens`: so many, or some more."""
    more = -(-tokens // _MULTIPLE) * _MULTIPLE
    suited = type(model.get_output_embeddings()) is FewTokensLinear
    return more if suited and tokens > _ANY and _is_faster(more) else tokens


def _is_faster(tokens: int) -> bool:
    if torch.get_num_threads() < 2:
        return False
    return _FEWEST <= tokens <= _ANY or (tokens <= _MOST and tokens % _MULTIPLE == 0)
