"""The learning rate follows its schedule, gradients are clipped as PyTorch does, and optimizer state is restored."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import nn

from dbbd_cli.config.sections import TrainingConfig
from dbbd_cli.engine.eager_optimizer import eager
from dbbd_cli.engine.optimizer import LearningRate, build_optimizer, clip_gradient, load_optimizer

STEPS = 4


def rates(losses: list[float] | None = None, **settings: Any) -> list[float]:
    """The rate of every step, with the given validation losses (by default ever lower)."""
    training = TrainingConfig(**{"epochs": 6, "learning_rate": 1.0, "min_lr": 0.01, **settings})
    module = torch.nn.Linear(1, 1)
    optimizer = build_optimizer(module, training, torch.device("cpu"))
    schedule = LearningRate(optimizer, training, STEPS)
    seen, step = [], 0
    for epoch in range(1, training.epochs + 1):
        for _ in range(STEPS):
            schedule.before_step(step, epoch)
            seen.append(schedule.value)
            step += 1
        schedule.after_epoch(step, losses[epoch - 1] if losses else 1.0 / epoch)
    return seen


def per_epoch(values: list[float]) -> list[float]:
    return [values[index] for index in range(0, len(values), STEPS)]


def test_none_stays() -> None:
    assert set(rates(scheduler="none")) == {1.0}


def test_cosine_falls_from_the_rate_towards_the_minimum() -> None:
    values = per_epoch(rates(scheduler="cosine"))
    expected = [0.01 + 0.99 * 0.5 * (1 + torch.cos(torch.tensor(torch.pi * e / 6)).item()) for e in range(6)]
    assert values == pytest.approx(expected, rel=1e-5)


def test_step_halves_and_stops_at_the_minimum() -> None:
    values = per_epoch(rates(scheduler="step", scheduler_step_size=2, scheduler_factor=0.05))
    assert values == pytest.approx([1, 1, 0.05, 0.05, 0.01, 0.01])


def test_plateau_waits_for_its_patience_and_keeps_above_the_minimum() -> None:
    values = per_epoch(rates([1.0] * 6, scheduler="reduce_on_plateau", scheduler_patience=1, scheduler_factor=0.05))
    assert values == pytest.approx([1, 1, 1, 0.05, 0.05, 0.01])


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_loaded_states_are_in_the_memory_format_of_their_parameters(name: str) -> None:
    training = TrainingConfig(optimizer=name, learning_rate=0.1)
    # Fused kernels would otherwise pair values with wrong weights.
    modules = [nn.Conv2d(3, 5, 3), nn.Conv2d(3, 5, 3).to(memory_format=torch.channels_last)]
    modules[1].load_state_dict(modules[0].state_dict())
    optimizers = [build_optimizer(module, training, torch.device("cpu")) for module in modules]
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))

    def step(number: int) -> None:
        optimizers[number].zero_grad()
        (modules[number](images) ** 2).sum().backward()
        optimizers[number].step()

    step(0)
    modules[1].load_state_dict(modules[0].state_dict())
    load_optimizer(optimizers[1], copy.deepcopy(optimizers[0].state_dict()), training, {"learning_rate": 0.1})
    step(0)
    step(1)
    assert torch.allclose(modules[0].weight, modules[1].weight, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scheduler", ["none", "cosine", "step", "reduce_on_plateau"])
def test_warm_up_rises_step_by_step_and_then_the_schedule_begins(scheduler: str) -> None:
    values = rates(scheduler=scheduler, warmup_epochs=1.5)
    assert values[:6] == pytest.approx([step / 6 for step in range(1, 7)])
    assert values[6] == pytest.approx(1.0)


def test_plateau_state_is_carried_over() -> None:
    training = TrainingConfig(scheduler_patience=2)
    module = torch.nn.Linear(1, 1)
    one = LearningRate(build_optimizer(module, training, torch.device("cpu")), training, STEPS)
    one.after_epoch(STEPS, 1.0)
    one.after_epoch(2 * STEPS, 1.0)
    two = LearningRate(build_optimizer(module, training, torch.device("cpu")), training, STEPS)
    two.load_state_dict(one.state_dict())
    for schedule in (one, two):
        schedule.after_epoch(3 * STEPS, 1.0)
        assert schedule.value == pytest.approx(1e-3)
        schedule.after_epoch(4 * STEPS, 1.0)
        assert schedule.value == pytest.approx(5e-4)


def test_the_optimizer_is_the_one_that_was_asked_for() -> None:
    module = torch.nn.Linear(3, 3)
    adamw = build_optimizer(module, TrainingConfig(weight_decay=0.3), torch.device("cpu"))
    sgd = build_optimizer(module, TrainingConfig(optimizer="sgd", learning_rate=0.2), torch.device("cpu"))
    assert isinstance(adamw, torch.optim.AdamW)
    assert isinstance(sgd, torch.optim.SGD)
    assert adamw.param_groups[0]["weight_decay"] == 0.3
    assert (sgd.param_groups[0]["lr"], sgd.param_groups[0]["momentum"]) == (0.2, 0.9)


def test_fused_adamw_takes_the_same_steps_as_the_plain_one() -> None:
    torch.manual_seed(0)
    ours, plain = torch.nn.Linear(20, 20), torch.nn.Linear(20, 20)
    plain.load_state_dict(ours.state_dict())
    one = build_optimizer(ours, TrainingConfig(), torch.device("cpu"))
    two = torch.optim.AdamW(plain.parameters(), lr=1e-3, weight_decay=0.01, foreach=False, fused=False)
    x = torch.randn(8, 20)
    for _ in range(5):
        for module, optimizer in ((ours, one), (plain, two)):
            optimizer.zero_grad()
            module(x).square().mean().backward()
            optimizer.step()
    assert torch.allclose(ours.weight, plain.weight, atol=1e-6)


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD])
def test_an_eager_optimizer_computes_bit_for_bit_what_the_original_does(kind: type[torch.optim.Optimizer]) -> None:
    torch.manual_seed(0)
    ours, plain = torch.nn.Linear(20, 20), torch.nn.Linear(20, 20)
    plain.load_state_dict(ours.state_dict())
    settings = {"lr": 1e-2, "weight_decay": 0.1, "fused": True}
    two = kind(plain.parameters(), **settings)  # first, so that its class has been changed by making one
    one = eager(kind)(ours.parameters(), **settings)
    x = torch.randn(8, 20)
    for step in range(4):
        for module, optimizer in ((ours, one), (plain, two)):
            optimizer.zero_grad()
            module(x).square().mean().backward()
            optimizer.step()
        if step == 1:
            one.load_state_dict(copy.deepcopy(two.state_dict()))
    for mine, theirs in zip(ours.parameters(), plain.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    assert repr(one) == repr(two)
    assert one.state_dict().keys() == two.state_dict().keys()


def test_methods_that_are_not_hidden_from_the_compiler_stay_as_they_are() -> None:
    class Plain(torch.optim.SGD):
        def step(self, closure: object = None) -> None:  # type: ignore[override]
            raise AssertionError

    assert eager(Plain).step is Plain.step
    assert eager(Plain).zero_grad is not Plain.zero_grad


@pytest.mark.parametrize("largest", [None, 0.5, 5.0, 6.0, math.inf])
@pytest.mark.parametrize("values", [(3.0, 4.0), (0.0, 0.0), (math.nan, 1.0), (math.inf, 1.0)])
@pytest.mark.parametrize("is_async", [True, False])
def test_gradients_are_clipped_as_pytorch_does(
    largest: float | None, values: tuple[float, float], is_async: bool
) -> None:
    ours, theirs = nn.Linear(1, 1), nn.Linear(1, 1)
    for layer in (ours, theirs):
        layer.weight.grad, layer.bias.grad = torch.tensor([[values[0]]]), torch.tensor([values[1]])
    norm = clip_gradient(ours, largest, is_async=is_async)
    wanted = nn.utils.clip_grad_norm_(theirs.parameters(), math.inf if largest is None else largest)
    assert torch.equal(norm, wanted) or (norm.isnan() and wanted.isnan())
    if math.isfinite(norm):
        assert torch.equal(ours.weight.grad, theirs.weight.grad)
        assert torch.equal(ours.bias.grad, theirs.bias.grad)


@pytest.mark.parametrize("is_async", [True, False])
def test_a_gradient_that_is_short_enough_is_left_alone_where_that_can_be_known(is_async: bool) -> None:
    layer = nn.Linear(1, 1)
    layer.weight.grad, layer.bias.grad = torch.tensor([[0.3]]), torch.tensor([0.4])
    version = layer.weight.grad._version
    clip_gradient(layer, 1.0, is_async=is_async)
    assert (layer.weight.grad._version == version) != is_async
    clip_gradient(layer, 0.1, is_async=is_async)
    assert layer.weight.grad._version > version


@pytest.mark.parametrize("scheduler", ["cosine", "step", "reduce_on_plateau"])
@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_groups_keep_their_ratio_to_the_learning_rate_in_every_schedule(scheduler: str, kind: str) -> None:
    training = TrainingConfig(
        epochs=6, learning_rate=1.0, min_lr=0.2, optimizer=kind, scheduler=scheduler, warmup_epochs=0.5,
        scheduler_patience=0, scheduler_step_size=1,
    )  # fmt: skip
    module = nn.ModuleDict({"encoder": nn.Linear(2, 2), "head": nn.Linear(2, 2)})
    optimizer = build_optimizer(module, training, torch.device("cpu"), {"encoder.": 0.1})
    assert [len(group["params"]) for group in optimizer.param_groups] == [2, 2]
    assert optimizer.param_groups[1]["params"][0] is module["encoder"].weight
    schedule = LearningRate(optimizer, training, STEPS)
    for epoch in range(1, 7):
        for step in range(STEPS):
            schedule.before_step((epoch - 1) * STEPS + step, epoch)
            head, encoder = (group["lr"] for group in optimizer.param_groups)
            assert encoder == pytest.approx(0.1 * head)
            assert schedule.value == head
        schedule.after_epoch(epoch * STEPS, 1.0)
    assert schedule.value < 0.3


def test_parameters_without_gradient_have_no_group() -> None:
    module = nn.ModuleDict({"encoder": nn.Linear(2, 2), "head": nn.Linear(2, 2)})
    module["encoder"].requires_grad_(False)
    optimizer = build_optimizer(module, TrainingConfig(), torch.device("cpu"), {"encoder.": 0.1})
    assert [group["lr_factor"] for group in optimizer.param_groups] == [1.0]


def test_the_state_of_groups_is_restored_and_keeps_their_factors() -> None:
    torch.manual_seed(0)
    training = TrainingConfig(scheduler="none")
    module = nn.ModuleDict({"encoder": nn.Linear(2, 2), "head": nn.Linear(2, 2)})
    optimizer = build_optimizer(module, training, torch.device("cpu"), {"encoder.": 0.5})

    def step(one: nn.ModuleDict, by: torch.optim.Optimizer) -> None:
        by.zero_grad()
        one["head"](one["encoder"](torch.ones(1, 2))).sum().backward()
        by.step()

    step(module, optimizer)
    again = copy.deepcopy(module)
    restored = build_optimizer(again, training, torch.device("cpu"), {"encoder.": 0.5})
    load_optimizer(restored, copy.deepcopy(optimizer.state_dict()), training, training.model_dump())
    for one, by in ((module, optimizer), (again, restored)):
        step(one, by)
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), again.parameters(), strict=True))
    assert [group["lr"] for group in restored.param_groups] == pytest.approx([1e-3, 5e-4])
