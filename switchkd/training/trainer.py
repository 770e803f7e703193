"""transformers' Trainer with only what is ours: the objective, learning rates per part, whole checkpoints, named terms."""

from __future__ import annotations

import math
import signal
import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_model, save_model
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback

from switchkd.architecture.architecture import Architecture
from switchkd.data.sampler import LengthGroupedSampler
from switchkd.errors import DataError
from switchkd.losses.objective import Objective, Sums
from switchkd.models.passes import Passes
from switchkd.models.switch import Switch, SwitchStudent, answer_positions
from switchkd.models.vlm import part_modules
from switchkd.recipes.recipe import Stage
from switchkd.training.checkpoints import mark_complete

_WEIGHTS = "model.safetensors"
UNUSABLE = "unusable"  # in a log's entry: samples since the entry before whose pictures couldn't be read


def freeze_parts(student: SwitchStudent, trainable: Iterable[str]) -> None:
    """Freezes every part that isn't named, and those layers of the tower that no feature passes through (they would get
    no gradient, on which data-parallel training waits)."""
    student.requires_grad_(False)
    parts = part_modules(student)
    for part in trainable:
        for module in parts[part]:
            module.requires_grad_(True)
    tower = student.model.vision_tower
    blocks = tower.encoder.layers
    architecture = Architecture.of(student.config.to_dict())
    unused = [*blocks[architecture.used_layers :]]
    modules = dict(tower.named_modules())
    unused += [modules[name] for name in architecture.tower.unused if name in modules]
    for module in unused:
        module.requires_grad_(False)


def _deaf_worker(prepare: Callable[[int], None] | None, number: int) -> None:
    """A process that reads data doesn't end by a signal to the whole group: this one saves first, and then ends it."""
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    if prepare is not None:
        prepare(number)


