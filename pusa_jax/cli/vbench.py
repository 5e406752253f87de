"""The command `pusa-jax vbench`: its flags, and `score`, which adds up what VBench has found."""

import argparse
from pathlib import Path

SCORE_EPILOG = """examples:
  pusa-jax vbench score evaluation_results                 (the folder that VBench writes)
  pusa-jax vbench score a_eval_results.json b_eval_results.json --name mine"""


def add_score_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `pusa-jax vbench score`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = SCORE_EPILOG
    add = parser.add_argument
    add("results", nargs="+", help="NAME_eval_results.json of VBench, or a folder of them")
    add("--name", default="this run", help="of the model, in the table (default: this run)")
    parser.set_defaults(run=run_score)


def run_score(args: argparse.Namespace) -> int:
    """Prints the published total beside the paper's rows."""
    from pusa_jax.vbench.published import table
    from pusa_jax.vbench.score import read_scores, total_of

    scores = read_scores(map(Path, args.results))
    print(table(args.name, scores, total_of(scores)))
    return 0
