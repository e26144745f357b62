"""`agemem run`, one episode step by step, and `agemem eval`, many with a table."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agemem_dspy.cli.models import ModelOption, choose_model, model_errors
from agemem_dspy.cli.output import JsonFlag, Output, keeping, output, write_json
from agemem_dspy.cli.program import (
    DataOption,
    DifficultyOption,
    Method,
    ProgramOption,
    RoundsOption,
    TemperatureOption,
    TokensOption,
    TrustOption,
    chosen_program,
    load_examples,
)
from agemem_dspy.errors import DataError, RewardError

if TYPE_CHECKING:
    import dspy

    from agemem_dspy.evaluation import Score
    from agemem_dspy.types import Step, Trajectory

RUN_EXAMPLE = "Example: agemem run --data assistant:test --index 3 --model smollm2-135m"
EVAL_EXAMPLE = (
    "Example: agemem eval --data hotpotqa:hotpot_dev_distractor_v1.json --limit 20 --model openai/gpt-4o-mini"
)


def run(
    data: DataOption = "assistant:test",
    index: Annotated[int, typer.Option(min=0, help="Which example, from 0.")] = 0,
    model: ModelOption = None,
    program: ProgramOption = None,
    trust_code: TrustOption = False,
    difficulty: DifficultyOption = None,
    max_rounds: RoundsOption = None,
    max_tokens: TokensOption = None,
    temperature: TemperatureOption = None,
    full: Annotated[
        bool, typer.Option("--full", help="Show the whole context at every step, not what is new.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Play one example through its three stages and print every step, the reward and the reasons for it."""
    with output(as_json) as out:
        example = _nth(data, index, difficulty)
        player = chosen_program(
            model=model,
            program=program,
            trust_code=trust_code,
            max_rounds=max_rounds,
            max_tokens=max_tokens,
            temperature=temperature,
        )
        from agemem_dspy.feedback import explain
        from agemem_dspy.rewards import TrajectoryReward, trajectory_of

        with model_errors():
            played = trajectory_of(player(**example.inputs()))
        if played is None:
            raise RewardError("the program returned no trajectory, so there are no steps to show")
        terms = TrajectoryReward().terms(example, played)
        feedback = explain(example, played, terms)
        _show_steps(out, played, full=full)
        _show_end(out, example, played, terms, feedback)
        out.result(
            {
                "id": example.get("id"),
                "question": example.get("question"),
                "gold": example.get("answer"),
                "outcome": None if played.outcome is None else dataclasses.asdict(played.outcome),
                "answer": played.answer,
                "stop_reason": played.stop_reason.value,
                "steps": [_step_json(step) for step in played.steps],
                "memories": [memory.content for memory in played.memories],
                "terms": terms,
                "feedback": feedback,
            }
        )


