"""A lazy import hook: mergekit's and lm-eval's own programs see the plug-in by themselves.

The `.pth` file that `mergekit-fair hook install` writes calls `arm` at every start of Python.
Nothing is imported here for that reason: `typing` alone would cost more than the whole hook.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # type checkers know the name; typing's own would have to be imported
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any

# A few modules, and what is registered once one of them is ready: module, function, what it is.
# Importing lm-eval must not cost the import of mergekit, nor the other way round.
_FAMILIES = (
    # The second one, which every merge imports, is for the case that one of our own method modules
    # had imported the first one.
    (
        ("mergekit.merge_methods", "mergekit.plan"),
        ("mergekit_fair.merging.methods.registry", "register_methods", "merge methods"),
    ),
    (
        ("mergekit.merge",),
        ("mergekit_fair.merging.gate", "register_gate", "checks of models"),
    ),
    # The list of models, and the metrics, which a command that only looks at tasks imports.
    (
        ("lm_eval.models",),
        ("mergekit_fair.evaluation.lm", "register_models", "models"),
    ),
    (
        ("lm_eval.api.metrics",),
        ("mergekit_fair.evaluation.lm", "register_aggregations", "aggregations"),
    ),
)


def arm() -> None:
    """Register methods, models and aggregations as soon as this process imports their place."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path[:0] = [_Finder(*family) for family in _FAMILIES]


class _Finder:
    """Puts a `_Loader` in front of the loader that the finders behind it find for a target."""

    def __init__(self, targets: tuple[str, ...], registration: tuple[str, str, str]) -> None:
        self._targets = targets
        self.registration = registration

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in self._targets or self not in sys.meta_path:
            return None
        # Only those behind: the ones in front have been asked, and might ask us in turn.
        for finder in sys.meta_path[sys.meta_path.index(self) + 1 :]:
            spec = finder.find_spec(name, path, target) if hasattr(finder, "find_spec") else None
            if spec is not None:
                if hasattr(spec.loader, "exec_module"):
                    spec.loader = _Loader(spec.loader, self)  # type: ignore[assignment]
                return spec
        return None


class _Loader:
    """The real loader, and the registration once it has executed the module."""

    def __init__(self, real: Any, finder: _Finder) -> None:
        self._real = real
        self._finder = finder

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def exec_module(self, module: ModuleType) -> None:
        # Whoever looks at the module later finds its real loader.
        module.__loader__ = self._real
        if module.__spec__ is not None:
            module.__spec__.loader = self._real
        self._real.exec_module(module)
        if module.__name__.startswith("mergekit.") and _own_import_runs():
            return
        if self._finder in sys.meta_path:
            sys.meta_path.remove(self._finder)
        _register(module.__name__, *self._finder.registration)


def _own_import_runs() -> bool:
    """Whether a method module of ours is half imported, so that its names are not there yet."""
    methods = _FAMILIES[0][1][0].rpartition(".")[0]
    return any(
        getattr(getattr(module, "__spec__", None), "_initializing", False)
        for name, module in list(sys.modules.items())
        if name.startswith(methods)
    )


def _register(target: str, module: str, function: str, what: str) -> None:
    try:
        from importlib import import_module

        getattr(import_module(module), function)()
    # Whatever is wrong with this package, programs that do not use it must go on.
    except (Exception, SystemExit) as error:
        import warnings

        cause = " ".join(f"{type(error).__name__}: {error}".split())
        warnings.warn(
            f"mergekit-fair could not register its {what} ({cause}); {target.partition('.')[0]} "
            "goes on without them. `mergekit-fair hook remove` ends these attempts.",
            RuntimeWarning,
            stacklevel=3,
        )
