r"""How far to trust a surrogate: bands calibrated on held-out samples at one resolution, and what they cover at others.

`calibrate` asks a surrogate, or an ensemble, for samples it was not trained on and keeps their scores (`opkernels.evaluation.conformal`).
From them come, for any coverage, a bound of the relative L2 error and, of an ensemble, a band around its mean that follows its
spread. `measure_coverage` counts on other samples, at other resolutions, how often they hold the truth.

| number         | meaning                                                                                | best               |
| -------------- | -------------------------------------------------------------------------------------- | ------------------ |
| `coverage`     | share of samples whose truth is in the band (on a share of the domain, in each field)  | what was asked for |
| `spread_skill` | root of (M + 1)/M <sigma²> over <(m - r)²>, means over domain and samples, each field  | 1; below: too sure |
| `crps`         | continuous ranked probability score, in units of the field                             | small              |

The coverage is owed where calibration and new samples are exchangeable, at the calibration's resolution, and at any other where
the scores have the same distribution: for functions that both grids resolve, and an operator that is the same on both, they are even
equal. It fails, measurably, for data of another kind, on grids too coarse for the functions, and for operators that change with the grid.

References
----------
T. Gneiting, A. Raftery, J. Am. Stat. Assoc. 102 (2007) 359 (the score). C. Ferro, Q. J. R. Meteorol. Soc. 140 (2014) 1917 (fair for few
members). V. Fortin et al., J. Hydrometeorol. 15 (2014) 1708 (spread over skill).
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from opkernels.datasets.trajectories import Trajectories
from opkernels.domains import Grid
from opkernels.evaluation.conformal import (
    band_scale,
    conformal_quantile,
    coverage_spread,
    domain_mean,
    norm_score,
    oversampled,
    pointwise_score,
)
from opkernels.evaluation.evaluate import Plan, parse_resolution
from opkernels.evaluation.report import by
from opkernels.resample import resample
from opkernels.sphere import SphereGrid
from opkernels.storage import write_text
from opkernels.surrogate import Surrogate
from opkernels.surrogate.ensemble import Ensemble, mean_and_spread

if TYPE_CHECKING:
    import xarray

__all__ = ["Calibration", "calibrate", "crps", "measure_coverage"]

_BATCH_POINTS = 2**19
_FILE = "calibration.json"
_FORMAT = "opkernels calibration 1"


@dataclass(frozen=True)
class Calibration:
    """The scores of held-out samples, from which bands of any coverage are read.

    Parameters
    ----------
    norm : Tensor, (n, T)
        Relative L2 errors of the samples after 1 .. T steps (T = 1 for a direct map).
    pointwise : Tensor, (n, T), or None
        How many times the ensemble's spread holds the error; None for a single surrogate.
    resolution : tuple of int
        Of the grid they were found on.
    share : float
        Of the domain that the pointwise band holds at once.
    shrinkage : float
        Of the spread (`band_scale`).
    """

    norm: Tensor
    pointwise: Tensor | None
    resolution: tuple[int, ...]
    share: float = 0.95
    shrinkage: float = 0.5

    def __len__(self) -> int:
        return len(self.norm)

    def error_bound(self, coverage: float) -> Tensor:
        """Return the relative L2 error that a new sample stays below with this probability, (T,), one for each lead time.

        With q below 1, the truth is then within q/(1 - q) ||p|| of the prediction p, a radius that is known without the truth.
        """
        return conformal_quantile(self.norm, coverage)

    def factor(self, coverage: float) -> Tensor:
        """Return how many times the (shrunk) spread makes the band of this coverage, (T,).

        Raises
        ------
        ValueError
            If a single surrogate was calibrated, which has no spread.
        """
        if self.pointwise is None:
            raise ValueError("a single surrogate has no spread and no pointwise band; calibrate an ensemble, or ask for error_bound")
        return conformal_quantile(self.pointwise, coverage)

    def band(
        self, mean: Tensor, spread: Tensor, grid: Grid | SphereGrid, *, coverage: float = 0.9, frame: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Return the lower and the upper function between which the truth is, on a share of the domain, with this probability.

        Parameters
        ----------
        mean, spread : Tensor, (B, C, *grid.shape)
            As an `Ensemble` answers; at any resolution.
        grid : Grid or SphereGrid
            Where they are sampled.
        coverage : float
            1 - alpha.
        frame : int
            Lead time: 0 for the first frame of a rollout, and for `Ensemble.predict`.

        Returns
        -------
        lower, upper : Tensor, (B, C, *grid.shape)

        Raises
        ------
        ValueError
            If there are too few samples for the coverage, no spread was calibrated, or not for this frame.
        """
        factors = self.factor(coverage)
        if not 0 <= frame < len(factors):
            raise ValueError(f"got frame={frame}, but the calibration holds 0 to {len(factors) - 1}; calibrate with more steps")
        half = factors[frame].to(mean) * band_scale(spread, grid, self.shrinkage)
        return mean - half, mean + half

    def save(self, folder: Path | str) -> None:
        """Write ``calibration.json`` into a folder, that of the surrogate say; plain numbers."""
        plain = {"format": _FORMAT, "resolution": self.resolution, "share": self.share, "shrinkage": self.shrinkage}
        plain |= {"norm": self.norm.tolist(), "pointwise": None if self.pointwise is None else self.pointwise.tolist()}
        write_text(Path(folder) / _FILE, json.dumps(plain) + "\n")

    @classmethod
    def load(cls, folder: Path | str) -> Calibration:
        """Read what `save` wrote.

        Raises
        ------
        ValueError
            If nothing is there, or it is damaged.
        """
        path = Path(folder) / _FILE
        if not path.is_file():
            raise ValueError(f"there is no calibration {path}; make one with calibrate(...).save, or with opkernels evaluate --coverage")
        try:
            plain = json.loads(path.read_text(encoding="utf-8"))
            if plain.pop("format") != _FORMAT:
                raise ValueError("another format")
            norm = _table(plain["norm"])
            pointwise = None if plain["pointwise"] is None else _table(plain["pointwise"], norm.shape)
            shape = tuple(int(n) for n in plain["resolution"])
            return cls(norm, pointwise, shape, float(plain["share"]), float(plain["shrinkage"]))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is damaged ({error}); calibrate again") from error


