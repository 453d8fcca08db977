"""The loss of labelled tokens: plain transformers' loss and gradients, from fewer logits."""

import copy

import pytest
import torch
from backbones import FORMS, random_dense
from mixtures import random_mixture
from plain_losses import encoded, responses
from pretended_device import waits_of
from trainings import learn, random_rows
from transformers import AutoModelForCausalLM

from xft.modeling.packed_attention import PACKED, use_packed_attention
from xft.training import losses
from xft.training.batches import packed, padded
from xft.training.distillation import Distillation
from xft.training.losses import LabelledLoss, SplitModel

pytestmark = pytest.mark.numeric

PROMPTS = {24: 10, 1: 0, 9: 0, 17: 15, 5: 5}  # rows of so many tokens, and how many have no label
CHUNK = 7
TOKENS = 29  # of several micro-batches, for example
CAP = {"final_logit_softcapping": 0.5}
SCALED = {"gemma2": CAP, "gemma3_text": CAP, "granite": {"logits_scaling": 3.0}}
KINDS = {"dense": random_dense, "mixture": random_mixture}


def rows() -> list[dict]:
    return [
        random_rows([length], prompt, seed=length, kinds=97)[0]
        for length, prompt in PROMPTS.items()
    ]


def labelled() -> int:
    """The number of labelled tokens. The first token of a row is predicted by none."""
    return sum(length - max(prompt, 1) for length, prompt in PROMPTS.items())


@pytest.fixture(params=["padded", "packed"])
def batch(request, tokenizer) -> dict:
    collate = padded(tokenizer) if request.param == "padded" else packed(row_bounds=False)
    return {key: value for key, value in collate(rows()).items() if key != "row"}


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """And blocks of three tokens, with vocabularies of about 100."""
    monkeypatch.setattr(losses, "CHUNK_TOKENS", CHUNK)
    monkeypatch.setattr(losses, "BLOCK_LOGITS", {False: 300, True: 300})


def loss_and_gradients(model, batch: dict, **options) -> tuple[torch.Tensor, dict]:
    model.zero_grad()
    loss = model(**batch, **options, num_items_in_batch=torch.tensor(TOKENS)).loss
    (3 * loss).backward()
    return loss.detach(), {name: weight.grad for name, weight in model.named_parameters()}


def assert_same(found: tuple[torch.Tensor, dict], expected: tuple[torch.Tensor, dict]) -> None:
    torch.testing.assert_close(found[0], expected[0], atol=0, rtol=2e-6)
    assert found[1].keys() == expected[1].keys()
    for name, gradient in expected[1].items():
        error = torch.linalg.vector_norm(found[1][name] - gradient)
        assert error <= 1e-5 * torch.linalg.vector_norm(gradient) + 1e-9, name


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backbone", [*FORMS, "mistral"])
def test_loss_and_gradients_are_plain_transformers(backbone, kind, batch, tokenizer):
    """Those of padded rows, also if the rows are packed. mistral's window of 8 ends within rows of
    9: their last token has no label, but counts in a mixture's balance loss.
    """
    model = KINDS[kind](backbone, **SCALED.get(backbone, {}))
    expected = loss_and_gradients(model, padded(tokenizer)(rows()) | {"row": None})
    if "attention_mask" not in batch:
        attention = use_packed_attention(model, half_precision=False)
        assert attention == ("eager" if backbone == "gemma2" else PACKED)  # a cap on its logits
    for whole_head in (True, False):
        loss = LabelledLoss(model, whole_head)
        assert_same(loss_and_gradients(model, batch, **loss.options(batch["labels"])), expected)
        assert loss.parts.shape == (labelled(), 1)


@pytest.mark.parametrize("whole_head", [True, False])
def test_dft_weighs_the_gradient_of_each_token_by_its_probability(whole_head, batch, tokenizer):
    """By autograd of the formula. The value stays the cross-entropy."""
    model = random_dense("llama")
    inputs = padded(tokenizer)(rows()) | {"row": None}
    plain, _ = loss_and_gradients(model, inputs)
    model.zero_grad()
    logs = model(inputs["input_ids"], inputs["attention_mask"]).logits[:, :-1].log_softmax(-1)
    following = inputs["labels"][:, 1:]
    logs = logs[following != -100].gather(1, following[following != -100][:, None])
    (3 * -(logs.exp().detach() * logs).sum() / TOKENS).backward()
    gradients = {name: weight.grad for name, weight in model.named_parameters()}
    if "attention_mask" not in batch:
        use_packed_attention(model, half_precision=False)
    loss = LabelledLoss(model, whole_head, is_dft=True)
    found = loss_and_gradients(model, batch, **loss.options(batch["labels"]))
    assert_same(found, (plain, gradients))


