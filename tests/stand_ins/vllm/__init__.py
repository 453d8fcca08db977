"""The part of vLLM 0.33.0's interface that the evaluation uses, over plain transformers.

Tests run on it where vLLM is not installed. It computes each sequence alone, without a cache.
"""

from dataclasses import dataclass, field
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


@dataclass
class Request:
    request_id: str
    prompt: list[int]
    params: SamplingParams
    generator: object = None
    written: list[int] = field(default_factory=list)


class LLMEngine:
    def __init__(self, engine_args: EngineArgs):
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.args = engine_args
        self.tokenizer = AutoTokenizer.from_pretrained(engine_args.model)
        self.model = AutoModelForCausalLM.from_pretrained(
            engine_args.model, dtype=engine_args.dtype
        )
        self.requests: list[Request] = []

    @classmethod
    def from_engine_args(cls, engine_args: EngineArgs) -> "LLMEngine":
        return cls(engine_args)

    def add_request(self, request_id: str, prompt: dict, params: SamplingParams) -> str:
        import torch

        if not isinstance(request_id, str):
            raise TypeError(f"request_id must be a string, got {type(request_id)}")
        assert prompt["type"] == "token"
        assert params.output_kind is RequestOutputKind.FINAL_ONLY  # no other is here
        if len(prompt["prompt_token_ids"]) >= self.args.max_model_len:
            raise ValueError("the prompt is longer than the maximum model length")
        request = Request(request_id, prompt["prompt_token_ids"], params)
        if params.seed is not None:
            request.generator = torch.Generator().manual_seed(params.seed)
        self.requests.append(request)
        return f"{request_id}-0123abcd"

    def has_unfinished_requests(self) -> bool:
        return bool(self.requests)

    def step(self) -> list[SimpleNamespace]:
        """One more token for each sequence of the batch. The sequences that have ended."""
        ended = []
        for request in self.requests[: self.args.max_num_seqs]:
            request.written.append(self._next_token(request))
            if self._has_ended(request):
                self.requests.remove(request)
                output = SimpleNamespace(token_ids=list(request.written))
                ended.append(SimpleNamespace(request_id=request.request_id, outputs=[output]))
        return ended

    def _next_token(self, request: Request) -> int:
        import torch

        with torch.no_grad():
            logits = self.model(torch.tensor([request.prompt + request.written])).logits[0, -1]
        if request.params.allowed_token_ids is not None:
            allowed = torch.zeros_like(logits, dtype=torch.bool)
            allowed[request.params.allowed_token_ids] = True
            logits = logits.masked_fill(~allowed, -torch.inf)
        if request.params.temperature == 0:
            return int(logits.argmax())
        ordered = (logits / request.params.temperature).softmax(-1).sort(descending=True)
        outside = ordered.values.cumsum(-1) - ordered.values >= request.params.top_p
        shares = ordered.values.masked_fill(outside, 0)
        place = torch.multinomial(shares, 1, generator=request.generator)
        return int(ordered.indices[place])

    def _has_ended(self, request: Request) -> bool:
        params, written = request.params, request.written
        text = self.tokenizer.decode(written, skip_special_tokens=True)
        return (
            (not params.ignore_eos and written[-1] == self.tokenizer.eos_token_id)
            or written[-1] in params.stop_token_ids
            or any(stop in text for stop in params.stop)
            or len(written) >= params.max_tokens
            or len(request.prompt) + len(written) >= self.args.max_model_len
        )