def _table(rows, shape: torch.Size | None = None) -> Tensor:
    scores = torch.tensor(rows, dtype=torch.float64)
    if scores.ndim != 2 or scores.shape != (shape or scores.shape):
        raise ValueError("scores of another shape")
    return scores


def calibrate(
    surrogate: Surrogate | Ensemble,
    data: Trajectories,
    *,
    resolution: int | str | Sequence[int] | None = None,
    steps: int | None = None,
    share: float = 0.95,
    shrinkage: float = 0.5,
    batch_size: int | None = None,
) -> Calibration:
    """Return the scores of held-out samples at one resolution.

    Parameters
    ----------
    surrogate : Surrogate or Ensemble
        An ensemble is judged by its mean, and gets a pointwise band as well.
    data : Trajectories
        Samples that were not trained on, drawn like those the bands are for. For a coverage of 0.9 at least 9, and better 100: with
        n of them the coverage is right on average and off by about sqrt(0.09/n) for the n at hand (`coverage_spread`).
    resolution : int, str or sequence of int, optional
        By default that of the training, or of the data.
    steps : int, optional
        Length of the rollout in frames, each with its own band; by default as long as the data.
    share, shrinkage : float
        See `pointwise_score` and `band_scale`.
    batch_size : int, optional
        Samples at once.

    Raises
    ------
    ValueError
        If the data do not fit the surrogate, or a number is out of range.

    Notes
    -----
    Samples that chose the weights to keep (the validation samples of a training) are a little too kind to them; strictly, calibrate
    on others.

    Examples
    --------
    An error bound that nine new samples of ten keep, at every resolution that resolves them::

        calibration = calibrate(surrogate, held_out)
        print(calibration.error_bound(0.9))
    """
    ensemble = _ensemble(surrogate)
    shape = parse_resolution(ensemble.members[0].training_shape or data.shape if resolution is None else resolution, data.domain.ndim)

    def measure(answers: Tensor, truth: Tensor, grid: Grid | SphereGrid) -> dict[str, Tensor]:
        return _scores(answers, truth, grid, share, shrinkage)

    found = _collect(ensemble, data, shape, steps, batch_size, measure)
    return Calibration(found["norm"], found.get("pointwise"), shape, share, shrinkage)


