"""`fair-image-classifier`: lm-eval runs an image classifier on the document's picture."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from lm_eval.api.model import LM
from transformers import AutoConfig, AutoModelForImageClassification

from mergekit_fair.compat.lm_eval_hf import commit_of
from mergekit_fair.errors import CheckpointError, ConfigError, DataError, first_line
from mergekit_fair.evaluation import advice
from mergekit_fair.evaluation.classifier import (
    absent_weights,
    require_head,
    require_weights,
    resolve_device,
)
from mergekit_fair.evaluation.lm.answer_cache import require_key, source_identity, tie_cache
from mergekit_fair.evaluation.lm.choices import Choices
from mergekit_fair.evaluation.lm.scoring import (
    Answer,
    PreparedRequests,
    answer,
    group,
    only_choices,
)
from mergekit_fair.evaluation.model_inputs import ImageInputs, load_processor
from mergekit_fair.schema import nearest

if TYPE_CHECKING:
    from collections.abc import Hashable

    from lm_eval.api.instance import Instance

_log = logging.getLogger(__name__)
_OPTIONS = (
    *("pretrained", "image_field", "choice_map", "device", "dtype", "batch_size"),
    *("max_batch_size", "revision", "trust_remote_code", "mixed_precision_dtype"),
)


class FairImageClassifier(LM):
    """`fair-image-classifier`: log p(class of the choice | the document's picture), in float32.

    p as in `FairClassifier`.
    The picture is the one of the task's `doc_to_image`, else `doc[image_field]`: a path or a PIL
    image. Each document is run once. NaN: its logits are NaN or infinite, so there is no answer.

    Args:
        pretrained: folder, or name on the Hub; with an image processor.
        image_field: the document's field, for tasks without `doc_to_image`.
        choice_map: choice → class, see `Choices`; without it a choice must be a label.
        device: `auto`, or a torch device; CUDA falls back to `auto` where there is none, as in
            lm-eval's `hf`, whose command line asks for it unless told otherwise.
        dtype: `auto` (the checkpoint's) or torch's name of one.
        batch_size: documents a forward pass, or `auto`.
        max_batch_size: where `auto` begins.
        revision, trust_remote_code: as transformers has them.
        mixed_precision_dtype: run forward passes under autocast of this dtype, as lm-eval's `hf`.

    Raises:
        CheckpointError: no classification head, weights that are missing, fewer than two classes,
            a head that gives neither classes nor labels, no image processor, no such device.
        ConfigError: a choice_map that does not fit the model, an unknown option.
    """

    MULTIMODAL = True

    def __init__(
        self,
        pretrained: str,
        *,
        image_field: str = "image",
        choice_map: Any = None,
        device: str | None = None,
        dtype: str | torch.dtype = "auto",
        batch_size: int | str = 1,
        max_batch_size: int | None = 64,
        revision: str = "main",
        trust_remote_code: bool = False,
        mixed_precision_dtype: str | None = None,
        **unknown: Any,
    ) -> None:
        super().__init__()
        for name in unknown:
            raise ConfigError(
                f"unknown option {name!r}{nearest(name, list(_OPTIONS))}",
                where="model_args",
                allowed=_OPTIONS,
            )
        self.pretrained, self.image_field = str(pretrained), str(image_field)
        self.revision = str(revision)
        self._device = torch.device(_usable(device))
        self._autocast = getattr(torch, mixed_precision_dtype) if mixed_precision_dtype else None
        is_auto = str(batch_size).startswith("auto")
        self.batch_size: int | str = "auto" if is_auto else int(batch_size)
        self.max_batch_size = int(max_batch_size or 64)
        self.batch_sizes: dict[int, int] = {}
        options = {"revision": self.revision, "trust_remote_code": trust_remote_code}
        self._require_model(options)
        self.processor = load_processor(self.pretrained, "image", **options)
        self.model = self._load(dtype, options)
        self.config = self.model.config
        self._choice_map = choice_map
        self.choices = self.choices_of(self.config, self.pretrained)

    def choices_of(self, config: Any, where: object) -> Choices:
        """Which class each choice is, for a model of this configuration."""
        return Choices.of_model(config, where, self._choice_map)

    def _require_model(self, options: Mapping[str, Any]) -> None:
        try:
            config = AutoConfig.from_pretrained(self.pretrained, **options)
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"no model here ({first_line(error)})", where=self.pretrained
            ) from error
        require_head(config.architectures or [], "image", self.pretrained)

    def _load(self, dtype: str | torch.dtype, options: Mapping[str, Any]) -> Any:
        model, report = AutoModelForImageClassification.from_pretrained(
            self.pretrained, dtype=dtype, output_loading_info=True, **options
        )
        require_weights(absent_weights(report), self.pretrained)
        return model.to(self._device).eval()

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[Answer]:
        """(log p of the choice's class, whether it is the arg max) of every request.

        Raises:
            ConfigError: no picture, an unknown choice, a cache that cannot tell documents apart.
            DataError: not exactly one picture, or one that cannot be read.
        """
        return self.answer(self.prepare(requests), quiet=disable_tqdm)

    def prepare(self, requests: Sequence[Instance]) -> PreparedRequests:
        """The pictures of the documents, not yet opened; errors as `loglikelihood`."""
        documents = group(requests, _document, self._picture)
        return PreparedRequests(
            requests, documents, ImageInputs(documents.contents, self.processor)
        )

    def answer(self, prepared: PreparedRequests, *, quiet: bool) -> list[Answer]:
        """What `loglikelihood` gives, with the weights that the model has now."""
        return answer(self, prepared, quiet=quiet)

    def _picture(self, request: Instance) -> Any:
        where = f"task {request.task_name}"
        visual = request.args[2].get("visual") if len(request.args) > 2 else None
        if self.cache_hook.dbdict is not None:
            require_key(visual is not None, "picture (doc_to_image)", where)
        if visual is not None:
            pictures = list(visual) if isinstance(visual, list | tuple) else [visual]
        elif isinstance(request.doc, Mapping) and self.image_field in request.doc:
            pictures = [request.doc[self.image_field]]
        else:
            raise ConfigError(
                "has no doc_to_image, and its documents lack the field of the picture",
                where=where,
                got=self.image_field,
                allowed=sorted(map(str, request.doc)),
                fix=f"name the field: {advice.model_argument('image_field')}",
            )
        if len(pictures) != 1 or not _is_picture(pictures[0]):
            raise DataError(
                f"document {request.doc_id} must have exactly one picture",
                where=where,
                got=pictures,
                allowed="a path or a PIL image",
            )
        return pictures[0]

    def logits(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """(documents, classes), in the model's dtype."""
        dtype = self.model.dtype
        pixels = {
            name: value.to(self._device, dtype if value.is_floating_point() else None)
            for name, value in batch.items()
        }
        autocast = self._autocast
        with torch.autocast(self._device.type, autocast) if autocast else nullcontext():
            return self.model(**pixels).logits

    def identity(self) -> dict[str, object]:
        """Everything that decides the answers: a digest of the folder, and options."""
        commit = commit_of(self.config)
        return {
            "weights": source_identity(self.pretrained, self.revision, commit),
            "dtype": str(self.model.dtype),
            "image_field": self.image_field,
            "choice_map": repr(self._choice_map),
            "autocast": str(self._autocast),
        }

    def set_cache_hook(self, cache_hook: Any) -> None:
        """Called by lm-eval when it opens a cache.

        Raises:
            ConfigError: the cache holds answers of another model.
        """
        tie_cache(cache_hook.dbdict, self.pretrained, self.identity())
        super().set_cache_hook(cache_hook)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> NoReturn:
        """Refused. Raises ConfigError."""
        del disable_tqdm
        only_choices(requests)

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> NoReturn:
        """Refused. Raises ConfigError."""
        del disable_tqdm
        only_choices(requests)


def _document(request: Instance) -> Hashable:
    """Equal for the requests of one document; those made by hand have no number."""
    if request.doc_id is None:
        return id(request.doc)
    return request.task_name, request.doc_id


def _is_picture(value: Any) -> bool:
    from PIL import Image

    return isinstance(value, str | Path | Image.Image)


def _usable(device: str | None) -> str:
    if device is None or (str(device).startswith("cuda") and not torch.cuda.is_available()):
        _log.info("device %s: taking what there is", device)
        return resolve_device("auto")
    return resolve_device(str(device))
