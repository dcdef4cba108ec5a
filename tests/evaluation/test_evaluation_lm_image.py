"""`fair-image-classifier` against a plain transformers loop."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import Family, rewrite, tiny_family
from classifiers import as_tensor, requests
from lm_eval.api.model import CachingLM
from PIL import Image

from mergekit_fair.errors import CheckpointError, ConfigError, DataError
from mergekit_fair.evaluation.lm.image_classifier import FairImageClassifier

MAP = "no:0;yes:1"


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    return tiny_family(tmp_path_factory.mktemp("vit"), "vit")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Of several sizes and modes."""
    folder = tmp_path_factory.mktemp("pictures")
    draw, paths = np.random.default_rng(0), []
    for number, (height, width) in enumerate([(16, 16), (20, 31), (9, 40), (64, 64), (16, 17)]):
        picture = Image.fromarray(draw.integers(0, 256, (height, width, 3), dtype=np.uint8))
        paths.append(str(folder / f"{number}.png"))
        (picture.convert("L") if number == 2 else picture).save(paths[-1])
    return paths


def load(folder: Path, **options: Any) -> FairImageClassifier:
    return FairImageClassifier(str(folder), **({"choice_map": MAP, "batch_size": 2} | options))


def answers(lm: Any, made: list[Any]) -> torch.Tensor:
    return as_tensor(lm.loglikelihood(made, disable_tqdm=True))


def plain(folder: Path, paths: list[str]) -> torch.Tensor:
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    model = AutoModelForImageClassification.from_pretrained(folder).eval()
    processor = AutoImageProcessor.from_pretrained(folder)
    rows = []
    with torch.no_grad():
        for path in paths:
            batch = processor(images=Image.open(path).convert("RGB"), return_tensors="pt")
            rows.append(torch.log_softmax(model(**batch).logits[0], dim=-1))
    return torch.stack(rows)


def with_visual(made: list[Any], visual: Any) -> list[Any]:
    for request in made:
        request.arguments = (*request.arguments, {"visual": visual(request.doc)})
    return made


def test_equal_to_a_plain_loop(family: Family, pictures: list[str]) -> None:
    """By path, as PIL image, and by the task's doc_to_image."""
    expected = plain(family.fft, pictures)
    assert float(expected.std(0)[0]) > 1e-3
    opened = [Image.open(path) for path in pictures]
    for batch_size in (1, 2, "auto"):
        lm = load(family.fft, batch_size=batch_size)
        for made in (
            requests(pictures, field="image"),
            requests([Path(path) for path in pictures], field="image"),
            requests(opened, field="image"),
            with_visual(requests(opened), lambda doc: [doc["text"]]),
            with_visual(requests(opened), lambda doc: doc["text"]),
        ):
            torch.testing.assert_close(answers(lm, made), expected, atol=1e-5, rtol=0)
    assert lm.batch_sizes == {0: 64}
    assert FairImageClassifier.MULTIMODAL
    lm = load(family.fft, image_field="file")
    made = requests(pictures, field="file", image="other.png")
    torch.testing.assert_close(answers(lm, made), expected, atol=1e-5, rtol=0)


def test_one_forward_pass_a_document(family: Family, pictures: list[str]) -> None:
    lm, rows = load(family.fft), []
    lm.model.register_forward_pre_hook(
        lambda *call: rows.append(len(call[2]["pixel_values"])), with_kwargs=True
    )
    answers(lm, requests(pictures, field="image"))
    assert rows == [2, 2, 1]


def test_dtype_and_device(family: Family, pictures: list[str]) -> None:
    lm = load(family.fft, dtype="bfloat16", device="cpu")
    assert lm.model.dtype == torch.bfloat16
    found = answers(lm, requests(pictures, field="image"))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, plain(family.fft, pictures), atol=0.05, rtol=0)
    # lm-eval's command line asks for CUDA unless it is told otherwise.
    is_there = torch.cuda.is_available()
    assert load(family.fft, device="cuda:0").device.type == ("cuda" if is_there else "cpu")
    with pytest.raises(CheckpointError, match="this device cannot be used"):
        load(family.fft, device="warp")


