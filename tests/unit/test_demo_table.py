"""The README's table is what its script makes of finished runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "demo_table.py"


def test_the_table_pools_runs_and_pairs_episodes(tmp_path: Path) -> None:
    rewards = {"base": [-1.0, -1.0], "prompts": [-0.5, -0.5], "warm_start": [0.0, 0.5], "grpo": [0.5, 0.7]}
    for run, shift in (("a", 0.0), ("b", 0.1)):
        (tmp_path / run).mkdir()
        phases = [
            {"name": phase, "train_seconds": 60 * i, "peak_memory_gib": 1.0 + i + shift}
            for i, phase in enumerate(rewards)
        ]
        (tmp_path / run / "results.json").write_text(json.dumps({"phases": phases}))
        for phase, values in rewards.items():
            rows = [
                {"id": f"q{i}", "reward": value + shift * (phase == "grpo"), "answer": 0.5, "parse_rate": 1.0}
                for i, value in enumerate(values)
            ]
            text = "".join(json.dumps(row) + "\n" for row in (rows if run == "a" else reversed(rows)))
            (tmp_path / run / f"{phase}.jsonl").write_text(text)
            if phase in ("warm_start", "grpo"):
                lower = "".join(json.dumps({**row, "reward": row["reward"] - 0.25}) + "\n" for row in rows)
                (tmp_path / run / f"{phase}_sampled.jsonl").write_text(lower)
    command = [sys.executable, str(SCRIPT), str(tmp_path / "a"), str(tmp_path / "b")]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "| reward | −1.00 [−1.00, −1.00] | −0.50 [−0.50, −0.50] | 0.25 [0.00, 0.50] | 0.65 [0.55, 0.75] |" in out
    assert "| steps that parse | 100 % | 100 % | 100 % | 100 % |" in out
    assert "| training minutes | 0.0 | 1.0 | 2.0 | 3.0 |" in out
    assert "| peak memory so far, GiB | 1.1 | 2.1 | 3.1 | 4.1 |" in out
    assert "| reward, sampled | – | – | 0.00 [−0.25, 0.25] | 0.40 [0.30, 0.50] |" in out
    assert "start, greedy, 2 runs: +0.40 [+0.25, +0.55]; one by one +0.35 [+0.20, +0.50], +0.45 [+0.30, +0.60]" in out
    assert "start, sampled, 2 runs: +0.40 [+0.25, +0.55]; one by one +0.35 [+0.20, +0.50]" in out
