"""The loss of labelled tokens: plain transformers' loss and gradients, from fewer logits."""

import weakref

import pytest
import torch
from backbones import FORMS, random_dense
from mixtures import random_mixture
from trainings import random_rows

from xft.training import losses
from xft.training.batches import PACKED, packed, padded, use_packed_attention
from xft.training.losses import LabelledLoss, row_losses

pytestmark = pytest.mark.numeric

PROMPTS = {24: 10, 1: 0, 9: 0, 17: 15, 5: 5}  # rows of so many tokens, and how many have no label
CHUNK = 7
TOKENS = 29  # of several micro-batches, for example
CAP = {"final_logit_softcapping": 0.5}
SCALED = {"gemma2": CAP, "gemma3_text": CAP, "granite": {"logits_scaling": 3.0}}
KINDS = {"dense": random_dense, "mixture": random_mixture}


def rows() -> list[dict]:
    drawn = [random_rows([n], prompt, seed=n, kinds=97) for n, prompt in PROMPTS.items()]
    return [row for (row,) in drawn]


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
        assert loss.parts.shape == (labelled(),)


def test_the_head_computes_each_labelled_token_once(batch):
    model = random_dense("llama")
    sizes = []
    model.lm_head.register_forward_hook(lambda *given: sizes.append(given[-1][..., 0].numel()))
    loss = LabelledLoss(model)
    loss_and_gradients(model, batch, **loss.options(batch["labels"]))
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


def test_of_the_gradients_of_a_head_only_the_sum_stays(batch):
    """Those of a chunk are freed before the next chunk: a head's weight is large."""
    model = random_dense("llama")
    loss = LabelledLoss(model)
    compute, terms, alive = loss.gradients_of, [], []

    def noted(*given) -> list[torch.Tensor]:
        alive.append(sum(term() is not None for term in terms))
        results = compute(*given)
        terms.append(weakref.ref(results[-1]))
        return results

    loss.gradients_of = noted
    loss_and_gradients(model, batch, **loss.options(batch["labels"]))
    assert alive == [0, 1, 1, 1]  # the first one becomes the sum


@pytest.mark.parametrize("whole_head", [True, False])
def test_a_batch_without_labels_has_no_loss_and_gradients_of_zero(whole_head, tokenizer):
    model = random_mixture("llama")
    loss = LabelledLoss(model, whole_head)
    batch = padded(tokenizer)([rows()[0] | {"labels": [-100] * 24}])
    found = model(**batch | {"row": None}, **loss.options(batch["labels"]), num_items_in_batch=3)
    found.loss.backward()
    assert found.loss == 0
    assert not any(weight.grad.any() for weight in model.parameters())


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


@pytest.mark.parametrize("lengths", [[9, 5, 17, 24], [24, 17, 9, 5], [17, 24, 5, 9]])
def test_each_row_has_its_own_loss_in_any_order(lengths, tokenizer):
    """Whatever rows stand in its batch. They are computed by length."""
    model = random_dense("llama")
    loss = LabelledLoss(model)
    given = random_rows(lengths, 2, kinds=97)
    found = row_losses(model, loss, given, tokenizer)
    alone = [row_losses(model, loss, [row], tokenizer)["rows"][0] for row in given]
    assert [row["tokens"] for row in found["rows"]] == [length - 2 for length in lengths]
    expected = [row["loss"] for row in alone]
    assert [row["loss"] for row in found["rows"]] == pytest.approx(expected, rel=1e-5)
    assert len({round(value, 3) for value in expected}) == len(given)
