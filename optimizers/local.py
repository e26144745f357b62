"""What weight optimizers need of a student: a local policy behind its one LM."""

from __future__ import annotations

import dspy

from agemem_dspy.errors import ConfigurationError
from agemem_dspy.policy.engine import PolicyEngine
from agemem_dspy.policy.lm import policy_engine


def program_lm(student: dspy.Module) -> dspy.LM:
    """Return the LM that the student's predictors use: their own, or DSPy's configured one.

    Raises:
        ConfigurationError: there is none, or the predictors use several.
    """
    lms = {id(lm): lm for lm in (predictor.lm or dspy.settings.lm for predictor in student.predictors())}
    found = list(lms.values())
    if not found or found[0] is None:
        raise ConfigurationError("no LM is set; call dspy.configure(lm=…) or program.set_lm(…)")
    if len({lm.model for lm in found}) > 1:
        raise ConfigurationError("the student's predictors use several LMs; training needs one: program.set_lm(lm)")
    return found[0]


def local_policy(student: dspy.Module) -> tuple[dspy.LM, PolicyEngine]:
    """Return the student's LM and the engine behind it.

    Raises:
        ConfigurationError: the LM is not served by this process.
    """
    lm = program_lm(student)
    engine = policy_engine(lm)
    if engine is None:
        raise ConfigurationError(
            f"{lm.model!r} is not a local policy, so its weights cannot be trained; "
            'use agemem_dspy.local_lm("smollm2-135m"), or compile prompts only with phases=("prompts",)'
        )
    return lm, engine
