"""Check a claim of this repository: `python -m benchmarks NAME [--quick]`; without a name, what there is to check.

What learns is measured here (`epsilon`, `weights`, `hospitals`, `silos`, `second_family`, `baselines`,
`direction`, `levers`):
finished runs are lines of `results/NAME.jsonl`, what is missing is run, and a claim is said to hold or not. `--quick`
repeats the smallest part that can fail, beside the files. `page` writes figures and plots into their pages.
All other names are scripts of this folder, with options of their own: `python -m benchmarks aggregation --help`.
"""

import argparse
import runpy
import sys
from pathlib import Path

HERE = Path(__file__).parent
LEARNING = ("epsilon", "weights", "hospitals", "silos", "second_family", "baselines", "direction", "levers", "page")
SCRIPTS = (
    "aggregation",
    "big_adapters",
    "beside_trl",
    "compact",
    "device",
    "ledger",
    "membership",
    "network",
    "network_round",
    "owners",
    "post_quantum",
    "real_models",
    "sampler",
    "scale",
    "session",
    "sweep",
    "trainers",
    "utility",
)


def main() -> int:
    """Run what was named; 1 if a claim does not hold."""
    sys.path.insert(0, str(HERE))  # these scripts import each other by name
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name in SCRIPTS:
        sys.argv = [str(HERE / f"{name}.py"), *sys.argv[2:]]
        runpy.run_path(sys.argv[0], run_name="__main__")
        return 0
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("name", choices=(*LEARNING, *SCRIPTS))
    parser.add_argument("--quick", action="store_true", help="the smallest part that can fail, in a minute or two")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=1e6, help="start no run after this long")
    options = parser.parse_args()
    import claims
    import page
    import tried

    if options.name == "page":
        page.write()
        return 0
    if options.name == "levers":
        said = tried.check(options.quick, options.processes, options.minutes)
    else:
        said = claims.check(options.name, options.quick, options.processes, options.minutes)
    for claim in said:
        sys.stdout.write(f"{'holds' if claim.holds else 'FAILS' if claim.holds is False else 'open '}  {claim.says}\n")
    return int(any(claim.holds is False for claim in said))


if __name__ == "__main__":
    raise SystemExit(main())