def test_a_training_with_dft_has_its_gradient(tiny_llama, data, tmp_path):
    flags = ["--data", data, "--max-steps", 1, "--per-device-train-batch-size", 12, "--loss", "dft"]
    (line, *_) = learn("sft", tmp_path / "out", "--base", tiny_llama, *flags)
    model = AutoModelForCausalLM.from_pretrained(tiny_llama)
    logits, targets = responses(model, encoded(tiny_llama))
    logs = logits.log_softmax(-1).gather(1, targets[:, None])
    (-logs.exp().detach() * logs).mean().backward()
    norm = torch.nn.utils.get_total_norm([weight.grad for weight in model.parameters()]).item()
    assert line["grad_norm"] == pytest.approx(norm, rel=1e-4)
    assert line["loss"] == pytest.approx(-logs.mean().item(), rel=1e-5)


def test_the_head_computes_each_labelled_token_once(batch):
    model = random_dense("llama")
    sizes = []
    model.lm_head.register_forward_hook(lambda head, inputs, output: sizes.append(output[..., 0]))
    loss = LabelledLoss(model)
    loss_and_gradients(model, batch, **loss.options(batch["labels"]))
    sizes = [size.numel() for size in sizes]
    assert max(sizes) == CHUNK
    assert sum(sizes) == labelled()


def test_gradients_of_a_head_in_bf16_are_summed_in_fp32(monkeypatch):
    """A sum in bf16 of equal terms, one for each row, ends at 256 of them."""
    monkeypatch.setattr(losses, "CHUNK_TOKENS", 1)
    model = random_dense("llama").bfloat16()
    loss, row, gradients = LabelledLoss(model), torch.tensor([[5, 6]]), []
    for rows in (row, row.repeat(600, 1)):
        model.zero_grad()
        model(rows, labels=rows, **loss.options(rows)).loss.backward()
        gradients.append(model.lm_head.weight.grad)
    assert (gradients[1] - gradients[0]).norm() < 0.1 * gradients[0].norm()


@pytest.mark.parametrize("whole_head", [True, False])
def test_a_batch_without_labels_has_no_loss_and_gradients_of_zero(whole_head, tokenizer):
    model = random_mixture("llama")
    loss = LabelledLoss(model, whole_head)
    batch = padded(tokenizer)([rows()[0] | {"labels": [-100] * 24}])
    found = model(**batch | {"row": None}, **loss.options(batch["labels"]), num_items_in_batch=3)
    found.loss.backward()
    assert found.loss == 0
    assert not any(weight.grad.any() for weight in model.parameters())


@pytest.mark.parametrize("whole_head", [True, False])
@pytest.mark.parametrize("weight", [0.3, 1])
def test_the_divergence_is_torchs_own_in_float64(weight, whole_head, batch):
    teacher = random_mixture("gemma2", **CAP).eval().requires_grad_(False)
    model = random_dense("llama")
    expected = loss_and_gradients_in_float64(model, teacher, batch, weight)

    def distilled(model, teacher, batch):
        loss = LabelledLoss(model, whole_head, Distillation(SplitModel(teacher), weight))
        loss.teach(batch)
        return loss_and_gradients(model, batch, **loss.options(batch["labels"]))

    models = model, teacher
    before = copy.deepcopy(models)
    assert_same(distilled(*models, batch), expected)
    waits = waits_of(distilled, *before, batch)
    assert waits["nonzero"] == ("attention_mask" in batch) + (1 if whole_head else 3)


def loss_and_gradients_in_float64(model, teacher, batch: dict, weight: float):
    model.zero_grad()
    inputs = {key: value for key, value in batch.items() if key != "labels"}
    targets = batch["labels"][:, 1:]
    kept = targets != -100
    own, wanted = (
        each(**inputs).logits[:, :-1][kept].double().log_softmax(-1) for each in (model, teacher)
    )
    ce = torch.nn.functional.nll_loss(own, targets[kept], reduction="sum")
    kl = torch.nn.functional.kl_div(own, wanted, reduction="sum", log_target=True)
    loss = ((1 - weight) * ce + weight * kl) / TOKENS
    (3 * loss).backward()
    return loss.detach().float(), {name: one.grad for name, one in model.named_parameters()}


@pytest.mark.parametrize("kind", KINDS)
def test_autocast_and_its_weights_gradients_are_kept(kind, batch):
    """The gradients are those of bf16 products, so they agree to its precision only."""
    model = KINDS[kind]("llama-tied").eval()
    found = []
    for labelled_only in (False, True):
        options = LabelledLoss(model).options(batch["labels"]) if labelled_only else {}
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(**batch, **options, num_items_in_batch=TOKENS).loss
        model.zero_grad()
        loss.backward()
        found.append((loss.detach(), torch.cat([w.grad.flatten() for w in model.parameters()])))
    (plain, gradient), (ours, our_gradient) = found
    assert ours.item() == pytest.approx(plain.item(), rel=1e-2)
    error = torch.linalg.vector_norm(our_gradient - gradient)
    assert error <= 0.03 * torch.linalg.vector_norm(gradient)
