"""Models whose weights are functions of what is trained: a base and parameters beside it.

transformers' Trainer trains them like any other model. What is frozen lies in the base, which is no
parameter of theirs: no gradient, no weight decay and no moment of the optimiser can reach it.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from mergekit_fair.evaluation.linearised import linearised_logits
from mergekit_fair.training.row_losses import row_losses


class PartlyTrained(nn.Module):
    """f(x; θ) with θ = `weights()`, a function of this module's own parameters.

    Args:
        base: a classifier of transformers; it is frozen.
    """

    accepts_loss_kwargs = False  # a batch's loss is a mean, which the Trainer scales

    def __init__(self, base: Any) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        hooked: Any = self
        hooked.register_state_dict_post_hook(_without_base)

    @property
    def config(self) -> Any:
        """Of the base."""
        return self.base.config

    def weights(self) -> dict[str, Tensor]:
        """Name of a parameter of the base → its tensor; those that are left out are the base's."""
        raise NotImplementedError

    def forward(self, **batch: Any) -> Any:
        """What the base gives with these weights."""
        return functional_call(self.base, self.weights(), (), batch)

    def whole(self) -> Any:
        """The base's class with these weights, which transformers saves."""
        mode = self.training
        model = copy.deepcopy(self.eval().base).requires_grad_(True)
        with torch.no_grad():
            model.load_state_dict(self.weights(), strict=False)
        self.train(mode)
        return model

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **options: Any) -> Any:
        """What `state_dict` gives, of which nothing is missing."""
        base = {f"base.{name}": value for name, value in self.base.state_dict().items()}
        return super().load_state_dict({**base, **state_dict}, *args, **options)


def _without_base(module: nn.Module, state: dict[str, Any], prefix: str, *unused: Any) -> None:
    """It is there when a killed run goes on."""
    del unused
    for name in module.get_submodule("base").state_dict():
        del state[f"{prefix}base.{name}"]


class ChosenWeights(PartlyTrained):
    """θ is θ₀ but for chosen weights, which start there and are trained.

    Args:
        base: θ₀.
        places: name of a parameter → int64 (k,), its chosen weights in the flattened tensor.
    """

    def __init__(self, base: Any, places: Mapping[str, Tensor]) -> None:
        super().__init__(base)
        self._choose(places)

    def _choose(self, places: Mapping[str, Tensor]) -> None:
        # In the base's order, which is that of the optimiser's state, too.
        start = {name: each for name, each in self.base.named_parameters() if name in places}
        places = {name: places[name] for name in start}
        values = {name: start[name].detach().flatten()[at] for name, at in places.items()}
        self.places, self.values = mirror(self.base, places), mirror(self.base, values)

    def weights(self) -> dict[str, Tensor]:
        start, places = dict(self.base.named_parameters()), dict(self.places.named_buffers())
        return {
            name: start[name].flatten().scatter(0, places[name], values).view_as(start[name])
            for name, values in self.values.named_parameters()
        }

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **options: Any) -> Any:
        """With the choice that was made before the kill: scores may differ in their last digits
        where another number of threads has computed them."""
        head, device = "places.", next(self.parameters()).device
        places = {
            name.removeprefix(head): value.to(device, copy=True)
            for name, value in state_dict.items()
            if name.startswith(head)
        }
        self._choose(places)
        return super().load_state_dict(state_dict, *args, **options)


