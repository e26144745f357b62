"""A world of one action, for tests of what is around worlds; the real ones are tested on their backends."""

from __future__ import annotations

from agemem_dspy.environments import Environment, Observation, StepResult


class Counter(Environment):
    """A world in which one counts to three; `shares` is what it reports as progress."""

    shares = (1 / 3, 2 / 3, 1.0)

    def __init__(self, task: str, *, max_steps: int = 30) -> None:
        super().__init__(f"test:{task}", max_steps=max_steps)

    @property
    def rules(self) -> tuple[str, ...]:
        return ("Say 'more' three times.",)

    def _begin(self, seed: int | None) -> tuple[str, StepResult]:
        self.said = 0
        return "Count to three.", StepResult(Observation("zero", ("more",)), 0.0, 0.0, False)

    def _act(self, action: str) -> StepResult | None:
        if action != "more":
            return None
        self.said += 1
        return StepResult(Observation(str(self.said), ("more",)), 1.0, self.shares[self.said - 1], False)

    def _solve(self) -> tuple[str, ...]:
        return ("more",) * 3
