"""Train the tokenizer and the tiny dense base model."""

from collections.abc import Iterator

import torch
from rows import PREAMBLE, instructions, raw_texts
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

VOCABULARY = 768
BOS, EOS, PAD = "<s>", "</s>", "<pad>"
MAX_LENGTH = 1024

STEPS = 2000
BATCH = 16
BLOCK = 256
RATE = 3e-3
WARMUP = 100


def train_tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE on raw texts and instruction rows; digits stay apart."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[BOS, EOS, PAD],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_tokenizer_texts(seed), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        padding_side="left",
        model_max_length=MAX_LENGTH,
        clean_up_tokenization_spaces=False,
    )


def _tokenizer_texts(seed: int) -> Iterator[str]:
    for row, text in zip(instructions(1000, seed), raw_texts(seed), strict=False):
        yield PREAMBLE.format(**row)
        yield text


def untrained_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Return the model with random weights."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=MAX_LENGTH,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 100000.0},
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )
    return LlamaForCausalLM(config)


def pretrain(tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """Pre-train the model on raw texts, always in the same way on the same machine."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)  # the result depends on it
    torch.use_deterministic_algorithms(True)
    model = untrained_model(tokenizer)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _rate_factor)
    blocks = _blocks(tokenizer, seed)
    progress = tqdm(range(STEPS), desc="pre-training")
    for _ in progress:
        batch = torch.tensor([next(blocks) for _ in range(BATCH)])
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        progress.set_postfix(loss=f"{loss.item():.3f}")
    return model


def _rate_factor(step: int) -> float:
    """Warm up, then fall linearly to zero."""
    return min((step + 1) / WARMUP, (STEPS - step) / (STEPS - WARMUP))


def _blocks(tokenizer: PreTrainedTokenizerFast, seed: int) -> Iterator[list[int]]:
    """Yield blocks of raw texts, each text between BOS and EOS."""
    tokens: list[int] = []
    for text in raw_texts(seed):
        tokens += tokenizer(text + EOS).input_ids
        while len(tokens) >= BLOCK:
            yield tokens[:BLOCK]
            tokens = tokens[BLOCK:]
