"""TFNO: an FNO whose spectral weights are one low-rank tensor, per layer or for all layers together.

    y = project( block_L( ... block_1( lift(u) ) ) ),     K_l v (x) = sum_k W_l(k) v_hat(k) exp(2 pi i k . x/L) + b_l

with W_l or, jointly, the tensor of all W_l in Tucker, canonical (CP) or tensor-train form
(`opkernels.layers.factorizations`). Everything else is the FNO of the same options, so that the two
can be compared at an equal backbone.

Reference: Kossaifi, Kovachki, Azizzadenesheli, Anandkumar, "Multi-Grid Tensorized Fourier Neural
Operator for High-Resolution PDEs", TMLR 2024, arXiv 2310.00120.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from opkernels.domains import Domain
from opkernels.layers.factorizations import CPWeight, Rank, TTWeight, TuckerWeight, factorized_weight
from opkernels.layers.spectral import DenseWeight, SpectralConv
from opkernels.layers.tensorized import FactorizedWeight
from opkernels.models.backbone import Backbone, Block
from opkernels.models.checks import check_size
from opkernels.models.fno import FNO, mode_set

__all__ = ["TFNO", "tensorize"]

W = TypeVar("W", bound=nn.Module)


class TFNO(Backbone):
    """Tensorized Fourier neural operator.

    Parameters
    ----------
    domain, in_channels, out_channels, n_modes, hidden_channels, n_layers
        As in `FNO`.
    rank : float, int or sequence of int
        Share of the dense weights' entries in (0, 1] (good values .01 to .5), or the ranks themselves in
        the order [layers,] input, output, axes (`opkernels.layers.factorizations.resolve_rank`).
    factorization : {"tucker", "cp", "tt"}
        Form of the weights.
    joint : bool
        One tensor (layers, input, output, modes) instead of one per layer: fewer parameters for the same ranks.
    n_parameters, activation, norm, positional_embedding, domain_padding, lifting_channel_ratio, projection_channel_ratio, block, mode_rule
        As in `FNO`.

    Raises
    ------
    ValueError
        As for `FNO`; also if the factorization is unknown or the rank is below one or above full.

    Examples
    --------
    >>> import torch
    >>> model = TFNO(Domain.periodic(1.0, 1.0), 1, 2, n_modes=(8, 8), hidden_channels=8, n_layers=2, joint=True)
    >>> model(torch.zeros(3, 1, 33, 48)).shape
    torch.Size([3, 2, 33, 48])
    """

    def __init__(
        self,
        domain: Domain,
        in_channels: int,
        out_channels: int,
        *,
        n_modes: Sequence[int],
        rank: Rank = 0.1,
        factorization: str = "tucker",
        joint: bool = False,
        hidden_channels: int = 32,
        n_layers: int = 4,
        n_parameters: int = 0,
        activation: str = "gelu",
        norm: str | None = None,
        positional_embedding: str | None = "walls",
        domain_padding: float | Sequence[float] = 0,
        lifting_channel_ratio: float = 2,
        projection_channel_ratio: float = 2,
        block: Block | Mapping = Block(),  # noqa: B008 frozen
        mode_rule: str = "symmetric",
    ):
        check_size("TFNO", "hidden_channels", hidden_channels)
        check_size("TFNO", "n_layers", n_layers)
        modes = mode_set(domain, n_modes, mode_rule)
        std, shape = hidden_channels**-0.5, (hidden_channels, hidden_channels, *modes.shape)
        if joint:
            tensor = factorized_weight((n_layers, *shape), rank=rank, factorization=factorization, std=std, joint=True)
            weights = [FactorizedWeight(tensor, layer) for layer in range(n_layers)]
        else:
            tensor = None
            weights = [FactorizedWeight(factorized_weight(shape, rank=rank, factorization=factorization, std=std)) for _ in range(n_layers)]
        super().__init__(
            domain,
            in_channels,
            out_channels,
            hidden_channels=hidden_channels,
            convs=[SpectralConv(hidden_channels, hidden_channels, n_modes, modes=modes, weight=weight) for weight in weights],
            n_parameters=n_parameters,
            activation=activation,
            norm=norm,
            positional_embedding=positional_embedding,
            domain_padding=domain_padding,
            lifting_channel_ratio=lifting_channel_ratio,
            projection_channel_ratio=projection_channel_ratio,
            block=block,
        )
        self.joint_weight: nn.Module | None = tensor


def tensorize(model: FNO, rank: Rank, *, factorization: str = "tucker", joint: bool = False) -> tuple[TFNO, float]:
    """Factorize the spectral weights of a trained FNO.

    Tucker by higher-order orthogonal iteration, TT by successive singular value decompositions, CP by alternating least
    squares (slow, and only a local optimum): tensorly's algorithms.

    Parameters
    ----------
    model : FNO
        Dense; it is left as it is.
    rank, factorization, joint
        As in `TFNO`.

    Returns
    -------
    TFNO
        With the same other weights, in the same mode, on the same device.
    float
        Relative error of the spectral weights, ||W - W'|| / ||W|| over all layers. Fine-tune when it is not small.

    Raises
    ------
    ValueError
        If `model` is not an FNO, or for a bad rank or factorization.

    Examples
    --------
    >>> dense = FNO(Domain.periodic(1.0, 1.0), 1, 1, n_modes=(8, 8), hidden_channels=8, n_layers=2)
    >>> small, error = tensorize(dense, rank=(8, 8, 7, 4))
    >>> error < 1e-5
    True
    """
    if not isinstance(model, FNO):
        raise ValueError(f"tensorize got a {type(model).__name__}; give an FNO, whose spectral weights are dense")
    some = next(model.parameters())
    small = TFNO(model.domain, **vars(model)["arguments"], rank=rank, factorization=factorization, joint=joint).to(some.device, some.dtype)
    rest = {name: value for name, value in model.state_dict().items() if ".conv.weight." not in name}
    small.load_state_dict(rest, strict=False)
    dense = [weight.tensor.detach() for weight in _weights(model, DenseWeight)]
    factorized = _weights(small, FactorizedWeight)
    if joint:
        _decompose(np.stack([_complex(w) for w in dense]), factorized[0].tensor)
    else:
        for weight, w in zip(factorized, dense, strict=True):
            _decompose(_complex(w), weight.tensor)
    kept = [weight.tensor.mode_first(weight.layer, some.dtype).dense().detach() for weight in factorized]
    error = torch.stack([(k.flatten() - w.flatten()).square().sum() for k, w in zip(kept, dense, strict=True)]).sum()
    norm = torch.stack([w.square().sum() for w in dense]).sum()
    return small.train(model.training), (error / norm).sqrt().item()


def _weights(model: Backbone, kind: type[W]) -> list[W]:
    """Return the spectral weights of a model, block after block."""
    return [m for m in model.blocks.modules() if isinstance(m, kind)]


def _complex(tensor: Tensor) -> np.ndarray:
    """Return a dense weight (*modes, C_in, 2, C_out) as complex (C_in, C_out, *modes)."""
    re, im = tensor.detach().cpu().double().unbind(-2)
    return torch.complex(re, im).movedim((-2, -1), (0, 1)).numpy()


def _decompose(values: np.ndarray, tensor: TuckerWeight | CPWeight | TTWeight) -> None:
    """Set the factors of `tensor` to those of the best approximation found of `values`."""
    import tensorly
    from tensorly.decomposition import parafac, tensor_train, tucker

    core: Any  # tensorly's returns are not typed
    factors: Any
    context = tensorly.backend_context  # pyright: ignore[reportAttributeAccessIssue]
    with context("numpy", local_threadsafe=True), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # more components than one of the axes has entries
        if isinstance(tensor, TuckerWeight):
            core, factors = tucker(values, rank=tuple(tensor.core_in_order().shape[:-1]), n_iter_max=20)
            _assign(tensor.core_in_order(), core)
        elif isinstance(tensor, CPWeight):
            weights, factors = parafac(values, rank=tensor.weights.shape[0], n_iter_max=200, init="svd")
            _assign(tensor.weights, weights)
        else:
            factors = list(tensor_train(values, rank=[1, *(a.shape[2] for a in tensor.factors)]).factors)
    for parameter, factor in zip(tensor.factors, factors, strict=True):
        _assign(parameter, factor)


def _assign(parameter: Tensor, values: np.ndarray) -> None:
    with torch.no_grad():
        parameter.copy_(torch.view_as_real(torch.as_tensor(np.ascontiguousarray(values, dtype=np.complex128))))