def measure_coverage(
    surrogate: Surrogate | Ensemble,
    calibration: Calibration,
    data: Trajectories,
    resolutions: Sequence[int | str | Sequence[int]],
    *,
    coverage: float = 0.9,
    steps: int | None = None,
    batch_size: int | None = None,
) -> xarray.Dataset:
    """Return how often calibrated bands hold the truth, at any list of resolutions.

    Parameters
    ----------
    surrogate, calibration
        What was calibrated, and its scores.
    data : Trajectories
        Other samples, at least as fine as the finest resolution.
    resolutions : sequence
        As for `opkernels.evaluate`.
    coverage : float
        1 - alpha.
    steps : int, optional
        Length of the rollout; by default as long as the data, at most as long as calibrated.
    batch_size : int, optional
        Samples at once.

    Returns
    -------
    xarray.Dataset
        `coverage` (band, resolution, time), the bands "norm" and "pointwise" (NaN for a single surrogate); `rel_l2` (resolution, time) of
        the mean of the members, averaged over samples; `error_bound` (time); `crps` and `spread_skill` (resolution, time, field).
        Attributes: what was asked for (`asked`), what is expected of so many samples (`expected`) and its standard
        deviation (`deviation`), the numbers of samples, the calibration's resolution.

    Raises
    ------
    ValueError
        If there are too few calibration samples for the coverage, or anything does not fit.
    """
    ensemble = _ensemble(surrogate)
    if len(ensemble) > 1 and calibration.pointwise is None:
        raise ValueError("the calibration is of a single surrogate, but an ensemble was given; calibrate the ensemble")
    bounds = {"norm": calibration.error_bound(coverage)}
    if len(ensemble) > 1:
        bounds["pointwise"] = calibration.factor(coverage)
    shapes = list(dict.fromkeys(parse_resolution(value, data.domain.ndim) for value in resolutions))
    if not shapes:
        raise ValueError("measure_coverage got no resolutions; give at least one")
    steps = _steps(ensemble, calibration, data, steps)

    def measure(answers: Tensor, truth: Tensor, grid: Grid | SphereGrid) -> dict[str, Tensor]:
        return _scores(answers, truth, grid, calibration.share, calibration.shrinkage) | _skill(answers, truth, grid)

    found = [_collect(ensemble, data, shape, steps, batch_size, measure) for shape in shapes]
    return _dataset(ensemble, calibration, data, shapes, found, bounds, coverage)


def crps(answers: Tensor, truth: Tensor) -> Tensor:
    r"""Continuous ranked probability score of the members at every point, fair for few of them: (M, ...) and (...) to (...).

    .. math:: \frac1M \sum_i |u_i - r| - \frac1{2 M (M - 1)} \sum_{i,j} |u_i - u_j|

    Its mean is least for members drawn from the distribution of the truth; for one member it is the absolute error.
    """
    M = len(answers)
    error = (answers - truth).abs().mean(0)
    if M == 1:
        return error
    rank = torch.arange(M, dtype=answers.dtype, device=answers.device).reshape(-1, *[1] * truth.ndim)
    pairs = ((2 * rank - (M - 1)) * answers.sort(0).values).sum(0)  # half the sum over i, j of |u_i - u_j|
    return error - pairs / (M * (M - 1))


def _ensemble(surrogate: Surrogate | Ensemble) -> Ensemble:
    return surrogate if isinstance(surrogate, Ensemble) else Ensemble([surrogate])


def _steps(ensemble: Ensemble, calibration: Calibration, data: Trajectories, steps: int | None) -> int | None:
    """Return the length of the rollout: what is asked, or what both data and calibration hold."""
    if ensemble.members[0].dt is None:
        return steps
    known = calibration.norm.shape[1]
    if steps is not None and steps > known:
        raise ValueError(f"got steps={steps}, but the calibration holds {known}; calibrate with more, or ask for fewer")
    longest = len(Plan.make(ensemble.members[0], data, [data.shape], None).lead)
    return min(longest, known) if steps is None else steps


