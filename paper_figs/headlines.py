"""The headline claim of each paper behind the package: claimed, measured here at the scale of a laptop, and whether it holds.

Every number is read from the file that its study or benchmark wrote; the verdict follows from the numbers by the condition beside it.
Each row ends with links: the scripts that measured, and the configuration of the same comparison at the size of the paper.
The table is written into docs/claims.md.

    python paper_figs/headlines.py          (reads paper_figs/*.json and benchmarks/results/*.json; takes no time)
"""

import json
from pathlib import Path
from statistics import mean, median

from studies import rows_of, stored, write_between

ROOT = Path(__file__).parents[1]
PAGE, BEGIN = ROOT / "docs" / "claims.md", "<!-- table: python paper_figs/headlines.py -->"


def study(name):
    return stored(ROOT / "paper_figs" / f"{name}.json")


def benchmark(name):
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())


def verdict(part, whole):
    return "holds" if whole else "in part" if part else "does not hold"


def links(*paths):
    """Return links from the page to files of the repository."""
    return ", ".join(f"[{Path(path).name}](../{path})" for path in paths)


def t1():
    speed = {row["n"]: row["ratio"]["neuraloperator"]["both"] for row in benchmark("t1_speed")}
    rows = study("t1_navier_stokes")
    ours, theirs, coarse = (mean(r["test"] for r in rows_of(rows, f"{name}/90 seconds")) for name in ("T1", "FNO", "FNO on 20 x 20"))
    fast, good = min(speed.values()) >= 3, ours <= 0.8 * theirs  # and not beaten by an FNO on as few numbers as T1 keeps:
    told = ", ".join(f"{ratio:.1f}x at {n} x {n}" for n, ratio in sorted(speed.items()))
    return (
        "T1 (arXiv 2211.14453)",
        "3x to 10x faster than FNO, more on finer grids; over 20 % lower error",
        f"a training step {told} against neuraloperator's FNO of equal size; error at equal CPU time {ours:.3f}, "
        f"FNO {theirs:.3f}, but FNO on 20 x 20 samples, interpolated, {coarse:.3f}",
        verdict(fast or good, fast and good and ours <= coarse),
        links("paper_figs/t1_navier_stokes.py", "benchmarks/t1_speed.py"),
        links("paper_figs/full_scale/t1.yaml"),
    )


def mg_tfno():
    rows = study("tfno_compression")
    error = {name: mean(r["l2"] for r in rows_of(rows, name)) for name in ("dense/500", "50x/500", "150x/500", "dense/200", "150x/200")}
    fewer = rows_of(rows, "dense/500")[0]["spectral_weights"] / rows_of(rows, "150x/500")[0]["spectral_weights"]
    half, better = error["150x/500"] <= 0.5 * error["dense/500"], error["150x/200"] <= error["dense/200"]
    return (
        "MG-TFNO (arXiv 2310.00120)",
        "less than half the error with over 150x fewer weights",
        f"against the same backbone, {fewer:.0f}x fewer: {error['150x/500']:.3f} to {error['dense/500']:.3f} with 500 samples, "
        f"{error['150x/200']:.3f} to {error['dense/200']:.3f} with 200; 52x fewer: {error['50x/500']:.3f} with 500",
        verdict(better, half),
        links("paper_figs/tfno_compression.py"),
        links("paper_figs/full_scale/mg_tfno.yaml"),
    )


def local_no():
    rows = study("local_no_turbulence")
    error = {name: mean(r["errors"]["64"] for r in rows_of(rows, name)) for name in ("LocalNO", "FNO", "FNO, as long")}
    gain = 1 - error["LocalNO"] / error["FNO"]
    return (
        "LocalNO (arXiv 2402.16845)",
        "local layers lower the error of FNO by 34 to 72 %",
        f"turbulence: {error['LocalNO']:.3f} for {error['FNO']:.3f}, {100 * gain:.0f} % lower with as many weights and steps; "
        f"FNO with as much CPU time {error['FNO, as long']:.3f}",
        verdict(gain > 0, gain >= 0.34),
        links("paper_figs/local_no_turbulence.py"),
        links("paper_figs/full_scale/local_no.yaml"),
    )


def sfbc():
    rows, told, first = study("sfbc_bases"), [], []
    for case in ("compressible", "weakly_compressible", "incompressible"):
        error = {
            basis: median(r["mse@64"] for r in rows_of(rows, f"{case}/{basis}")) for basis in ("fourier", "linear", "chebyshev", "radial")
        }
        order = sorted(error, key=error.get)
        told.append(f"{case.replace('_', ' ')}: {', '.join(order)}")
        first.append(order[0] == "fourier")
    return (
        "SFBC (arXiv 2403.16680)",
        "Fourier bases are the best of all",
        "from best to worst after 64 steps, " + "; ".join(told),
        verdict(any(first), all(first)),
        links("paper_figs/sfbc_bases.py"),
        links("paper_figs/full_scale/sfbc.yaml"),
    )


def factformer():
    rows = study("factformer_kolmogorov")
    names = ("FactFormer", "FNO", "FFNO", "U-Net")
    error = {name: {n: mean(r[n]["error"] for r in rows_of(rows, name)) for n in ("64", "256")} for name in names}
    best = min(names, key=lambda name: error[name]["64"])
    return (
        "FactFormer (arXiv 2305.17560)",
        "axial factorized attention is accurate and affordable on fine grids",
        "Kolmogorov flow at equal CPU time, error at 64 and 256: "
        + "; ".join(f"{name} {error[name]['64']:.2f}, {error[name]['256']:.2f}" for name in names),
        verdict(error["FactFormer"]["256"] < error["U-Net"]["256"], best == "FactFormer"),
        links("paper_figs/factformer_kolmogorov.py"),
        links("paper_figs/full_scale/factformer.yaml"),
    )


def compressed_wave():
    rows, memory = study("compressed_wave"), benchmark("compressed_memory")
    dense, cp = (mean(r["l2"] for r in rows_of(rows, name)) for name in ("dense", "cp"))
    fewer = rows_of(rows, "dense")[0]["parameters"] / rows_of(rows, "cp")[0]["parameters"]
    held = memory["cp, recomputed"]["predict"]["tensors MB"] / memory["dense"]["predict"]["tensors MB"]
    return (
        "Compressed wave surrogate (arXiv 2304.04964)",
        "as accurate as dense convolutions, with fewer weights and less memory",
        f"{cp:.3f} for {dense:.3f} with {fewer:.1f}x fewer weights; memory of a prediction {held:.2f} of dense",
        verdict(cp <= 1.05 * dense, cp <= 1.05 * dense and held < 1),
        links("paper_figs/compressed_wave.py", "benchmarks/compressed_memory.py"),
        links("paper_figs/full_scale/compressed_wave.yaml"),
    )


def table():
    """Return the table as Markdown."""
    rows = [family() for family in (t1, mg_tfno, local_no, sfbc, factformer, compressed_wave)]
    lines = ["| paper | claimed | measured here | verdict | by | full scale |", "| --- | --- | --- | --- | --- | --- |"]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def main():
    """Write the table into the page."""
    write_between(PAGE, BEGIN, table())
    print(table())


if __name__ == "__main__":
    main()
