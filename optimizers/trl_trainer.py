"""The second trainer: TRL's `GRPOTrainer`, handed the calls that our engine recorded.

What TRL has comes along: its losses, ratios of whole sequences, accumulation, checkpoints. Its forward pass takes one
row for every LM call, so a prefix that calls share is computed for each of them.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase, PrinterCallback, TrainerCallback
from trl.trainer.grpo_config import GRPOConfig as TRLArguments
from trl.trainer.grpo_trainer import GRPOTrainer

from agemem_dspy.errors import ConfigurationError
from agemem_dspy.optimizers import processes
from agemem_dspy.optimizers.trained import trained_model
from agemem_dspy.optimizers.training import Sampling, TrainedModel, TRLConfig, Updated, rate_at
from agemem_dspy.optimizers.tree import Sample
from agemem_dspy.policy.engine import PolicyEngine
from agemem_dspy.policy.versions import Weights

_BY_ROWS = ("grpo", "dr_grpo")  # losses that divide by the number of rows, padding included
_METRICS = {"clip_ratio/region_mean": "clip_fraction", "cispo_clip_ratio": "clip_fraction"}
_REPORTED = ("loss", "grad_norm", "kl", "entropy", *_METRICS)


class RecordedGRPOTrainer(GRPOTrainer):
    """`trl.GRPOTrainer` with one method replaced: its rows are recorded calls.

    Args:
        record: returns the rows of the next update; see `rows_of`.
        options: those of `GRPOTrainer`.
    """

    def __init__(self, record: Callable[[], dict[str, torch.Tensor]], **options: Any) -> None:
        super().__init__(reward_funcs=_no_reward, **options)
        self.record = record

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, torch.Tensor]:
        """Return recorded rows in place of sampled ones; the dataset's prompts are not looked at."""
        return self.record()


def rows_of(
    samples: Sequence[Sample], *, pad_id: int, multiple: int, by_rows: bool, device: torch.device
) -> dict[str, torch.Tensor]:
    """Return LM calls as the tensors that TRL expects: prompts padded on the left, completions on the right.

    Several processes get a share each, all of the same number of rows.

    Args:
        multiple: rows are filled up to a multiple of it, with rows whose completion is masked out.
        by_rows: the loss divides by the number of rows, so the advantages make up for the rows filled in.
    """
    everyone = processes.count()
    count = max(1, math.ceil(len(samples) / (everyone * multiple))) * multiple
    filled = everyone * count / max(1, len(samples)) if by_rows else 1.0
    tokens = sum(len(sample.completion_ids) for sample in samples)
    samples = processes.share(samples)
    longest_prompt = max((len(sample.prompt_ids) for sample in samples), default=1)
    longest = max((len(sample.completion_ids) for sample in samples), default=1)
    rows = {
        "prompt_ids": torch.full((count, longest_prompt), pad_id),
        "prompt_mask": torch.zeros((count, longest_prompt), dtype=torch.long),
        "completion_ids": torch.full((count, longest), pad_id),
        "completion_mask": torch.zeros((count, longest), dtype=torch.long),
        "old_per_token_logps": torch.zeros((count, longest)),
        "advantages": torch.zeros(count),
    }
    rows["prompt_mask"][len(samples) :, -1] = 1  # attention over nothing at all is not a number
    for i, sample in enumerate(samples):
        p, c = len(sample.prompt_ids), len(sample.completion_ids)
        rows["prompt_ids"][i, longest_prompt - p :] = torch.as_tensor(sample.prompt_ids)
        rows["prompt_mask"][i, longest_prompt - p :] = 1
        rows["completion_ids"][i, :c] = torch.as_tensor(sample.completion_ids)
        rows["completion_mask"][i, :c] = 1
        rows["old_per_token_logps"][i, :c] = torch.as_tensor(sample.logprobs)
        rows["advantages"][i] = sample.advantage * filled
    rows["num_items_in_batch"] = torch.tensor(tokens)
    return {name: tensor.to(device) for name, tensor in rows.items()}


