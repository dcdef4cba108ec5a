"""What is used of peft beyond its promises."""

import peft
import torch
from adapters import edit_weights, make_adapter
from transformers import BertForSequenceClassification

from mergekit_fair.compat.peft import adapter_report


def test_the_report_of_an_adapter(tiny, tmp_path):
    """And peft is as before when it is closed."""
    base = tiny("bert").base
    adapter = make_adapter(base, tmp_path / "a", seed=1, targets=["query"], task_type="SEQ_CLS")
    key = "base_model.model.scorer.weight"
    edit_weights(adapter, lambda found: found.update({key: torch.ones(2)}))
    real = peft.PeftModel.load_adapter
    with adapter_report() as unused:
        model = BertForSequenceClassification.from_pretrained(base)
        peft.PeftModel.from_pretrained(model, adapter)
    assert unused == [key]
    assert peft.PeftModel.load_adapter is real


def test_biases_that_are_saved_three_times_are_not_reported(tiny, tmp_path):
    base = tiny("bert").base
    adapter = make_adapter(
        base, tmp_path / "a", seed=1, targets=["query"], task_type="SEQ_CLS", bias="all"
    )
    with adapter_report() as unused:
        model = BertForSequenceClassification.from_pretrained(base)
        peft.PeftModel.from_pretrained(model, adapter)
    assert unused == []