class GatedWeights(PartlyTrained):
    """θ = θ₀ + z ∘ δ, where a weight or a layer has a gate z in [0, 1] that may be exactly 0.

    While it is trained z is drawn from a hard concrete distribution with the parameter a = log α,
    and the loss has a penalty on the share of weights that are expected to change:

        z = clip(s (ζ − γ) + γ, 0, 1),   s = σ((log u − log(1 − u) + a) / β),   u ~ U(0, 1)
        loss = loss of the base + penalty · Σ_j P(z_j > 0) / D,   P(z > 0) = σ(a − β log(−γ / ζ))

    Afterwards z = clip(σ(a) (ζ − γ) + γ, 0, 1), which is 0 from a ≤ −2.4 on. δ begins at 0, a at 2.

    Args:
        base: θ₀.
        gates: name of a parameter → the name of its gate, and the shape of that.
        penalty: of changing every weight.
        speed: a is `speed` times a parameter, so that Adam moves it by so many learning rates.

    Source: hard concrete gates, arXiv 1712.01312, with its β = 2/3, γ = −0.1, ζ = 1.1.
    """

    _BETA, _GAMMA, _ZETA, _START = 2 / 3, -0.1, 1.1, 2.0

    def __init__(
        self, base: Any, gates: Mapping[str, tuple[str, torch.Size]], penalty: float, speed: float
    ) -> None:
        super().__init__(base)
        self.penalty, self._speed = penalty, speed
        self._gate_of = {name: gate for name, (gate, _) in gates.items()}
        start = dict(self.base.named_parameters())
        self.deltas = mirror(base, {name: torch.zeros_like(start[name]) for name in gates})
        # By this name weight decay leaves them alone.
        self.gate_biases = mirror(
            base, {gate: torch.zeros(shape, device=base.device) for gate, shape in gates.values()}
        )

    def _logits(self) -> dict[str, Tensor]:
        """Name of a gate → a."""
        gates = self.gate_biases.named_parameters()
        return {name: self._START + self._speed * each for name, each in gates}

    def _open(self, *, drawn: bool) -> dict[str, Tensor]:
        """Name of a gate → z."""
        opened = {}
        for name, logit in self._logits().items():
            if drawn:
                chance = torch.rand_like(logit).clamp_(1e-6, 1 - 1e-6)
                logit = (torch.logit(chance) + logit) / self._BETA
            stretched = logit.sigmoid() * (self._ZETA - self._GAMMA) + self._GAMMA
            opened[name] = stretched.clamp(0, 1)
        return opened

    def weights(self) -> dict[str, Tensor]:
        start, opened = dict(self.base.named_parameters()), self._open(drawn=self.training)
        found = {}
        for name, delta in self.deltas.named_parameters():
            z = opened[self._gate_of[name]]
            # Where z is 0 not even −0 becomes 0.
            found[name] = torch.where(z == 0, start[name], start[name] + z * delta)
        return found

    def forward(self, **batch: Any) -> Any:
        """As the base, the loss with the penalty."""
        output = super().forward(**batch)
        if output.get("loss") is not None:
            output["loss"] = output["loss"] + self.penalty * self.expected_share()
        return output

    def expected_share(self) -> Tensor:
        """Σ_j P(z_j > 0) / D over the D weights of the model."""
        shift = self._BETA * math.log(-self._GAMMA / self._ZETA)
        return self._mean({name: (a - shift).sigmoid() for name, a in self._logits().items()})

    def open_share(self) -> float:
        """The share of the D weights whose gate is not closed."""
        with torch.no_grad():
            opened = self._open(drawn=False)
            return float(self._mean({name: (z > 0).float() for name, z in opened.items()}))

    def _mean(self, of_gates: Mapping[str, Tensor]) -> Tensor:
        """Over the D weights, each of which has its gate's value."""
        sizes = {name: each.numel() for name, each in self.deltas.named_parameters()}
        parts = [of_gates[self._gate_of[name]].mean() * size for name, size in sizes.items()]
        return torch.stack(parts).sum() / sum(sizes.values())


class TangentWeights(PartlyTrained):
    """A model that is linear in its weights: f(x; θ₀) + (θ − θ₀)ᵀ ∇f(x; θ₀), with θ trained.

    `weights()` are θ, from θ₀ on; as ordinary weights they make another model.

    Args:
        base: θ₀; its attention becomes `eager`, the only one that can be differentiated forwards.
    """

    def __init__(self, base: Any) -> None:
        super().__init__(base)
        base.set_attn_implementation("eager")
        start = dict(base.named_parameters())
        self.values = mirror(base, {name: each.detach().clone() for name, each in start.items()})

    def weights(self) -> dict[str, Tensor]:
        return dict(self.values.named_parameters())

    def forward(self, labels: Tensor | None = None, **batch: Any) -> dict[str, Tensor]:
        """`logits` of the linear model; with labels, their mean cross entropy as `loss`."""
        start = dict(self.base.named_parameters())
        logits = linearised_logits(self.base, start, self.weights(), batch)
        loss = {} if labels is None else {"loss": row_losses(logits, labels).mean()}
        return {**loss, "logits": logits}


def mirror(model: Any, tensors: Mapping[str, Tensor]) -> nn.Module:
    """A module that holds tensors under the names that parameters have in a model.

    So weight decay spares what it spares in the model: transformers tells biases and norms by name
    and by type. Floating point numbers become parameters, others buffers.

    >>> model = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))
    >>> held = mirror(model, {"0.bias": torch.zeros(1), "1.weight": torch.zeros(2)})
    >>> [name for name, _ in held.named_parameters()], type(held.get_submodule("1")).__name__
    (['0.bias', '1.weight'], 'LayerNorm')
    """
    root = nn.Module()
    for name, tensor in tensors.items():
        place, path, is_trained = root, name.split("."), tensor.is_floating_point()
        for depth, part in enumerate(path[:-1], 1):
            if part not in place._modules:
                of_model = model.get_submodule(".".join(path[:depth]))
                is_norm = is_trained and isinstance(of_model, nn.LayerNorm)
                empty = nn.LayerNorm(0, elementwise_affine=False) if is_norm else nn.Module()
                place.add_module(part, empty)
            place = place.get_submodule(part)
        if is_trained:
            place.register_parameter(path[-1], nn.Parameter(tensor))
        else:
            place.register_buffer(path[-1], tensor)
    return root
