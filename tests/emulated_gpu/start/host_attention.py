"""Attention as the GPU's kernels for it compute it, which have no operators for a CPU."""

import torch
from torch import Tensor

aten = torch.ops.aten


def efficient(q, k, v, bias, compute_log_sumexp, dropout_p=0.0, is_causal=False, *, scale=None):
    """The output of memory-efficient attention."""
    return [_attend(q, k, v, bias, dropout_p, is_causal, scale)]


def flash(q, k, v, dropout_p=0.0, is_causal=False, return_debug_mask=False, *, scale=None):
    """The output of flash attention."""
    return [_attend(q, k, v, None, dropout_p, is_causal, scale)]


def efficient_backward(
    grad,
    q,
    k,
    v,
    bias,
    out,
    log_sumexp,
    seed,
    offset,
    dropout_p,
    wanted,
    is_causal=False,
    *,
    scale=None,
):
    """The gradients of q, k and v. A bias that learns is unknown here."""
    if wanted[3] or dropout_p:
        raise NotImplementedError("attention with dropout, or with a bias that learns")
    return _gradients(grad, q, k, v, bias, is_causal, scale)


def flash_backward(
    grad,
    q,
    k,
    v,
    out,
    log_sumexp,
    starts_q,
    starts_k,
    most_q,
    most_k,
    dropout_p,
    is_causal,
    seed,
    offset,
    *,
    scale=None,
):
    """The gradients of q, k and v."""
    if dropout_p:
        raise NotImplementedError("attention with dropout")
    return _gradients(grad, q, k, v, None, is_causal, scale)


KERNELS = {
    aten._scaled_dot_product_efficient_attention.default: efficient,
    aten._scaled_dot_product_efficient_attention_backward.default: efficient_backward,
    aten._scaled_dot_product_flash_attention.default: flash,
    aten._scaled_dot_product_flash_attention_backward.default: flash_backward,
}


def _attend(q, k, v, bias, dropout_p, is_causal, scale) -> Tensor:
    """The output [rows, heads, T, d] in the dtype of q."""
    if dropout_p:
        raise NotImplementedError("attention with dropout")
    weights = _weights(q, k, bias, is_causal, scale)
    return (weights @ _repeated(v, q)).to(q.dtype)


def _gradients(grad, q, k, v, bias, is_causal, scale) -> list[Tensor]:
    """dV = P' dO. dS = P (dP - sum(P dP)) with dP = dO V'. dQ = s dS K, dK = s dS' Q."""
    factor = q.shape[-1] ** -0.5 if scale is None else scale
    weights, grad = _weights(q, k, bias, is_causal, scale), grad.float()
    of_weights = grad @ _repeated(v, q).mT
    of_scores = weights * (of_weights - (weights * of_weights).sum(-1, keepdim=True))
    of_q = factor * of_scores @ _repeated(k, q)
    of_k, of_v = factor * of_scores.mT @ q.float(), weights.mT @ grad
    return [of_q.to(q.dtype), _summed(of_k, k), _summed(of_v, v)]


def _weights(q, k, bias, is_causal, scale) -> Tensor:
    """The weights [rows, heads, T, S] in fp32."""
    factor = q.shape[-1] ** -0.5 if scale is None else scale
    scores = factor * q.float() @ _repeated(k, q).mT
    if bias is not None:
        scores = scores + bias.float()
    if is_causal:
        later = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        scores = scores.masked_fill(later, -torch.inf)
    return scores.softmax(dim=-1).nan_to_num()  # a row that sees nothing gets nothing


def _repeated(value: Tensor, q: Tensor) -> Tensor:
    """Keys or values in fp32, once for each head of q."""
    return value.float().repeat_interleave(q.shape[1] // value.shape[1], dim=1)


def _summed(gradient: Tensor, value: Tensor) -> Tensor:
    """A gradient for each head of q, as one for each head of a key or value."""
    groups = gradient.unflatten(1, (value.shape[1], -1))
    return groups.sum(2).to(value.dtype)
