"""The part of vLLM 0.33.0's interface that the evaluation uses, over plain transformers.

Tests run on it where vLLM is not installed. It computes each sequence alone, without a cache.
"""

from dataclasses import dataclass, field

from vllm.sampling_params import RequestOutputKind, SamplingParams

__all__ = ["EngineArgs", "LLMEngine", "RequestOutput", "SamplingParams"]
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
class CompletionOutput:
    index: int
    text: str
    token_ids: list[int]
    finish_reason: str | None = None
    stop_reason: int | str | None = None


@dataclass
class RequestOutput:
    request_id: str
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    finished: bool


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
        if len(prompt["prompt_token_ids"]) >= self.args.max_model_len:
            raise ValueError("the prompt is longer than the maximum model length")
        request = Request(request_id, prompt["prompt_token_ids"], params)
        if params.seed is not None:
            request.generator = torch.Generator().manual_seed(params.seed)
        self.requests.append(request)
        return f"{request_id}-0123abcd"

    def has_unfinished_requests(self) -> bool:
        return bool(self.requests)

    def step(self) -> list[RequestOutput]:
        """One more token for each sequence of the batch."""
        outputs = []
        for request in self.requests[: self.args.max_num_seqs]:
            request.written.append(self._next_token(request))
            output = self._output(request)
            if output.finished:
                self.requests.remove(request)
            if output.finished or request.params.output_kind is not RequestOutputKind.FINAL_ONLY:
                outputs.append(output)
        return outputs

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

    def _output(self, request: Request) -> RequestOutput:
        params, written = request.params, request.written
        text = self.tokenizer.decode(written, skip_special_tokens=True)
        found = next((stop for stop in params.stop if stop in text), None)
        reason, cause = None, None
        if not params.ignore_eos and written[-1] == self.tokenizer.eos_token_id:
            reason = "stop"
        elif written[-1] in params.stop_token_ids:
            reason, cause = "stop", written[-1]
        elif found is not None:
            reason, cause = "stop", found
            text = text[: text.index(found)]
        elif (
            len(written) >= params.max_tokens
            or len(request.prompt) + len(written) >= self.args.max_model_len
        ):
            reason = "length"
        completion = CompletionOutput(0, text, list(written), reason, cause)
        return RequestOutput(request.request_id, request.prompt, [completion], reason is not None)