class TRLTrainer:
    """Trains an adapter, or all weights, in TRL's own loop.

    Args:
        engine: whose base model is trained; its own weights are not touched.
        config: see `TRLConfig`.
        start: weights to continue from.
    """

    def __init__(self, engine: PolicyEngine, config: TRLConfig, *, start: Weights | None = None) -> None:
        self.config = config
        self.trained = trained_model(engine, config, start=start)
        self.tokenizer: PreTrainedTokenizerBase = engine.tokenizer

    def set_reference(self) -> None:
        """Make the weights as they are now the reference policy of the KL term."""
        self.trained.set_reference()

    def fit(
        self,
        steps: int,
        *,
        sample: Sampling,
        updated: Updated,
        decay: bool = True,
        beta: float = 0.0,
        clip: float | None = 0.2,
        temperature: float = 1.0,
    ) -> None:
        """See `GRPOBackend`. Where `sample` returns none, the loss is 0 and Adam's momentum alone moves the weights.

        Raises:
            ConfigurationError: `clip=None`, or options that `trl.GRPOConfig` refuses.
        """
        if clip is None:
            raise ConfigurationError("TRL always clips; set clip, or use a TrainerConfig in place of the TRLConfig")
        config, course = self.config, steps if decay else None
        with tempfile.TemporaryDirectory() as folder:
            arguments = self._arguments(folder, max_steps=steps, beta=beta, epsilon=clip, temperature=temperature)
            optimizer = torch.optim.AdamW(self.trained.parameters(), lr=config.learning_rate, weight_decay=0.0)
            schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_at(min(step, steps - 1), course))
            trainer = RecordedGRPOTrainer(
                lambda: self._rows(trainer, sample(trainer.state.global_step)),
                model=self.trained.model,
                args=arguments,
                processing_class=self.tokenizer,
                train_dataset=Dataset.from_dict({"prompt": ["recorded"] * config.micro_batches * processes.count()}),
                callbacks=[_Report(self.trained, updated)],
                optimizers=(optimizer, schedule),
            )
            trainer.remove_callback(PrinterCallback)
            trainer.train()

    def _arguments(self, folder: str, **own: Any) -> TRLArguments:
        config = self.config
        usual = {"output_dir": folder, "save_strategy": "no", "report_to": "none", "disable_tqdm": True}
        usual |= {"bf16": False, "activation_checkpointing": False, "use_cpu": not torch.cuda.is_available()}
        try:
            return TRLArguments(
                **{**usual, **config.options},
                learning_rate=config.learning_rate,
                loss_type=config.loss_type,
                importance_sampling_level=config.importance_sampling_level,
                **own,
                max_grad_norm=config.max_grad_norm,
                seed=config.seed,
                num_generations=2,  # of TRL's own sampling, which is not used; its batches must be multiples of it
                per_device_train_batch_size=2,
                gradient_accumulation_steps=config.micro_batches,
                steps_per_generation=config.micro_batches,
                logging_steps=1,
            )
        except (TypeError, ValueError) as error:
            raise ConfigurationError(f"TRL refuses the options: {error}") from error

    def _rows(self, trainer: RecordedGRPOTrainer, trajectories: Sequence[Sequence[Sample]]) -> dict[str, torch.Tensor]:
        rows = rows_of(
            [sample for own in trajectories for sample in own],
            pad_id=self.tokenizer.pad_token_id or 0,
            multiple=self.config.micro_batches,
            by_rows=self.config.loss_type in _BY_ROWS,
            device=trainer.accelerator.device,
        )
        if trainer.beta > 0:
            ids = torch.cat([rows["prompt_ids"], rows["completion_ids"]], dim=1)
            mask = torch.cat([rows["prompt_mask"], rows["completion_mask"]], dim=1)
            most = math.ceil(len(ids) / self.config.micro_batches)
            with torch.no_grad(), self.trained.reference():
                rows["ref_per_token_logps"], _, _ = trainer._get_per_token_logps_and_entropies(
                    trainer.model, ids, mask, rows["completion_ids"].shape[1], batch_size=most
                )
        return rows


class _Report(TrainerCallback):
    """Hands the weights and numbers of each optimizer step on."""

    def __init__(self, trained: TrainedModel, updated: Updated) -> None:
        self.trained, self.updated = trained, updated

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **rest: Any) -> None:
        if logs is not None and "loss" in logs:
            metrics = {_METRICS.get(name, name): float(logs[name]) for name in _REPORTED if logs.get(name) is not None}
            go_on = self.updated(state.global_step - 1, self.trained.weights(), metrics)
            control.should_training_stop = control.should_training_stop or not go_on


def _no_reward(**_: Any) -> list[float | None]:
    raise AssertionError("recorded calls have their advantages; no reward is computed here")
