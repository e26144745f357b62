"""The bench: experiments as small files, played cell by cell, told as tables with intervals and paired tests.

`experiment` says what is compared, `budget` what it costs, `runner` plays it into a `folder`, `judging` and `results`
score the rows, `report`, `plot` and `compare` tell them, `published` has the paper's numbers.
"""

from agemem_dspy.bench.experiment import Experiment, load_experiment, shipped
from agemem_dspy.bench.runner import Bench

__all__ = ["Bench", "Experiment", "load_experiment", "shipped"]
