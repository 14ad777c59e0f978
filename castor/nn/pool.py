"""From the vectors of tokens to one vector for each document of a packed batch."""

from __future__ import annotations

import torch


def mean_by_document(x_BTE: torch.Tensor, doc_BT: torch.Tensor) -> torch.Tensor:
    """The mean over each document's tokens, float32 [number of documents, E]; padding (document -1) is left out.

    Documents come row by row, and in a row by their number.
    """
    is_used_X = (doc_BT >= 0).flatten()
    row_B1 = torch.arange(len(doc_BT), device=doc_BT.device).unsqueeze(1)
    key_X = (row_B1 * (doc_BT.max() + 1) + doc_BT).flatten()[is_used_X]
    _, document_X, count_Y = key_X.unique(return_inverse=True, return_counts=True)
    sum_YE = x_BTE.new_zeros(len(count_Y), x_BTE.shape[-1], dtype=torch.float32)
    sum_YE = sum_YE.index_add(0, document_X, x_BTE.flatten(0, 1)[is_used_X].float())
    return sum_YE / count_Y.unsqueeze(1)
