"""The README.md of a merged model, as mergekit writes it, without importing mergekit.

A test compares both.
"""

from __future__ import annotations

from pathlib import Path

import yaml

from mergekit_fair.merging.configuration import MergeConfiguration, ModelReference
from mergekit_fair.merging.methods.registry import spec_of

_CARD = """---
{metadata}
---
# {name}

This is a merge of pre-trained language models created using [mergekit](https://github.com/cg123/mergekit).

## Merge Details
### Merge Method

This model was merged using the {merge_method} merge method{base_text}.

### Models Merged

The following models were included in the merge:
{model_list}

### Configuration

The following YAML configuration was used to produce this model:

```yaml
{config_yaml}
```
"""


def merge_card(config: MergeConfiguration, source: str, name: str) -> str:
    """The card of a merge.

    Args:
        config: of the recipe.
        source: the recipe's YAML.
        name: of the merged model.
    """
    models = config.referenced_models()
    base = None if config.merge_method == "slerp" else config.base_model
    parts = [part.path for model in models for part in (model.model, model.lora) if part]
    facts = {
        "base_model": [path for path in parts if _is_on_hub(path)],
        "tags": ["mergekit", "merge"],
        "library_name": "transformers",
    }
    return _CARD.format(
        metadata=yaml.dump(facts),
        name=name,
        merge_method=_method(config.merge_method),
        base_text=f" using {_linked(base)} as a base" if base else "",
        model_list="\n".join(f"* {_linked(model)}" for model in models if model != base),
        config_yaml=source,
    )


def _method(name: str) -> str:
    spec = spec_of(name)
    title, url = spec.pretty_name or spec.name, spec.reference_url
    return f"[{title}]({url})" if url and url.strip() else title


def _linked(model: ModelReference) -> str:
    paths = [part.path for part in (model.model, model.lora) if part]
    return " + ".join(
        f"[{path}](https://huggingface.co/{path})" if _is_on_hub(path) else path for path in paths
    )


def _is_on_hub(path: str) -> bool:
    """A path that is there may be a name of the Hub, too: mergekit asks it."""
    if path[0] in "/~" or path.count("/") > 1:
        return False
    if not Path(path).exists():
        return True
    if path[0] == ".":  # which no name begins with
        return False
    import huggingface_hub
    from huggingface_hub.errors import HFValidationError

    try:
        return bool(huggingface_hub.repo_exists(path, repo_type="model", token=False))
    except HFValidationError:
        return False
