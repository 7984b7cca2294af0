"""Models of neuraloperator carried over: the same outputs from this package's FNO and TFNO.

neuraloperator is not imported: a live model is read through its state dict, a saved one through
PyTorch's restricted reader, in which every class or function that the file names is replaced by an
inert stand-in. No foreign code runs.

What is theirs and kept: the unpaired wave number of an even `n_modes` on leading axes, the Nyquist
rows of grids with no more samples than modes (unless declined), the ramp j/n as positional embedding,
GELU in the channel MLP whatever the activation. What is wrong there is not reproduced: release 2.0.0
moves every mode by one on odd sizes of a leading axis (fftshift in place of ifftshift), and takes the
neighboring row of the weight on odd sizes below an even `n_modes`.

Reference: https://github.com/neuraloperator/neuraloperator, release 2.0.0.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from opkernels.domains import Domain
from opkernels.models import FNO, TFNO
from opkernels.models.backbone import Block
from opkernels.models.checks import check_domain

__all__ = ["from_neuralop", "read_neuralop"]

# the constructor's arguments whose order the release and the repository share
_POSITIONAL = (
    *("n_modes", "in_channels", "out_channels", "hidden_channels", "n_layers", "lifting_channel_ratio"),
    *("projection_channel_ratio", "positional_embedding", "non_linearity", "norm"),
)
_DEFAULTS = {
    "n_layers": 4,
    "lifting_channel_ratio": 2,
    "projection_channel_ratio": 2,
    "positional_embedding": "grid",
    "norm": None,
    "channel_mlp_expansion": 0.5,
    "channel_mlp_skip": "soft-gating",
    "fno_skip": "linear",
    "preactivation": False,
}
_ONLY = {  # options that exist here with one value only
    "use_channel_mlp": (True,),
    "complex_data": (False,),
    "separable": (False,),
    "domain_padding": (None, 0, 0.0),
    "resolution_scaling_factor": (None,),
    "fno_block_precision": ("full",),
    "stabilizer": (None,),
    "max_n_modes": (None,),
    "conv_bias_kernel": (1,),
    "norm_groups": (1,),
}
_WITHOUT_EFFECT = {  # on the outputs, given the weights
    *("rank", "factorization", "fixed_rank_modes", "implementation", "decomposition_kwargs"),
    *("channel_mlp_dropout", "enforce_hermitian_symmetry", "verbose", "_version", "_name", "args"),
}
_ACTIVATIONS = {  # as the functions are named in a file or by themselves
    f"{module}.{name}": name
    for name in ("gelu", "silu", "relu", "tanh", "sin")
    for module in ("torch._C._nn", "torch.nn.functional", "torch")
}


def from_neuralop(model: nn.Module, domain: Domain, *, nyquist: bool = True) -> FNO | TFNO:
    """Return the FNO or TFNO with the same outputs as a model of neuraloperator.

    Parameters
    ----------
    model : neuralop.models.FNO or TFNO
        Dense, Tucker, CP or TT weights, one to any number of axes, any of the skips, norm None,
        "instance_norm" or "group_norm", either order of the activation. Dropout is left out.
    domain : Domain
        The domain of its data, which neuraloperator does not record: one axis per entry of `n_modes`,
        at "node" points if it has the positional embedding "grid".
    nyquist : bool
        Keep its rule for grids with no more samples than modes, where it uses the unpaired Nyquist
        mode. Weights trained on such a grid need it there; False gives an operator that is the same on
        every grid. Both agree on all grids with more samples than modes.

    Returns
    -------
    FNO or TFNO
        In evaluation or training mode as `model` is, float32, on its device.

    Raises
    ------
    ValueError
        If `model` is something else, uses an option that does not exist here, or `domain` does not fit.

    Notes
    -----
    Outputs agree to about 1e-6 on every grid whose leading sizes are even.

    Examples
    --------
    >>> from neuralop.models import FNO as Theirs
    >>> from opkernels import Domain
    >>> model = from_neuralop(Theirs((8, 8), 1, 1, 8), Domain.periodic(1.0, 1.0))
    >>> type(model).__name__
    'FNO'
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"got a {type(model).__name__}; from_neuralop takes a neuralop.models.FNO or TFNO")
    state = model.state_dict()
    given = state.pop("_metadata", None)
    if not isinstance(given, Mapping) or type(model).__name__ not in ("FNO", "TFNO"):
        raise ValueError(f"got a {type(model).__name__}; from_neuralop takes a neuralop.models.FNO or TFNO")
    options = _Options.of(given, None)
    theirs: Any = model  # FNO and TFNO have the attributes below
    if tuple(theirs.n_modes) != options.n_modes:
        raise ValueError(f"the model was built with n_modes={options.n_modes} and set to {tuple(theirs.n_modes)} later; restore them first")
    stored = (*options.n_modes[:-1], options.n_modes[-1] // 2 + 1)  # a convolution counts the halved axis as stored
    for index, conv in enumerate(theirs.fno_blocks.convs):
        if tuple(conv.n_modes) != stored:
            raise ValueError(
                f"convolution {index} of the model was built with n_modes={stored} and set to {tuple(conv.n_modes)} later; "
                "restore them first"
            )
    ours = _build(options, state, domain, nyquist).to(next(iter(state.values())).device)
    return ours.train(model.training)


def read_neuralop(path: str | PathLike, domain: Domain, *, nyquist: bool = True, activation: str | None = None) -> FNO | TFNO:
    """Return the FNO or TFNO saved in a ``*_state_dict.pt`` file of neuraloperator, without running code from the file.

    Parameters
    ----------
    path : str or path
        Written by ``model.save_checkpoint(folder, name)`` as ``name_state_dict.pt``, or ``torch.save(model.state_dict(), path)``.
    domain, nyquist
        As in `from_neuralop`.
    activation : str, optional
        The activation it was trained with, where the file does not say ("gelu", "silu", "relu", "tanh", "sin").

    Raises
    ------
    ValueError
        As `from_neuralop`; also if there is no such file, it does not hold a state dict of neuraloperator 2, or it does
        not name an activation that we know and none is given.
    """
    state = _restricted_load(Path(path))
    given = state.pop("_metadata", None) if isinstance(state, dict) else None
    if not isinstance(given, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path} does not hold a state dict of neuraloperator 2.0; give the file that ends in _state_dict.pt")
    if given.get("_name") not in ("FNO", "TFNO"):
        raise ValueError(f"{path} holds a {given.get('_name')}; only FNO and TFNO are carried over")
    return _build(_Options.of(given, activation), state, domain, nyquist).eval()


class _StandIn:
    """Takes the place of whatever a file names; does nothing."""

    def __init__(self, *args, **kwargs):
        pass


def _restricted_load(path: Path):
    if not path.is_file():
        raise ValueError(f"there is no file {path}; give the _state_dict.pt file of a checkpoint")
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        with torch.serialization.safe_globals([(type(name, (_StandIn,), {}), name) for name in names]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what a foreign file can raise has no end
        raise ValueError(f"{path} cannot be read as a PyTorch file of tensors; save the model's state dict again") from error


@dataclass(frozen=True)
class _Options:
    """What a model of neuraloperator was built with, as plain data."""

    n_modes: tuple[int, ...]
    in_channels: int
    out_channels: int
    hidden_channels: int
    n_layers: int
    lifting_channel_ratio: float
    projection_channel_ratio: float
    positional_embedding: str | None
    norm: str | None
    channel_mlp_expansion: float
    channel_mlp_skip: str | None
    fno_skip: str | None
    preactivation: bool
    activation: str

    @classmethod
    def of(cls, given: Mapping, activation: str | None) -> _Options:
        """Return the options of the constructor's recorded arguments, the positional ones of which win."""
        positional = tuple(given.get("args", ()))
        if len(positional) > len(_POSITIONAL):
            raise ValueError(
                f"the model was built with {len(positional)} positional arguments, whose order differs between versions; name them"
            )
        given = {**given, **dict(zip(_POSITIONAL, positional, strict=False))}
        named = {key: given.pop(key, _DEFAULTS.get(key)) for key in {*_POSITIONAL, *_DEFAULTS} if key != "non_linearity"}
        activation = activation or _activation_of(given.pop("non_linearity", torch.nn.functional.gelu))
        given.pop("non_linearity", None)
        conv = given.pop("conv_module", None)
        if conv is not None and not getattr(conv, "__name__", "").endswith("SpectralConv"):
            raise ValueError("the model has a conv_module of its own, which cannot be carried over; only SpectralConv can")
        for key, value in given.items():
            if key not in _WITHOUT_EFFECT and (key not in _ONLY or value not in _ONLY[key]):
                known = f"; only {key}={_ONLY[key][0]!r} can" if key in _ONLY else ", which is not known here"
                raise ValueError(f"the model was built with {key}={value!r}, which cannot be carried over{known}")
        if not (named["positional_embedding"] in ("grid", None) or _is_unit_ramp(named["positional_embedding"])):
            raise ValueError("the model has a positional_embedding of its own, which cannot be carried over; only 'grid' and None can")
        if named["norm"] not in (None, "instance_norm", "group_norm"):
            raise ValueError(
                f"the model has norm={named['norm']!r}, which cannot be carried over; only None, instance_norm and group_norm can"
            )
        named["positional_embedding"] = None if named["positional_embedding"] is None else "ramps"
        named["n_modes"] = tuple(named["n_modes"]) if not isinstance(named["n_modes"], int) else (named["n_modes"],)
        return cls(**named, activation=activation)


def _is_unit_ramp(embedding: object) -> bool:
    """Whether an embedding is neuraloperator's GridEmbeddingND over the unit box."""
    bounds = getattr(embedding, "grid_boundaries", None)
    return type(embedding).__name__ == "GridEmbeddingND" and bounds is not None and all(tuple(b) == (0, 1) for b in bounds)


def _activation_of(function: object) -> str:
    """Return our name of an activation: a function, or the class that stands in for one in a file."""
    name = getattr(function, "__name__", type(function).__name__)
    for known, ours in _ACTIVATIONS.items():
        module, _, short = known.rpartition(".")
        if name == known or (name == short and getattr(function, "__module__", None) in (module, None) and callable(function)):
            return ours
    raise ValueError(
        f"the model's activation {name} cannot be carried over; we have {', '.join(dict.fromkeys(_ACTIVATIONS.values()))}, and a file "
        "that does not name one of these is read with activation=..."
    )


def _build(options: _Options, state: Mapping[str, Tensor], domain: Domain, nyquist: bool) -> FNO | TFNO:
    """Return our model with the weights of `state`."""
    check_domain("from_neuralop", domain)
    d, width = len(options.n_modes), options.hidden_channels
    if domain.ndim != d:
        raise ValueError(
            f"the model has {d} axes (n_modes={options.n_modes}) and the domain {domain.ndim}; give a domain with one axis for each"
        )
    if options.positional_embedding is not None and any(axis.points != "node" for axis in domain.axes):
        raise ValueError('the model places sample j of n at j/n of an axis; give a domain whose axes have points="node"')
    state = _trimmed(state)
    kind, rank = _factorization(state)
    translated = dict(_translated(key, value, d) for key, value in state.items())
    if int(options.lifting_channel_ratio * width) == 0:
        translated = {name.replace("lifting.first", "lifting"): value for name, value in translated.items()}
    model = (TFNO if kind else FNO)(
        domain,
        options.in_channels,
        options.out_channels,
        n_modes=options.n_modes,
        hidden_channels=width,
        n_layers=options.n_layers,
        activation=options.activation,
        norm=options.norm,
        positional_embedding=options.positional_embedding,
        lifting_channel_ratio=int(options.lifting_channel_ratio * width) / width,
        projection_channel_ratio=int(options.projection_channel_ratio * width) / width,
        block=Block(options.fno_skip, options.channel_mlp_skip, options.channel_mlp_expansion, options.preactivation, "gelu"),
        mode_rule="neuraloperator" if nyquist else "neuraloperator without nyquist",
        **({"factorization": kind, "rank": rank} if kind else {}),
    )
    own = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    wrong = sorted(
        name
        for name in own.keys() | translated.keys()
        if name not in own or name not in translated or own[name] != tuple(translated[name].shape)
    )
    if wrong:
        raise ValueError(
            f"the weights do not fit the recorded arguments: {wrong[0]} differs; the state dict is of another model or version"
        )
    model.load_state_dict(translated)
    return model


def _factorization(state: Mapping[str, Tensor]) -> tuple[str | None, tuple[int, ...] | None]:
    """Return the factorization of the spectral weights and its ranks, from the names and shapes of the first layer's."""
    first = {
        key.removeprefix("fno_blocks.convs.0.weight."): value
        for key, value in state.items()
        if key.startswith("fno_blocks.convs.0.weight.")
    }
    if "core" in first:
        return "tucker", tuple(first["core"].shape)
    if "weights" in first:
        return "cp", tuple(first["weights"].shape)
    links = [first[key].shape[-1] for key in sorted(first, key=_trailing_number) if key.startswith("factors.")]
    return ("tt", tuple(links[:-1])) if links else (None, None)


def _trimmed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensor trains whose links are no longer than full, as theirs may be; the same tensors."""
    trimmed, prefixes = dict(state), {key[: -len("factors.factor_0")] for key in state if key.endswith("weight.factors.factor_0")}
    for prefix in prefixes:
        if prefix + "core" in state or prefix + "weights" in state:
            continue
        names = [f"{prefix}factors.factor_{t}" for t in range(sum(key.startswith(prefix) for key in state))]
        chain = [state[name] for name in names]
        for t in reversed(range(1, len(chain))):  # a matrix with more rows than columns moves one place to the left
            if chain[t].shape[0] > chain[t].shape[1:].numel():
                chain[t - 1] = torch.tensordot(chain[t - 1], chain[t].flatten(1), dims=1)
                chain[t] = torch.eye(chain[t - 1].shape[2]).to(chain[t]).reshape(-1, *chain[t].shape[1:])
        for t in range(len(chain) - 1):  # one with more columns than rows moves to the right
            if chain[t].shape[2] > chain[t].shape[:2].numel():
                chain[t + 1] = torch.tensordot(chain[t].flatten(0, 1), chain[t + 1], dims=1)
                chain[t] = torch.eye(chain[t + 1].shape[0]).to(chain[t]).reshape(*chain[t].shape[:2], -1)
        trimmed |= dict(zip(names, chain, strict=True))
    return trimmed


def _trailing_number(key: str) -> int:
    digits = re.search(r"\d+$", key)
    return int(digits.group()) if digits else -1


_NAMES = [  # theirs -> ours
    (r"(lifting|projection)\.fcs\.0\.(weight|bias)", r"\1.first.\2"),
    (r"(lifting|projection)\.fcs\.1\.(weight|bias)", r"\1.second.\2"),
    (r"fno_blocks\.convs\.(\d+)\.weight\.factors\.factor_(\d+)", r"blocks.\1.conv.weight.tensor.factors.\2"),
    (r"fno_blocks\.convs\.(\d+)\.weight\.(core|weights)", r"blocks.\1.conv.weight.tensor.\2"),
    (r"fno_blocks\.convs\.(\d+)\.(weight\.tensor|bias)", r"blocks.\1.conv.\2"),
    (r"fno_blocks\.fno_skips\.(\d+)\.(?:conv\.)?weight", r"blocks.\1.skip.weight"),
    (r"fno_blocks\.channel_mlp\.(\d+)\.fcs\.0\.(weight|bias)", r"blocks.\1.mlp.first.\2"),
    (r"fno_blocks\.channel_mlp\.(\d+)\.fcs\.1\.(weight|bias)", r"blocks.\1.mlp.second.\2"),
    (r"fno_blocks\.channel_mlp_skips\.(\d+)\.(?:conv\.)?weight", r"blocks.\1.mlp_skip.weight"),
]


def _translated(key: str, value: Tensor, d: int) -> tuple[str, Tensor]:
    """Return our name and layout of one tensor of their state dict."""
    norm = re.fullmatch(r"fno_blocks\.norm\.(\d+)\.(weight|bias)", key)
    if norm:
        block, place = divmod(int(norm[1]), 2)
        return f"blocks.{block}.norms.{place}.{norm[2]}", value
    for theirs, ours in _NAMES:
        if re.fullmatch(theirs, key):
            name = re.sub(theirs, ours, key)
            break
    else:
        raise ValueError(
            f"the state dict holds {key}, which has no counterpart here; it is of another version or an option not carried over"
        )
    if value.is_complex():
        pairs = torch.view_as_real(value.resolve_conj())
        if name.endswith("weight.tensor"):
            pairs = pairs.permute(*range(2, 2 + d), 0, 2 + d, 1).contiguous()
        elif name.endswith("tensor.core"):
            pairs = pairs.movedim((-1, 0, 1), (0, -2, -1)).contiguous()
        return name, pairs
    gate_or_bias = name.endswith("conv.bias") or re.search(r"skips\.\d+\.weight$", key)
    return name, value.reshape(-1) if gate_or_bias else value.reshape(value.shape[:2])