def evaluate(
    data: DataOption = "assistant:test",
    model: ModelOption = None,
    program: ProgramOption = None,
    trust_code: TrustOption = False,
    method: Annotated[
        Method | None, typer.Option(help="The agent with its tools (agemem, the default), or a baseline.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Play the first so many examples.")] = None,
    difficulty: DifficultyOption = None,
    out_dir: Annotated[
        Path | None,
        typer.Option("--out", help="Folder for one row a question and the summary; the same command resumes."),
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Episodes played at once.")] = 8,
    max_rounds: RoundsOption = None,
    max_tokens: TokensOption = None,
    temperature: TemperatureOption = None,
    judge: Annotated[
        str | None, typer.Option(help="An LM that scores every answer from 0 to 1 too: any name that --model takes.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Play every example once and print each term's mean with its 95 % bootstrap interval."""
    with output(as_json) as out:
        examples = load_examples(data, limit=limit, difficulty=difficulty)
        scores = _scores(data, judge)
        player = chosen_program(
            model=model,
            program=program,
            trust_code=trust_code,
            method=method,
            max_rounds=max_rounds,
            max_tokens=max_tokens,
            temperature=temperature,
        )
        from agemem_dspy.evaluation import evaluate as play
        from agemem_dspy.rewards import TrajectoryReward

        kept = "nothing is kept; give --out FOLDER to keep what was played"
        if out_dir is not None:
            kept = f"what was played is kept in {out_dir / 'eval.jsonl'}; the same command goes on from there"
        with keeping(kept), out.progress() as bar:
            task = bar.add_task("playing", total=len(examples))
            result = play(
                player,
                examples,
                TrajectoryReward(),
                scores=scores,
                num_threads=threads,
                log_dir=out_dir,
                progress=lambda done, total: bar.update(task, completed=done, total=total),
            )
        found = {
            "data": data,
            "model": player.get_lm().model,
            "method": "program" if program is not None else (method or Method.AGEMEM).value,
            "program": None if program is None else str(program),
            "judge": judge,
            **result.summary(),
        }
        if out_dir is not None:
            write_json(out_dir / "summary.json", found)
            out.note(f"rows and summary are in {out_dir}")
        out.console.print(result.table())
        kinds = result.kinds_table(("answer", *scores))
        if kinds is not None:
            out.console.print(kinds)
        out.result(found)


def _scores(data: str, judge: str | None) -> dict[str, Score]:
    """Return what is scored beside the reward: how publications score this data, and the judge."""
    from agemem_dspy.data import published_scores

    scores = dict(published_scores(data))
    if judge is not None:
        from agemem_dspy.programs.judges import JudgeAnswer, JudgedScore, LMJudge

        scores["judge"] = JudgedScore(LMJudge(JudgeAnswer, lm=choose_model(judge).lm))
    return scores


def _nth(data: str, index: int, difficulty: str | None) -> dspy.Example:
    examples = load_examples(data, limit=index + 1, difficulty=difficulty)
    if len(examples) <= index:
        raise DataError(f"{data} has {len(examples)} such examples; --index goes from 0 to {len(examples) - 1}")
    return examples[index]


def _step_json(step: Step) -> dict[str, Any]:
    """Return a step without its token ids."""
    return {
        "stage": int(step.stage),
        "turn": step.turn,
        "round": step.round,
        "kind": step.kind,
        "context": [dict(message) for message in step.context],
        "text": step.completion.text if step.completion is not None else None,
        "output": dict(step.output),
        "parsed": step.parsed,
        "error": step.error,
        "prompt_tokens": step.prompt_tokens,
        "events": [dataclasses.asdict(event) for event in step.events],
    }


def _show_steps(out: Output, played: Trajectory, *, full: bool) -> None:
    before: list[dict[str, Any]] = []
    for step in played.steps:
        out.say(f"\nstage {int(step.stage)} · turn {step.turn + 1} · round {step.round}"
                + (f" · {step.kind}" if step.kind != "act" else "")
                + f"   ({step.prompt_tokens} prompt tokens)", "bold cyan")  # fmt: skip
        context = [dict(message) for message in step.context]
        same = 0 if full else _shared(before, context)
        gone = len(before) - same
        if gone and not full:
            out.say(f"  … {gone} {'message is' if gone == 1 else 'messages are'} gone", "dim")
        if same:
            out.say(f"  … {same} earlier {'message' if same == 1 else 'messages'}", "dim")
        for message in context[same:]:
            content = str(message["content"]).strip().replace("\n", "\n    ")
            out.say(f"  [{message['role']}, {message['kind']}] {content}")
        _show_output(out, step)
        before = context


def _show_output(out: Output, step: Step) -> None:
    if step.kind == "summarize":
        out.say(f"  → summary: {step.output['summary']}", "green")
        return
    if not step.parsed:
        written = step.completion.text if step.completion is not None else ""
        out.say(f"  → unreadable: {written!r}", "red")
    if step.output["reasoning"]:
        out.say(f"  → thinks: {step.output['reasoning']}", "dim")
    for call in step.output["tool_calls"]:
        out.say(f"  → {call['name']} {call['arguments']}", "green")
    for name, value in (step.output["answer"] or {}).items():
        out.say(f"  → {name}: {value}", "green")
    for event in step.events:
        out.say(f"  ← {event.observation}", None if event.ok else "red")


def _shared(before: list[dict[str, Any]], now: list[dict[str, Any]]) -> int:
    """Return how many leading messages two contexts share."""
    for position, (old, new) in enumerate(zip(before, now, strict=False)):
        if old != new:
            return position
    return min(len(before), len(now))


def _show_end(out: Output, example: dspy.Example, played: Trajectory, terms: dict[str, float], feedback: str) -> None:
    from rich.table import Table

    ended = played.stop_reason.value.replace("_", " ")
    if played.outcome is not None:
        out.say(f"\ngoal: {played.outcome.goal}", "bold")
        out.say(f"reached: {played.outcome.progress:.0%} in {played.outcome.actions} actions   ({ended})")
    else:
        out.say(f"\nquestion: {example.question}", "bold")
        out.say(f"expected: {example.answer}")
        answered = ", ".join(map(str, played.answer.values())) if played.answer else "(nothing)"
        out.say(f"answered: {answered}   ({ended})")
    out.say("memories at the end:" if played.memories else "no memories at the end")
    for memory in played.memories:
        out.say(f"  {memory.content}")
    table = Table("term", "value", title="reward")
    table.columns[1].justify = "right"
    for name, value in terms.items():
        table.add_row(name, f"{value:.3f}")
    out.console.print(table)
    out.say(feedback)
