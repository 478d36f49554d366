"""Optimizers in other people's training loops: Accelerate, Lightning, the Hugging Face Trainer, and torch.compile."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader, TensorDataset

from shoal.optim.adamw import AdamW
from shoal.optim.cautious import Cautious
from shoal.optim.large_batch import LAMB
from shoal.optim.lion import Lion
from shoal.optim.lookahead import Lookahead
from shoal.optim.sgd import SGD

Make = Callable[[Any], torch.optim.Optimizer]

OPTIMIZERS: dict[str, Make] = {
    "AdamW": lambda p: AdamW(p, lr=0.05),
    "AdamW compiled": lambda p: AdamW(p, lr=0.05, compile=True),
    "Lion": lambda p: Lion(p, lr=0.01),
    "LAMB": lambda p: LAMB(p, lr=0.05),
    "Lookahead(SGD)": lambda p: Lookahead(SGD(p, lr=0.1, momentum=0.9), k=3),
    "Cautious(AdamW)": lambda p: Cautious(AdamW(p, lr=0.05)),
}
several = pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)


def network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 1))


def data(batches: int = 8) -> TensorDataset:
    random = torch.Generator().manual_seed(1)
    x = torch.randn(4 * batches, 5, generator=random)
    return TensorDataset(x, x.sum(1, keepdim=True).sin())


def loss_of(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return nn.functional.mse_loss(model(x), y)


def by_hand(make: Make, *, accumulate: int = 1, clip: float | None = None, epochs: int = 1) -> nn.Sequential:
    """The loop that the others are compared with."""
    model = network()
    optimizer = make(model.named_parameters())
    schedule = lr_scheduler.LambdaLR(optimizer, lambda n: 1.0 / (n + 1))
    for _ in range(epochs):
        for i, (x, y) in enumerate(DataLoader(data(), batch_size=4)):
            (loss_of(model, x, y) / accumulate).backward()
            if (i + 1) % accumulate == 0:
                if clip is not None:
                    nn.utils.clip_grad_norm_(model.parameters(), clip)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
    return model


def assert_alike(a: nn.Module, b: nn.Module) -> None:
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        torch.testing.assert_close(p.detach(), q.detach(), rtol=1e-5, atol=1e-6)


# -- torch.compile -----------------------------------------------------------------------------------------------------


@several
def test_a_compiled_model_is_trained_as_the_model(make: Make) -> None:
    model = network()
    compiled = torch.compile(model, backend="aot_eager")
    optimizer = make(compiled.named_parameters())
    schedule = lr_scheduler.LambdaLR(optimizer, lambda n: 1.0 / (n + 1))
    for x, y in DataLoader(data(), batch_size=4):
        loss_of(compiled, x, y).backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    assert_alike(model, by_hand(make))


@pytest.mark.parametrize("name", ["AdamW compiled", "Lookahead(SGD)"])
def test_a_compiled_step_of_the_whole_loop_is_the_step(name: str) -> None:
    """Forward, backward and the optimizer's step within one function given to torch.compile."""
    make, model = OPTIMIZERS[name], network()
    optimizer = make(model.named_parameters())
    schedule = lr_scheduler.LambdaLR(optimizer, lambda n: 1.0 / (n + 1))

    @torch.compile(backend="eager")
    def train(x: Tensor, y: Tensor) -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(model, x, y)
        loss.backward()
        optimizer.step()
        return loss

    for x, y in DataLoader(data(), batch_size=4):
        train(x, y)
        schedule.step()
    assert_alike(model, by_hand(make))


# -- Accelerate --------------------------------------------------------------------------------------------------------


@pytest.fixture
def accelerate() -> Any:
    module = pytest.importorskip("accelerate")
    state = pytest.importorskip("accelerate.state")
    state.AcceleratorState._reset_state(reset_partial_state=True)
    yield module
    state.AcceleratorState._reset_state(reset_partial_state=True)


@several
@pytest.mark.parametrize("accumulate", [1, 2])
def test_accelerate_trains_as_by_hand(accelerate: Any, make: Make, accumulate: int) -> None:
    """With its gradient accumulation, clipping and schedules."""
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=accumulate)
    model = network()
    optimizer = make(model.named_parameters())
    schedule = lr_scheduler.LambdaLR(optimizer, lambda n: 1.0 / (n + 1))
    loader = DataLoader(data(), batch_size=4)
    model, optimizer, loader, schedule = accelerator.prepare(model, optimizer, loader, schedule)
    for x, y in loader:
        with accelerator.accumulate(model):
            accelerator.backward(loss_of(model, x, y))
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    assert_alike(model, by_hand(make, accumulate=accumulate, clip=0.5))