class SamplerEpoch(TrainerCallback):
    """Tells the sampler which epoch begins. accelerate doesn't reach it through the wrappers of a resumed or shared
    data loader, and each resumed epoch would repeat the order of the first."""

    def __init__(self, sampler: LengthGroupedSampler, steps_per_epoch: int):
        self._sampler, self._steps_per_epoch = sampler, steps_per_epoch

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._sampler.set_epoch(state.global_step // self._steps_per_epoch)


class SwitchTrainer(Trainer):
    """Trains a student on an objective such as the paper's, L = L_CE + λ1·Align + λ2·VSD (equation 1).

    Without a switch it is plain supervised training: the same loop, data and logging. Raises DataError when more than
    `max_bad` of a stage's samples had pictures that couldn't be read while training.
    """

    def __init__(
        self,
        student: SwitchStudent,
        objective: Objective,
        *,
        stage: Stage,
        rows: int,
        lengths: Any,
        switch: Switch | None = None,
        max_bad: float = 1.0,
        **kwargs: Any,
    ):
        super().__init__(model=student, **kwargs)
        self.student = student
        self.objective: Objective = objective
        self.stage, self.rows, self.lengths = stage, rows, lengths
        self.switch = None if switch is None else switch.to(self.args.device)
        # Texts alone give a projector or a tower no gradient: data-parallel training would wait for it, and where nothing
        # else is trained there would be no graph at all.
        student.always_look = self.accelerator.num_processes > 1 or "language" not in stage.trainable
        # The loss below is the token sum over the whole batch divided by its supervised tokens.
        self.model_accepts_loss_kwargs = True
        self._loss_shifts_labels = True
        self.max_bad = max_bad
        self._sums: dict[str, float] = {}
        self._measures: dict[str, list[Tensor]] = {}
        self._logged_step = 0  # that the sums began after

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):  # type: ignore[override]
        """One micro-batch's share of the global mean: the tower runs once, the two pathways share its features."""
        bad = inputs.pop("bad", None)
        asks, teacher, switch, switch_rows = self.objective.asks, None, None, None
        student = model(**inputs, rows=self.rows, asked=asks["student"])
        if self.switch is not None and "teacher" in asks:
            teacher = self.switch.teacher_pass(inputs, asks["teacher"])
        if self.switch is not None and "switch" in asks:
            switch, switch_rows = self.switch.switch_pass(student.features, inputs, asks["switch"])
        targets = inputs["labels"][:, 1:][answer_positions(inputs["labels"])]  # [A]
        sums = self.objective(Passes(student, targets, teacher, switch, switch_rows))
        if num_items_in_batch is None:
            num_items_in_batch = targets.numel()
        tokens = torch.as_tensor(num_items_in_batch, device=targets.device).clamp(min=1)
        self._collect(sums, tokens, bad)
        # Every process averages gradients over processes afterwards.
        loss = sums.total / tokens * self.accelerator.num_processes
        return (loss, {}) if return_outputs else loss

    def _collect(self, sums: Sums, tokens: Tensor, bad: Tensor | None) -> None:
        if not self._sums:
            self._logged_step = self.state.global_step
        for name, value in sums.terms.items():
            self._sums[name] = self._sums.get(name, 0.0) + float(value.detach() / tokens)
        for name, values in sums.measures.items():
            if values is not None:
                self._measures.setdefault(name, []).append(values.detach().float().cpu())
        self._sums[UNUSABLE] = self._sums.get(UNUSABLE, 0.0) + (0 if bad is None else int(bad))

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Adds the named terms (means per supervised token) and their measures' mean and quantiles to the loss."""
        if "loss" in logs and self._sums:
            steps = max(1, self.state.global_step - self._logged_step)
            sums = self._over_processes(self._sums)
            if unusable := round(sums.pop(UNUSABLE)):
                logs[UNUSABLE] = unusable
                self._check_unusable(self.unusable + unusable)
            logs |= {name: value / steps for name, value in sums.items()}
            for name, parts in self._measures.items():
                values = torch.cat(parts)
                p10, p90 = np.quantile(values.numpy(), [0.1, 0.9]).tolist()  # torch's takes 2^24 values at most
                logs |= {f"{name}_mean": values.mean().item(), f"{name}_p10": p10, f"{name}_p90": p90}
            self._sums, self._measures = {}, {}
        super().log(logs, *args, **kwargs)

    @property
    def unusable(self) -> int:
        """Samples so far whose pictures couldn't be read, of all processes; it lies in the log, so a checkpoint keeps it."""
        return sum(int(entry.get(UNUSABLE, 0)) for entry in self.state.log_history)

    def _check_unusable(self, count: int) -> None:
        samples = self.state.max_steps * self.stage.batch_size
        if count > self.max_bad * samples:
            raise DataError(
                f"The pictures of {count} samples couldn't be read while training, more than {100 * self.max_bad:g} % of the "
                f"stage's {samples} (data.max_bad): they were there when the data were checked. Bring them back and go on with "
                "the same command."
            )

    def _over_processes(self, sums: dict[str, float]) -> dict[str, float]:
        if self.accelerator.num_processes == 1:
            return sums
        values = torch.tensor(list(sums.values()), device=self.args.device)
        return dict(zip(sums, self.accelerator.reduce(values, "sum").tolist(), strict=True))

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """AdamW with one group for each trainable part and for what decays and what doesn't."""
        if self.optimizer is None:
            decaying = set(self.get_decay_parameter_names(self.student))
            names = {id(parameter): name for name, parameter in self.student.named_parameters()}
            groups = []
            for part, modules in part_modules(self.student).items():
                # A tied head is the embedding: it is counted once.
                unique = {id(p): p for module in modules for p in module.parameters() if p.requires_grad}
                for decays in (True, False):
                    chosen = [p for key, p in unique.items() if (names[key] in decaying) == decays]
                    if chosen:
                        groups.append(self._group(part, chosen, decays))
            self.optimizer = torch.optim.AdamW(groups, betas=(0.9, self.stage.beta2), eps=1e-8)
        return self.optimizer

    def _group(self, part: str, parameters: list, decays: bool) -> dict[str, Any]:
        return {
            "name": f"{part}{'' if decays else '-undecayed'}",
            "params": parameters,
            "lr": self.stage.learning_rates.get(part, self.stage.learning_rate),
            "weight_decay": self.stage.weight_decay if decays else 0.0,
        }

    def _get_train_sampler(self, train_dataset: Any = None) -> LengthGroupedSampler:
        stage = self.stage
        sampler = LengthGroupedSampler(
            self.lengths, batch_size=stage.batch_size, seed=self.args.seed, grouped=stage.group_by_length
        )
        self.add_callback(SamplerEpoch(sampler, math.ceil(len(self.lengths) / stage.batch_size)))
        return sampler

    def get_train_dataloader(self) -> DataLoader:
        """The usual one, whose processes leave a signal to this one."""
        loader = super().get_train_dataloader()
        inner: Any = getattr(loader, "base_dataloader", loader)  # what accelerate wraps reads its own attributes
        inner.worker_init_fn = partial(_deaf_worker, inner.worker_init_fn)
        if inner.num_workers and sys.platform == "linux":
            # Python 3.14's default forks from a server, which a signal to the whole group ends before it has children to start.
            inner.multiprocessing_context = "fork"
        return loader

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """A checkpoint's weights under the module's own names: Trainer would write the hub's names, and silently find
        none of them when it reads them back. DeepSpeed keeps the weights in its own files."""
        folder = Path(output_dir or str(self.args.output_dir))
        if self.args.should_save:
            folder.mkdir(parents=True, exist_ok=True)
            if not self.is_deepspeed_enabled:
                save_model(self.student, str(folder / _WEIGHTS))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        load_model(self.student, str(Path(resume_from_checkpoint) / _WEIGHTS))

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            mark_complete(
                Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}",
                processes=self.accelerator.num_processes,
                deepspeed=self.is_deepspeed_enabled,
            )
