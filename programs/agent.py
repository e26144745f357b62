"""AgeMemAgent: a ReAct-style module that manages its own memory with six tools."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, get_args

import dspy
from dspy.adapters.utils import annotation_allows_none, format_field_value
from dspy.signatures.signature import ensure_signature

from agemem_dspy.errors import ConfigurationError
from agemem_dspy.memory.long_term import LongTermMemory
from agemem_dspy.memory.short_term import ShortTermMemory, approximate_tokens
from agemem_dspy.programs.overflow import OnOverflow
from agemem_dspy.programs.program import Program
from agemem_dspy.programs.session import Play, Session, arun, run
from agemem_dspy.programs.single_call import rendered_by
from agemem_dspy.signatures import OPERATIONS, MemoryOperation, WriteSummary, step_signature
from agemem_dspy.tools import MemoryToolkit
from agemem_dspy.types import Stage


class AgeMemAgent(Program):
    """Fulfils a signature, remembering across calls and processes.

    Each call shows the agent its inputs and what it already stores about them, then lets it call tools until
    it answers. One predictor, `step`, makes every decision: that is what optimizers train.

    Args:
        signature: the task, "question -> answer" or any class signature.
        memory: the long-term store; a private one that dies with the process when left out.
        tools: further tools, functions or `dspy.Tool`s.
        memory_tools: which of the six memory tools it has, by name; all when left out.
        max_rounds: LM calls allowed in one turn (5 in the authors' code).
        max_context_tokens: T_max (8192 in the paper).
        recall_top_k: memories shown by the automatic recall (3 in the paper).
        filter_threshold: theta_f of `filter_context` (0.6 in the paper).
        on_overflow: what the system does before a prompt exceeds max_context_tokens or a local policy's window:
            "drop_oldest" takes the oldest messages out, "summarize" lets the LM write a summary in their place,
            "error" ends the turn. Logged as its own doing, which earns and costs no reward; see `OverflowGuard`.
        adapter: renders steps; DSPy's configured one when left out. Local policies use `CompactAdapter`.

    Example:
        >>> agent = AgeMemAgent("question -> answer", memory=LongTermMemory.open("memories/"))
        >>> agent(question="I am vegan. Book me a table.", user_id="ana").answer
    """

    def __init__(
        self,
        signature: str | type[dspy.Signature],
        *,
        memory: LongTermMemory | None = None,
        tools: Iterable[Callable[..., Any] | dspy.Tool] = (),
        memory_tools: Sequence[str] = tuple(OPERATIONS),
        max_rounds: int = 5,
        max_context_tokens: int = 8192,
        recall_top_k: int = 3,
        filter_threshold: float = 0.6,
        on_overflow: OnOverflow = "drop_oldest",
        adapter: dspy.Adapter | None = None,
    ) -> None:
        super().__init__()
        if max_rounds < 1 or max_context_tokens < 1 or recall_top_k < 1:
            raise ConfigurationError("max_rounds, max_context_tokens and recall_top_k must be at least 1")
        if not -1.0 <= filter_threshold <= 1.0:
            raise ConfigurationError("filter_threshold is a cosine: give a number between -1 and 1")
        unknown = [name for name in memory_tools if name not in OPERATIONS]
        if unknown:
            raise ConfigurationError(f"there is no memory tool {unknown[0]!r}; choose some of {', '.join(OPERATIONS)}")
        if on_overflow not in get_args(OnOverflow):
            raise ConfigurationError(
                f"on_overflow must be one of {', '.join(get_args(OnOverflow))}, not {on_overflow!r}"
            )
        self.signature = ensure_signature(signature)
        if "user_id" in self.signature.input_fields:
            raise ConfigurationError("rename the input field 'user_id': it names whose memory is used")
        self.max_rounds, self.max_context_tokens = max_rounds, max_context_tokens
        self.recall_top_k, self.filter_threshold = recall_top_k, filter_threshold
        self.on_overflow = on_overflow
        self.adapter = adapter
        self.tools = [tool if isinstance(tool, dspy.Tool) else dspy.Tool(tool) for tool in tools]
        self.step = dspy.Predict(step_signature(self.signature))
        self.summarize = dspy.Predict(WriteSummary)
        self.memory_tools = tuple(name for name in OPERATIONS if name in memory_tools)
        self.operations = {name: MemoryOperation(OPERATIONS[name]) for name in self.memory_tools}
        self._memory = memory
        self._opening = threading.Lock()

    @property
    def memory(self) -> LongTermMemory:
        """The long-term store, opened on first use when none was given."""
        with self._opening:
            if self._memory is None:
                self._memory = LongTermMemory.open(":memory:")
            return self._memory

    def __deepcopy__(self, memo: dict[int, Any]) -> AgeMemAgent:
        copied = type(self).__new__(type(self))
        memo[id(self)] = copied
        shared = {"_memory", "_opening", "tools", "adapter", "signature"}
        for name, value in self.__dict__.items():
            copied.__dict__[name] = value if name in shared else copy.deepcopy(value, memo)
        return copied

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        return {**state, "_memory": None, "_opening": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._opening = threading.Lock()

    def session(self, memory: LongTermMemory) -> Session:
        """Begin a conversation over one user's memories."""
        short_term = ShortTermMemory(token_counter(self.step), max_tokens=self.max_context_tokens)
        toolkit = MemoryToolkit(
            memory,
            short_term,
            operations=self.operations,
            tools=self.tools,
            filter_threshold=self.filter_threshold,
        )
        outputs = self.signature.output_fields
        return Session(
            self.step,
            self.summarize,
            toolkit,
            required=[name for name in outputs if not annotation_allows_none(outputs[name].annotation)],
            max_rounds=self.max_rounds,
            recall_top_k=self.recall_top_k,
            on_overflow=self.on_overflow,
        )

    def task_text(self, inputs: Mapping[str, Any]) -> str:
        """Return the message that states the task: a lone input as it is, several as `name: value` lines.

        Inputs that are left out take the signature's default.

        Raises:
            ConfigurationError: an input without a default is missing, or one is unknown.
        """
        return task_message(self.signature, inputs)

    def context(self) -> Any:
        """Return the DSPy context in which this agent's predictors run."""
        return rendered_by(self.adapter)

    def forward(self, user_id: str = "default", **inputs: Any) -> dspy.Prediction:
        """Answer one request for one user.

        Returns:
            a Prediction with the signature's outputs (None where the agent never answered) and `trajectory`.
        """
        session = self.session(self.memory.scoped(user_id))
        with self.context():
            run(self._play(session, inputs))
        return self.prediction(session)

    async def aforward(self, user_id: str = "default", **inputs: Any) -> dspy.Prediction:
        """`forward`, awaiting the LM, asynchronous tools and the long-term store."""
        session = self.session(await self.memory.ascoped(user_id))
        with self.context():
            await arun(self._play(session, inputs))
        return await session.toolkit.long_term.awaited(partial(self.prediction, session))

    def _play(self, session: Session, inputs: Mapping[str, Any]) -> Play:
        return session.turn(Stage.REASON, 0, self.task_text(inputs), recall=True, must_answer=True)

    def prediction(self, session: Session) -> dspy.Prediction:
        """Return a finished session as a Prediction."""
        trajectory = session.trajectory()
        answer = trajectory.answer or {}
        outputs = {name: answer.get(name) for name in self.signature.output_fields}
        return dspy.Prediction(**outputs, trajectory=trajectory)


def task_message(signature: type[dspy.Signature], inputs: Mapping[str, Any]) -> str:
    """Return the message that states a task; see `AgeMemAgent.task_text`."""
    fields = signature.input_fields
    given = {name: info.default for name, info in fields.items() if not info.is_required()} | dict(inputs)
    missing, extra = [n for n in fields if n not in given], [n for n in given if n not in fields]
    if missing or extra:
        wrong = f"missing {missing}" if missing else f"unknown {extra}"
        raise ConfigurationError(f"the agent takes the inputs {list(fields)}: {wrong}")
    texts = {name: str(format_field_value(info, given[name])) for name, info in fields.items()}
    return next(iter(texts.values())) if len(texts) == 1 else "\n".join(f"{n}: {text}" for n, text in texts.items())


def token_counter(predictor: dspy.Predict) -> Callable[[str], int]:
    """Return the exact token count of the predictor's LM, or an estimate where its tokenizer is out of reach."""
    lm = predictor.lm or dspy.settings.lm
    counter: Callable[[str], int] | None = getattr(getattr(lm, "engine", None), "count_tokens", None)
    return counter or approximate_tokens
