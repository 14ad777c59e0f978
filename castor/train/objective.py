"""The pre-training objective: predict the next token, words and picture codes alike."""

from __future__ import annotations

from collections.abc import Callable

import torch

from castor.models.decoder import Decoder
from castor.nn.losses import IGNORE, cross_entropy
from castor.tokens.batch import Batch


def next_token(
    model: Decoder, first_code: int, code_weight: float = 1.0
) -> Callable[[Batch], tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]]:
    """A loss over every target; picture codes, a drawing's many small choices, count `code_weight` each.

    Metrics: the mean loss in nats and the share guessed right, for text and for codes.
    """

    def loss(batch: Batch) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
        hidden_BTD = model.hidden(batch)
        is_code_BT = batch.target_BT >= first_code
        parts = {
            "text": batch.target_BT.masked_fill(is_code_BT, IGNORE),
            "code": batch.target_BT.masked_fill(~is_code_BT, IGNORE),
        }
        total, count = torch.zeros((), device=hidden_BTD.device), torch.zeros((), device=hidden_BTD.device)
        metrics: dict[str, torch.Tensor] = {}
        for name, target_BT in parts.items():
            cap = model.config.text.final_logit_softcapping
            part = cross_entropy(hidden_BTD, model.output_weight_VD, target_BT, softcap=cap)
            weight = code_weight if name == "code" else 1.0
            total, count = total + weight * part.sum, count + weight * part.count
            metrics |= {
                f"{name}_loss": part.sum.detach(),
                f"{name}_right": part.metrics["correct"],
                f"{name}_loss_count": part.count,
                f"{name}_right_count": part.count,
            }
        return total, count, metrics

    return loss
