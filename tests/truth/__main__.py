"""`python -m tests.truth`: runs the truth suite and writes docs/truth.json and docs/truth.md. `make truth` does it.

--tasks, --methods, --permutations and --labels run a part, which is printed and written nowhere.
"""

import argparse
import json
import os

os.environ.setdefault("MLX_DISABLE_COMPILE", "1")

from scripts import make_truth_page
from tests.truth import suite
from tests.truth.methods import METHODS
from tests.truth.tasks import TASKS


def main() -> None:
    """Runs what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--permutations", type=int, default=suite.PERMUTATIONS)
    parser.add_argument("--labels", type=int, default=suite.LABEL_PERMUTATIONS)
    asked = parser.parse_args()
    found = suite.run(
        tasks=asked.tasks,
        methods=asked.methods,
        permutations=asked.permutations,
        label_permutations=asked.labels,
    )
    if vars(asked) != vars(parser.parse_args([])):
        print(json.dumps(found, indent=1))
        return
    make_truth_page.write(found)
    print(f"{make_truth_page.PAGE}, {found['seconds']:.0f} s")


if __name__ == "__main__":
    main()