def test_nan_weights_give_no_answer(family: Family, pictures: list[str], tmp_path: Path) -> None:
    import shutil

    folder = Path(shutil.copytree(family.fft, tmp_path / "nan"))
    rewrite(folder, lambda tensors: tensors["classifier.bias"].fill_(float("nan")))
    found = load(folder).loglikelihood(requests(pictures, field="image"), disable_tqdm=True)
    assert all(math.isnan(value) and not is_greedy for value, is_greedy in found)


def test_models_that_are_refused(family: Family, tmp_path: Path) -> None:
    import shutil

    from transformers import ViTModel

    bare = Path(shutil.copytree(family.base, tmp_path / "bare"))
    ViTModel.from_pretrained(family.base).save_pretrained(bare)
    with pytest.raises(CheckpointError, match=r"no classification head; got \['ViTModel'\]"):
        load(bare)
    headless = Path(shutil.copytree(family.base, tmp_path / "headless"))
    rewrite(headless, lambda tensors: tensors.pop("classifier.weight"))
    with pytest.raises(CheckpointError, match=r"lacks 1 weights .*'classifier.weight'"):
        load(headless)
    (headless / "preprocessor_config.json").unlink()
    with pytest.raises(CheckpointError, match="has no image processor"):
        load(headless)
    with pytest.raises(CheckpointError, match=r"has no image processor|no model here"):
        load(tmp_path / "none")
    text = tiny_family(tmp_path / "bert", "bert").base
    shutil.copy(family.base / "preprocessor_config.json", text)
    with pytest.raises(CheckpointError, match="allowed: …ForImageClassification"):
        load(text)
    with pytest.raises(
        ConfigError, match="unknown option 'imagefield'; did you mean 'image_field'"
    ):
        load(family.base, imagefield="x")


def test_documents_that_are_refused(family: Family, pictures: list[str], tmp_path: Path) -> None:
    lm = load(family.fft)
    with pytest.raises(ConfigError) as caught:
        answers(lm, requests(pictures, field="file"))
    assert str(caught.value) == (
        "task a_task: has no doc_to_image, and its documents lack the field of the picture; got "
        "'image'; allowed: file. Name the field: --model_args pretrained=…,image_field=…."
    )
    for visual in ([], pictures[:2], [None]):
        made = with_visual(requests(pictures[:1]), lambda _, visual=visual: visual)
        with pytest.raises(DataError, match="document 0 must have exactly one picture"):
            answers(lm, made)
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"broken\.png: is not a readable picture"):
        answers(lm, requests([str(broken)], field="image"))
    with pytest.raises(ConfigError, match="choices are not the model's labels"):
        answers(load(family.fft, choice_map=None), requests(pictures, field="image"))
    for method in (lm.generate_until, lm.loglikelihood_rolling):
        with pytest.raises(ConfigError, match="a classifier answers multiple-choice tasks only"):
            method(requests(pictures[:1]))


def test_a_cache_belongs_to_one_model(family: Family, pictures: list[str], tmp_path: Path) -> None:
    made = with_visual(requests([Image.open(path) for path in pictures]), lambda doc: [doc["text"]])
    first = CachingLM(load(family.fft), str(tmp_path / "c.db")).loglikelihood(made)
    again = load(family.fft)
    again.logits = None  # nothing is computed
    wrapped = CachingLM(again, str(tmp_path / "c.db"))
    assert wrapped.loglikelihood(made) == first
    for other in (load(family.base), load(family.fft, dtype="bfloat16")):
        with pytest.raises(ConfigError, match="this cache holds answers of another model"):
            CachingLM(other, str(tmp_path / "c.db"))
    # Its key is the prompt, and the pictures of doc_to_image.
    with pytest.raises(ConfigError, match=r"does not hold the document's picture \(doc_to_image\)"):
        wrapped.loglikelihood(requests(pictures, field="image"))
