"""TTUR: two players of a game, such as a GAN's generator and discriminator, each with an optimizer and rate of its own.

    w <- w + b_n (g_w(theta, w) + noise)                  the discriminator
    theta <- theta + a_n (h_theta(theta, w) + noise)      the generator, from the same theta and w

M. Heusel, H. Ramsauer, T. Unterthiner, B. Nessler, S. Hochreiter, "GANs Trained by a Two Time-Scale Update Rule
Converge to a Local Nash Equilibrium", NeurIPS 2017, arXiv:1706.08500.

It converges to a local Nash equilibrium if the discriminator converges for every generator that stands still and

    sum a_n = sum b_n = infinity        sum (a_n^2 + b_n^2) < infinity        a_n = o(b_n)

which `two_time_scales` has; in practice both rates are constant, and which player is the faster one is tuned.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from shoal.optim.core import Chain, Param, Rule
from shoal.optim.core.arguments import above, whole
from shoal.optim.core.plan import Memory
from shoal.optim.core.scaler import scale_taken_off
from shoal.optim.schedules import Schedule, power_decay
from shoal.optim.wrapping import Wrapper, asks_for_closure
from shoal.text import shown

Loss = Callable[[], Tensor]
Order = Literal["simultaneous", "alternating"]
PLAYERS = ("generator", "discriminator")


class TTUR(torch.optim.Optimizer):
    """Two optimizers as one: each of the players has its own loss, and goes down it.

        optimizer = TTUR(Adam(G.parameters(), lr=1e-4, betas=(0.5, 0.999)),
                         Adam(D.parameters(), lr=3e-4, betas=(0.5, 0.999)))
        for real in batches:
            optimizer.step(generator=lambda: softplus(-D(G(noise()))).mean(),
                           discriminator=lambda: (softplus(-D(real)) + softplus(D(G(noise())))).mean())

    A loss's gradient is taken with respect to its own player alone, so that nothing has to be detached or cleared, and
    AdaFisher's factors are of its own player's loss (gradients by hand: `with optimizer.paused()` around the other's).
    A player that needs a graph (AdaHessian) gets its gradient with one.
    `step()` without losses steps both players by the gradients that are there, as those of one loss whose maximising
    player stands in `shoal.learning.games.ascending`.

    Parameter groups are the generator's, then the discriminator's, each with "player" in it; so one scheduler moves
    both rates: `LambdaLR(optimizer, [a, b])`.

    Args:
        generator, discriminator: optimizers of torch or Shoal, wrapped ones too, over different parameters.
        discriminator_steps: steps of the discriminator to each of the generator; its loss is worked out for each.
        order: "simultaneous" takes the gradients of the generator's step and of the discriminator's last one at the
            same point, as published; "alternating" lets the generator meet the discriminator after its steps, and is
            what two players that both need a graph can do.

    Raises:
        ValueError: an argument is not allowed.
    """

    generator: torch.optim.Optimizer
    discriminator: torch.optim.Optimizer
    discriminator_steps: int
    order: Order

    def __init__(
        self,
        generator: torch.optim.Optimizer,
        discriminator: torch.optim.Optimizer,
        *,
        discriminator_steps: int = 1,
        order: Order = "simultaneous",
    ) -> None:
        for name, player in zip(PLAYERS, (generator, discriminator), strict=True):
            if not isinstance(player, torch.optim.Optimizer):
                raise ValueError(f"{name}: got {type(player).__name__}; a torch.optim.Optimizer is allowed")
            core = player.core if isinstance(player, Wrapper) else player
            if asks_for_closure(core):
                raise ValueError(
                    f"{name}: got {type(core).__name__}, which calls a closure several times a step; one whose step "
                    "takes gradients as they are is allowed"
                )
        if not whole(1)(discriminator_steps):
            raise ValueError(f"discriminator_steps: got {discriminator_steps!r}; a whole number >= 1 is allowed")
        if order not in ("simultaneous", "alternating"):
            raise ValueError(f"order: got {order!r}; 'simultaneous' or 'alternating' is allowed")
        _check_graphs((generator, discriminator), order)
        own = {id(p) for p in _parameters(generator)}
        if any(id(p) in own for p in _parameters(discriminator)):
            raise ValueError("generator, discriminator: got a parameter that both have; one player's is allowed")
        self.__setstate__(  # torch's own way to make an optimizer out of parts
            {
                "generator": generator,
                "discriminator": discriminator,
                "discriminator_steps": discriminator_steps,
                "order": order,
                "defaults": {},
            }
        )

    @classmethod
    def of(
        cls,
        optimizer: type[torch.optim.Optimizer],
        generator: Iterable[Any],
        discriminator: Iterable[Any],
        *,
        generator_lr: float,
        discriminator_lr: float,
        discriminator_steps: int = 1,
        order: Order = "simultaneous",
        **settings: Any,
    ) -> TTUR:
        """The same class for both players: `TTUR.of(Adam, G.parameters(), D.parameters(), generator_lr=1e-4, ...)`.

        Args:
            optimizer: class that takes parameters and `lr`.
            generator, discriminator: parameters, pairs of name and parameter, or groups.
            generator_lr, discriminator_lr: finite numbers > 0.
            discriminator_steps, order: of the class.
            settings: further arguments of both optimizers.

        Raises:
            ValueError: an argument is not allowed.
        """
        for name, rate in (("generator_lr", generator_lr), ("discriminator_lr", discriminator_lr)):
            if not above(0.0)(rate):
                raise ValueError(f"{name}: got {rate!r}; a finite number > 0 is allowed")
        make: Callable[..., torch.optim.Optimizer] = optimizer
        return cls(
            make(generator, lr=generator_lr, **settings),
            make(discriminator, lr=discriminator_lr, **settings),
            discriminator_steps=discriminator_steps,
            order=order,
        )

    @staticmethod
    def rule(generator: Rule, discriminator: Rule, discriminates: str = "max.") -> Rule:
        """One rule for models that hold both players, for stacked peers and games as tasks.

        Steps are simultaneous, one each. A learning rate that is given on the way is the generator's; the
        discriminator's stays in its ratio to it.

        Args:
            generator, discriminator: rules of the players, of learning rates > 0 and the same seed.
            discriminates: what the names of the discriminator's parameters begin with.

        Raises:
            ValueError: an argument is not allowed; or later, a rule sums over the model (DoG, MoMo), or no parameter
                is the discriminator's.
        """
        for name, rule in zip(PLAYERS, (generator, discriminator), strict=True):
            if not isinstance(rule, Rule) or not above(0.0)(rule.lr):
                raise ValueError(f"{name}: got {shown(rule)}; a Rule with a learning rate > 0 is allowed")
            if rule.frame is not None:
                raise ValueError(f"{name}: got a rule in coordinates of its own; one in the model's is allowed")
        if not isinstance(discriminates, str) or not discriminates:
            raise ValueError(f"discriminates: got {discriminates!r}; the beginning of names is allowed")
        if generator.seed != discriminator.seed:
            raise ValueError(
                f"generator, discriminator: got rules of the seeds {generator.seed} and {discriminator.seed}; one seed "
                "is allowed (dataclasses.replace(rule, seed=...)), from which every parameter draws by itself"
            )

        def player(param: Param) -> Rule:
            return discriminator if param.name.startswith(discriminates) else generator

        def links(param: Param) -> Chain:
            plan = player(param).plan(param)
            if plan.model_wide:
                raise ValueError(
                    f"{player(param).name}: got a rule that sums over all parameters, of both players; "
                    "rules that do not are allowed (TTUR of two optimizers takes any)"
                )
            return plan.chain

        def factor(param: Param) -> float:
            own = player(param)
            return own.plan(param).factor * own.lr / generator.lr

        name = f"ttur({generator.name}, {discriminator.name})"
        return PlayersRule(name, generator.lr, links, generator.seed, factor, discriminates=discriminates)

    # -- both players' ------------------------------------------------------------------------------------------------

    @property
    def players(self) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
        """Generator, discriminator."""
        return self.generator, self.discriminator

    @property
    def _step_supports_amp_scaling(self) -> bool:
        return any(getattr(player, "needs_graph", False) for player in self.players)

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """The generator's groups, then the discriminator's; changes of a group are its player's."""
        groups = []
        for name, player in zip(PLAYERS, self.players, strict=True):
            for group in player.param_groups:
                group["player"] = name
                groups.append(group)
        return groups

    @property
    def state(self) -> Any:  # type: ignore[override]
        """Parameter -> its state, of both; a copy that is only to be read."""
        return {**self.generator.state, **self.discriminator.state}

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Refused: a group belongs to one of the players.

        Raises:
            ValueError: always.
        """
        raise ValueError("param_group: add it to `generator` or to `discriminator`")

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients of both."""
        for player in self.players:
            player.zero_grad(set_to_none)

    def __repr__(self) -> str:
        return f"TTUR of {self.generator!r} and {self.discriminator!r}"

    # -- steps --------------------------------------------------------------------------------------------------------

    def step(  # type: ignore[override]
        self, generator: Loss | None = None, discriminator: Loss | None = None
    ) -> tuple[Tensor, Tensor] | None:
        """One step of the generator and `discriminator_steps` of the discriminator.

        Args:
            generator, discriminator: work out the loss that each goes down; or neither, for the gradients that are
                there. What needs the loss (MoMo) is told its player's.

        Returns:
            Both losses before the step, of the discriminator the last one; None without losses.

        Raises:
            ValueError: one loss alone was given, or none where there are several steps or an order to follow; or what
                was given is no function, or its loss not a number that depends on its player; or both players need a
                graph at the same point.
            RuntimeError: a GradScaler steps a player that needs a graph.
        """
        with scale_taken_off(self, given=False):
            pass  # nothing is given: a scaler is refused
        if generator is None and discriminator is None:
            if self.discriminator_steps > 1 or self.order != "simultaneous":
                raise ValueError("generator, discriminator: got no losses; both are needed for more than one step each")
            for player in _check_graphs(self.players, self.order):
                player.step()
            return None
        if generator is None or discriminator is None:
            raise ValueError("generator, discriminator: got one loss; both or neither are allowed")
        order = _check_graphs(self.players, self.order)
        for name, loss in zip(PLAYERS, (generator, discriminator), strict=True):
            if not callable(loss):
                raise ValueError(f"{name}: got {type(loss).__name__}; a function that works out the loss is allowed")
        for _ in range(self.discriminator_steps - 1):
            _take(self.discriminator, _gradient(self.players, 1, discriminator))
        second = _gradient(self.players, 1, discriminator)
        if self.order == "alternating":
            _take(self.discriminator, second)
            first = _gradient(self.players, 0, generator)
            _take(self.generator, first)
        else:
            first = _gradient(self.players, 0, generator)
            for player in order:
                _take(player, first if player is self.generator else second)
        return first, second

    # -- copies and checkpoints ---------------------------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in (*PLAYERS, "discriminator_steps", "order", "defaults")}

    def state_dict(self) -> dict[str, Any]:
        """Both states in torch's form: the discriminator's parameters are numbered after the generator's."""
        state: dict[int, Any] = {}
        groups: list[dict[str, Any]] = []
        count = 0
        for name, player in zip(PLAYERS, self.players, strict=True):
            own = player.state_dict()
            state |= {count + i: value for i, value in own["state"].items()}
            groups += [
                {**group, "params": [count + i for i in group["params"]], "player": name}
                for group in own["param_groups"]
            ]
            count += sum(len(group["params"]) for group in own["param_groups"])
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Load both states, or neither.

        Raises:
            ValueError: it is not the state of two players, or of others.
        """
        parts = []
        for name in PLAYERS:
            groups = [dict(group) for group in state_dict["param_groups"] if group.get("player") == name]
            if not groups:
                raise ValueError(f"state_dict: got no groups of the {name}; the state of a TTUR is allowed")
            ids = {i: number for number, i in enumerate(i for group in groups for i in group["params"])}
            for group in groups:
                group["params"] = [ids[i] for i in group["params"]]
            state = {ids[i]: value for i, value in state_dict["state"].items() if i in ids}
            parts.append({"state": state, "param_groups": groups})
        before = self.generator.state_dict()
        self.generator.load_state_dict(parts[0])
        try:
            self.discriminator.load_state_dict(parts[1])
        except Exception:
            self.generator.load_state_dict(before)
            raise


@dataclass(frozen=True)
class PlayersRule(Rule):
    """A rule for two players, which refuses models without the second one.

    Attributes:
        discriminates: what the names of its parameters begin with.
    """

    discriminates: str = ""

    def remembers(self, params: Iterable[Param]) -> bool:
        """Whether there is any state; raises as `memory`."""
        params = list(params)
        self._check(param.name for param in params)
        return super().remembers(params)

    def memory(self, parameters: Mapping[str, Tensor], seed: int | None = None) -> Memory:
        """Fresh state, as of any rule.

        Raises:
            ValueError: no parameter is the discriminator's.
        """
        self._check(parameters)
        return super().memory(parameters, seed)

    def _check(self, names: Iterable[str]) -> None:
        found = list(names)
        if not any(name.startswith(self.discriminates) for name in found):
            raise ValueError(
                f"{self.name}: got {self.discriminates!r}, with which no parameter begins: {', '.join(found[:4])}; "
                "the beginning of one's name is allowed"
            )


def ttur(rule: Rule, ratio: float = 1.0, fast: str = "max.") -> Rule:
    """The rule with a rate of its own for one player: `ratio` times the other's.

    Args:
        rule: of both players.
        ratio: finite, > 0.
        fast: what the names of that player's parameters begin with.

    Raises:
        ValueError: an argument is not allowed; or later, no parameter's name begins so.
    """
    if not above(0.0)(ratio):
        raise ValueError(f"ratio: got {ratio!r}; a finite number > 0 is allowed")
    return TTUR.rule(rule, replace(rule, lr=rule.lr * ratio), fast)


def two_time_scales(
    slow: float, fast: float, *, slow_power: float = 0.9, fast_power: float = 0.6, steps: float = 1.0
) -> tuple[Schedule, Schedule]:
    """Rates a_n of the slow player and b_n of the fast one, with all that the theory asks of them.

        a_n = slow / (1 + n / steps)^slow_power        b_n = fast / (1 + n / steps)^fast_power

    Args:
        slow, fast: first rates, > 0.
        slow_power, fast_power: 1/2 < fast_power < slow_power <= 1: above 1/2 for sums of squares that are finite, at
            most 1 for sums that are not, and a_n = o(b_n).
        steps: over which the rates fall by 2^power, > 0.

    Raises:
        ValueError: an argument is not allowed; the message names the condition.

    >>> a, b = two_time_scales(0.1, 0.2, slow_power=1.0, fast_power=0.75, steps=10)
    >>> round(a(10), 6), round(b(150), 6)
    (0.05, 0.025)
    """
    for name, rate in (("slow", slow), ("fast", fast), ("steps", steps)):
        if not above(0.0)(rate):
            raise ValueError(f"{name}: got {rate!r}; a finite number > 0 is allowed")
    for name, power in (("slow_power", slow_power), ("fast_power", fast_power)):
        if not (above(0.5)(power) and power <= 1.0):
            why = "the sum of squared rates is infinite" if power <= 0.5 else "the sum of rates is finite"
            raise ValueError(f"{name}: got {power!r}; a number in (0.5, 1] is allowed, or {why}")
    if not slow_power > fast_power:
        raise ValueError(
            f"slow_power: got {slow_power!r}; a number above fast_power = {fast_power} is allowed, or the rate of the "
            "slow player does not vanish beside the fast one's"
        )
    return power_decay(slow, slow_power, steps), power_decay(fast, fast_power, steps)


def _parameters(player: torch.optim.Optimizer) -> list[Tensor]:
    return list(itertools.chain.from_iterable(group["params"] for group in player.param_groups))


def _check_graphs(players: tuple[torch.optim.Optimizer, torch.optim.Optimizer], order: Order) -> list[Any]:
    """The players in the order in which they may step from one point: who differentiates its graph goes first.

    Raises:
        ValueError: that is both, and the step of one would change what the other's graph was made of.
    """
    graphed = [bool(getattr(player, "needs_graph", False)) for player in players]
    if order == "simultaneous" and all(graphed):
        raise ValueError("order: got 'simultaneous' for two players that need a graph; 'alternating' is allowed")
    return list(players if graphed[0] else reversed(players))


def _gradient(players: Sequence[torch.optim.Optimizer], number: int, loss: Loss) -> Tensor:
    """The loss of a player, with its gradient left at its own parameters; the other one's layers are not watched.

    Raises:
        ValueError: it is not one number that depends on these.
    """
    player, other, name = players[number], players[1 - number], PLAYERS[number]
    own = [p for p in _parameters(player) if p.requires_grad]
    graphed = bool(getattr(player, "needs_graph", False))
    core = other.core if isinstance(other, Wrapper) else other
    paused: Callable[[], AbstractContextManager[None]] = getattr(core, "paused", nullcontext)
    with paused():
        with torch.enable_grad():
            value = loss()
        if not isinstance(value, Tensor) or value.numel() != 1:
            got = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"{name}: got a loss that is {got}; a tensor of one number is allowed")
        found: Sequence[Tensor | None] = [None] * len(own)
        if own and value.requires_grad:
            found = torch.autograd.grad(value, own, create_graph=graphed, allow_unused=True)
    if own and all(g is None for g in found):
        raise ValueError(f"{name}: got a loss that depends on no parameter of the {name}'s; one that does is allowed")
    for p, g in zip(own, found, strict=True):
        p.grad = g
    return value.detach()


def _take(player: torch.optim.Optimizer, loss: Tensor) -> None:
    step: Callable[..., Any] = player.step
    step(**({"loss": loss.item()} if getattr(player, "needs_loss", False) else {}))