@several
def test_accelerate_saves_and_loads_the_state(accelerate: Any, make: Make, tmp_path: Path) -> None:
    accelerator = accelerate.Accelerator(cpu=True)
    model = network()
    model, optimizer = accelerator.prepare(model, make(model.named_parameters()))
    batches = list(DataLoader(data(), batch_size=4))

    def train(some: list[Any]) -> None:
        for x, y in some:
            accelerator.backward(loss_of(model, x, y))
            optimizer.step()
            optimizer.zero_grad()

    train(batches[:4])
    accelerator.save_state(str(tmp_path / "state"))
    train(batches[4:])
    expected = copy.deepcopy(model)
    accelerator.load_state(str(tmp_path / "state"))
    train(batches[4:])
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), expected.parameters(), strict=True))


def test_accelerate_in_bfloat16_keeps_wide_state(accelerate: Any) -> None:
    accelerator = accelerate.Accelerator(cpu=True, mixed_precision="bf16")
    model = network()
    model, optimizer = accelerator.prepare(model, AdamW(model.named_parameters(), lr=0.05))
    for x, y in DataLoader(data(), batch_size=4):
        accelerator.backward(loss_of(model, x, y))
        optimizer.step()
        optimizer.zero_grad()
    slots = [v for own in optimizer.state.values() for v in own.values() if isinstance(v, Tensor)]
    assert {v.dtype for v in slots} == {torch.float32}
    assert len(slots) == 8


# -- Lightning ---------------------------------------------------------------------------------------------------------


@several
@pytest.mark.parametrize("accumulate", [1, 2])
def test_lightning_trains_as_by_hand(make: Make, accumulate: int, tmp_path: Path) -> None:
    """It gives `step` a closure; with accumulation, clipping, schedules and a checkpoint to go on from."""
    lightning = pytest.importorskip("lightning")

    class Module(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.model = network()

        def training_step(self, batch: Any, index: int) -> Tensor:
            return loss_of(self.model, *batch)

        def configure_optimizers(self) -> Any:
            optimizer = make(self.model.named_parameters())
            schedule = lr_scheduler.LambdaLR(optimizer, lambda n: 1.0 / (n + 1))
            return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    def trainer(epochs: int) -> Any:
        return lightning.Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            accumulate_grad_batches=accumulate,
            gradient_clip_val=0.5,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=tmp_path,
        )

    module, loader = Module(), DataLoader(data(), batch_size=4)
    first = trainer(1)
    first.fit(module, loader)
    assert_alike(module.model, by_hand(make, accumulate=accumulate, clip=0.5))
    first.save_checkpoint(tmp_path / "one.ckpt")
    again = Module()
    trainer(2).fit(again, loader, ckpt_path=tmp_path / "one.ckpt")
    assert_alike(again.model, by_hand(make, accumulate=accumulate, clip=0.5, epochs=2))


# -- Hugging Face Trainer ----------------------------------------------------------------------------------------------


@several
def test_the_hugging_face_trainer_trains_as_by_hand(accelerate: Any, make: Make, tmp_path: Path) -> None:
    """And goes on from its own checkpoint."""
    transformers = pytest.importorskip("transformers")

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = network()

        def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
            return {"loss": loss_of(self.model, x, labels)}

    examples = [{"x": x, "labels": y} for x, y in data()]

    class InOrder(transformers.Trainer):  # type: ignore[misc, name-defined]
        def _get_train_sampler(self, *_: Any) -> Any:
            return torch.utils.data.SequentialSampler(examples)  # type: ignore[arg-type]

    def trained(epochs: int, resume: str | None = None) -> Any:
        model = Model()
        optimizer = make(model.model.named_parameters())
        schedule = lr_scheduler.LambdaLR(optimizer, lambda n: 1.0 / (n + 1))
        arguments = transformers.TrainingArguments(
            output_dir=str(tmp_path / "out"),
            num_train_epochs=epochs,
            per_device_train_batch_size=4,
            max_grad_norm=0.5,
            use_cpu=True,
            report_to=[],
            disable_tqdm=True,
            save_strategy="epoch",
            logging_strategy="no",
        )
        trainer = InOrder(model=model, args=arguments, train_dataset=examples, optimizers=(optimizer, schedule))
        trainer.train(resume_from_checkpoint=resume)
        return model.model

    assert_alike(trained(1), by_hand(make, clip=0.5))
    resumed = trained(2, resume=str(tmp_path / "out" / "checkpoint-8"))
    assert_alike(resumed, by_hand(make, clip=0.5, epochs=2))
