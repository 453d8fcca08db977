"""The part of vLLM 0.33.0's interface that the evaluation uses, over plain transformers.

Tests run on it where vLLM is not installed. It computes each sequence alone, without a cache.
"""

from dataclasses import dataclass
from types import SimpleNamespace

from vllm.sampling_params import RequestOutputKind, SamplingParams

__all__ = ["EngineArgs", "LLMEngine", "SamplingParams"]
__version__ = "0.33.0"


@dataclass
class EngineArgs:
    model: str
    dtype: str = "auto"
    load_format: str = "auto"
    max_model_len: int | None = None
    max_num_seqs: int | None = None
    generation_config: str = "auto"
    disable_log_stats: bool = False


class LLMEngine:
    def __init__(self, engine_args: EngineArgs):
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.args, name = engine_args, engine_args.model
        self.tokenizer = AutoTokenizer.from_pretrained(name)
        self.model = AutoModelForCausalLM.from_pretrained(name, dtype=engine_args.dtype)
        self.requests = []

    @classmethod
    def from_engine_args(cls, engine_args: EngineArgs) -> "LLMEngine":
        return cls(engine_args)

    def add_request(self, request_id: str, prompt: dict, params: SamplingParams) -> str:
        if not isinstance(request_id, str):
            raise TypeError(f"request_id must be a string, got {type(request_id)}")
        assert prompt["type"] == "token"
        assert params.output_kind is RequestOutputKind.FINAL_ONLY  # no other is here
        if len(prompt["prompt_token_ids"]) >= self.args.max_model_len:
            raise ValueError("the prompt is longer than the maximum model length")
        self.requests.append((request_id, prompt["prompt_token_ids"], params))
        return f"{request_id}-0123abcd"

    def has_unfinished_requests(self) -> bool:
        return bool(self.requests)

    def step(self) -> list[SimpleNamespace]:
        """The last sequence of a batch, which is the first that ends."""
        import torch

        place = min(len(self.requests), self.args.max_num_seqs) - 1
        request_id, prompt, params = self.requests.pop(place)
        generator = None if params.seed is None else torch.Generator().manual_seed(params.seed)
        written = []
        while not written or not self._has_ended(prompt, written, params):
            written.append(self._next_token(prompt + written, params, generator))
        output = SimpleNamespace(token_ids=written)
        return [SimpleNamespace(request_id=request_id, outputs=[output])]

    def _next_token(self, ids: list[int], params: SamplingParams, generator) -> int:
        import torch

        with torch.no_grad():
            logits = self.model(torch.tensor([ids])).logits[0, -1]
        if params.allowed_token_ids is not None:
            allowed = torch.zeros_like(logits, dtype=torch.bool)
            allowed[params.allowed_token_ids] = True
            logits = logits.masked_fill(~allowed, -torch.inf)
        if params.temperature == 0:
            return int(logits.argmax())
        ordered = (logits / params.temperature).softmax(-1).sort(descending=True)
        outside = ordered.values.cumsum(-1) - ordered.values >= params.top_p
        shares = ordered.values.masked_fill(outside, 0)
        return int(ordered.indices[torch.multinomial(shares, 1, generator=generator)])

    def _has_ended(self, prompt: list[int], written: list[int], params: SamplingParams) -> bool:
        text = self.tokenizer.decode(written, skip_special_tokens=True)
        return (
            (not params.ignore_eos and written[-1] == self.tokenizer.eos_token_id)
            or written[-1] in params.stop_token_ids
            or any(stop in text for stop in params.stop)
            or len(written) >= params.max_tokens
            or len(prompt) + len(written) >= self.args.max_model_len
        )
