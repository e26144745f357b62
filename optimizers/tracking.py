"""What MLflow's autologging cannot see by itself: an optimizer's settings, and the numbers of its steps.

A program that calls `mlflow.dspy.autolog(log_compiles=True)` gets them in the run that MLflow keeps for a compilation.
Without such a call nothing is written, and MLflow is never imported from here.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping
from typing import Any

from agemem_dspy.optimizers.resume import flat, settings_of
from agemem_dspy.rewards import TrajectoryReward

logger = logging.getLogger(__name__)

_LONGEST_NAME = 250  # what MLflow takes
_FOREIGN = re.compile(r"[^\w\-./ ]")  # what it refuses in a name; a policy may call a tool anything


class Tracked:
    """An optimizer whose settings MLflow is told.

    It stands beside `Teleprompter`, not between: autologging patches the direct subclasses of that.
    """

    metric: TrajectoryReward

    def get_params(self) -> dict[str, Any]:
        """Return the settings as plain values, in a dict of its own: MLflow adds to it."""
        return {**settings_of(self), "reward": self.metric.describe()}

    def log_params(self) -> None:
        """Write the settings into MLflow's run, under the optimizer's name: the phases of a compilation share one."""
        name = type(self).__name__
        _log("log_params", {f"{name}.{key}": value for key, value in flat(self.get_params())})


def log_step(line: Mapping[str, Any]) -> None:
    """Write the numbers of a step into MLflow's run, under the phase's name.

    Args:
        line: as `on_step` is given it.
    """
    numbers = {
        _FOREIGN.sub("_", f"{line['phase']}.{name}")[:_LONGEST_NAME]: float(value)
        for name, value in flat(line)
        if isinstance(value, int | float) and not isinstance(value, bool) and name not in ("step", "steps")
    }
    _log("log_metrics", numbers, step=line["step"])


def _log(function: str, values: Mapping[str, Any], **options: Any) -> None:
    """Call a function of MLflow if its autologging has a run; what it refuses is a warning, and no reason to stop."""
    mlflow: Any = sys.modules.get("mlflow")
    utils: Any = sys.modules.get("mlflow.utils.autologging_utils")
    if mlflow is None or utils is None or utils.autologging_is_disabled("dspy"):
        return
    if not utils.get_autologging_config("dspy", "log_compiles", False) or mlflow.active_run() is None:
        return
    try:
        getattr(mlflow, function)(values, **options)
    except mlflow.MlflowException as error:
        logger.warning("MLflow did not take what %s was given: %s", function, error)
