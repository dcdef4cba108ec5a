"""Models whose weights are functions of what is trained: a base and parameters beside it.

transformers' Trainer trains them like any other model. What is frozen lies in the base, which is no
parameter of theirs: no gradient, no weight decay and no moment of the optimiser can reach it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call


class PartlyTrained(nn.Module):
    """f(x; θ) with θ = `weights()`, a function of this module's own parameters.

    Args:
        base: a classifier of transformers; it is frozen.
    """

    accepts_loss_kwargs = False  # a batch's loss is a mean, which the Trainer scales

    def __init__(self, base: Any) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)

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

    def state_dict(self, *args: Any, **options: Any) -> dict[str, Any]:
        """Without the base: it is there when a killed run goes on."""
        whole = super().state_dict(*args, **options)
        return {name: value for name, value in whole.items() if not name.startswith("base.")}

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **options: Any) -> Any:
        """What `state_dict` gives, of which nothing is missing."""
        base = {f"base.{name}": value for name, value in self.base.state_dict().items()}
        return super().load_state_dict({**base, **state_dict}, *args, **options)


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