def _collect(
    ensemble: Ensemble,
    data: Trajectories,
    shape: tuple[int, ...],
    steps: int | None,
    batch_size: int | None,
    measure: Callable[[Tensor, Tensor, Grid | SphereGrid], dict[str, Tensor]],
) -> dict[str, Tensor]:
    """Return what `measure` says of the members' answers (M, B, C, *shape) and the truth, stacked: (sample, time, ...)."""
    plan = Plan.make(ensemble.members[0], data, [shape], steps)
    plans = [dataclasses.replace(plan, surrogate=member) for member in ensemble.members]
    view, batches = data.at(*shape), []
    size = batch_size or max(1, _BATCH_POINTS // math.prod(oversampled(view.grid).shape))
    for rows in plan.batches(shape, size):
        frames = zip(*(p.predictions(view, rows) for p in plans), strict=True)
        found = [
            measure(torch.stack(answers).double(), plan.truth(view, rows, frame).double(), view.grid)
            for answers, frame in zip(frames, plan.frames, strict=True)
        ]
        batches.append({name: torch.stack([f[name] for f in found], dim=1) for name in found[0]})
    return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}


def _scores(answers: Tensor, truth: Tensor, grid: Grid | SphereGrid, share: float, shrinkage: float) -> dict[str, Tensor]:
    found = {"norm": norm_score(answers.mean(0), truth, grid)}
    if len(answers) > 1:
        fine = oversampled(grid)
        mean, spread = mean_and_spread(resample(answers, grid, fine))
        found["pointwise"] = pointwise_score(mean, band_scale(spread, fine, shrinkage), resample(truth, grid, fine), fine, share)
    return {name: score.nan_to_num(nan=math.inf, posinf=math.inf) for name, score in found.items()}


def _skill(answers: Tensor, truth: Tensor, grid: Grid | SphereGrid) -> dict[str, Tensor]:
    """Means over the domain, (B, C): score, variance of the members and square of the mean's error."""
    mean, spread = mean_and_spread(answers)
    parts = {"crps": crps(answers, truth), "variance": spread**2, "square": (mean - truth) ** 2}
    return {name: domain_mean(part, grid) for name, part in parts.items()}


def _dataset(
    ensemble: Ensemble,
    calibration: Calibration,
    data: Trajectories,
    shapes: Sequence[tuple[int, ...]],
    found: Sequence[dict[str, Tensor]],
    bounds: dict[str, Tensor],
    coverage: float,
) -> xarray.Dataset:
    import xarray

    one = ensemble.members[0]
    steps = found[0]["norm"].shape[1]
    M, missing = len(ensemble), np.full((len(found), steps), np.nan)
    covered = {name: np.stack([(f[name] <= q[:steps]).double().mean(0).numpy() for f in found]) for name, q in bounds.items()}
    ratio = [((M + 1) / M * f["variance"].mean(0) / f["square"].mean(0)).sqrt().numpy() if M > 1 else np.nan * f["crps"][0] for f in found]
    variables = {
        "coverage": (("band", "resolution", "time"), np.stack([covered.get(name, missing) for name in ("norm", "pointwise")])),
        "rel_l2": (("resolution", "time"), np.stack([f["norm"].mean(0).numpy() for f in found])),
        "error_bound": (("time",), bounds["norm"][:steps].numpy()),
        "spread_skill": (("resolution", "time", "field"), np.stack(ratio)),
        "crps": (("resolution", "time", "field"), np.stack([f["crps"].mean(0).numpy() for f in found])),
    }
    lead = [0.0] if one.dt is None else [one.dt * j for j in range(1, steps + 1)]
    coordinates = {"band": ["norm", "pointwise"], "resolution": [by(s) for s in shapes], "time": lead, "field": list(one.outputs)}
    expected, deviation = coverage_spread(len(calibration), len(data), coverage)
    attributes = {"asked": coverage, "expected": expected, "deviation": deviation, "share": calibration.share, "members": M}
    attributes |= {"samples": len(data), "calibration_samples": len(calibration), "calibration_resolution": by(calibration.resolution)}
    return xarray.Dataset(variables, coordinates, attributes)
