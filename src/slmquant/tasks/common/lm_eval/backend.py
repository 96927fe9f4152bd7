"""slmquant's model backend for lm-eval: answers its requests with log-likelihoods and texts.

Tokenization and truncation are those of lm-eval's own `hf` backend, so every answer is the same. The computation is
cheaper: common beginnings of inputs are run once (see `sharing`), batches have a bounded number of tokens and trees of
similar size, and logits are computed only where a continuation is scored, in chunks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import lru_cache
from math import ceil

import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from torch import Tensor

from slmquant.core.divergence import normalizers
from slmquant.errors import ModelError, NumericalError, RefusedError
from slmquant.model.running.output_head import OutputHead
from slmquant.model.running.token_trees import PackedBody, Tokens
from slmquant.tasks.common.contract import EvalContext
from slmquant.tasks.common.cuts import Cuts, item_of
from slmquant.tasks.common.lm_eval.sharing import Batch, one_by_one, plan
from slmquant.tasks.common.lm_eval.states import AskedStates, Scored, first_scored
from slmquant.tasks.common.texts.perplexity import logit_rows

__all__ = ["ContextLM"]

_BATCH_TOKENS = 512
"""Tokens of a forward pass, padding included: enough for full speed on a CPU, few enough that lengths differ little."""
_BLOCKS_TOGETHER = 4
"""Blocks of logits that are computed in a row, so that only one of several, the last, may be small."""
_REQUESTS_TOGETHER = 4096
"""Number of requests whose tokens are in memory at once."""
_REMEMBERED_TEXTS = 64
"""Number of texts whose tokens are cached, as lm-eval requests those of a context again with every option."""
_DEFAULT_CONTEXT_TOKENS = 2048
_UNLIMITED_TOKENS = 10**29
"""The `model_max_length` of a tokenizer without a limit is larger than this."""

Answer = tuple[float, bool]
"""Log-likelihood of a continuation, and whether greedy decoding would produce it."""


class ContextLM(TemplateLM):  # type: ignore[misc]  # lm-eval carries no types
    """An `EvalContext` as a language model for lm-eval.

    Args:
        context: The model and its tokenizer.
        name: The task's name, for progress and errors.
    """

    def __init__(self, context: EvalContext, name: str) -> None:
        super().__init__()
        self._context, self._name = context, name
        self._head = OutputHead(context.model, dtype=context.mode.head)
        self.tokenizer = context.tokenizer
        self._cuts = Cuts(name, self.max_length)

        @lru_cache(maxsize=_REMEMBERED_TEXTS)
        def encode(string: str, add_special_tokens: bool) -> Tokens:
            ids = context.tokenizer.encode(string, add_special_tokens=add_special_tokens, verbose=False)
            return tuple(ids)

        self._encode = encode

    @property
    def remarks(self) -> tuple[str, ...]:
        """Remarks about changed items so far, one line each."""
        return self._cuts.remarks

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text."""
        return self._special_token(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """The token before a continuation without context."""
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else self._special_token(bos)

    @property
    def max_length(self) -> int:
        """The longest input, in tokens."""
        config = self._context.model.config.get_text_config()
        for attribute in ("n_positions", "max_position_embeddings", "n_ctx"):
            if value := getattr(config, attribute, None):
                return int(value)
        limit = self.tokenizer.model_max_length
        return limit if limit and limit < _UNLIMITED_TOKENS else _DEFAULT_CONTEXT_TOKENS

    def tok_encode(self, string: str, add_special_tokens: bool | None = None) -> list[int]:
        """Token ids, by default with the special tokens that the tokenizer adds."""
        if add_special_tokens is None:
            has_bos = string.startswith(str(self.tokenizer.decode(self.prefix_token_id)))
            add_special_tokens = not has_bos
        return list(self._encode(string, add_special_tokens))

    def loglikelihood(self, requests: list[Instance]) -> list[Answer]:
        """One answer per (context, continuation).

        Requests are processed some thousands at a time, so that the tokens of a whole suite need not be in memory at
        once. Contexts are sorted, so that common beginnings are mostly in the same part.
        """
        self._context.progress.start(f"{requests[0].task_name or self._name}: answers", len(requests))
        order = sorted(range(len(requests)), key=lambda index: str(requests[index].args[0]))
        answers: dict[int, Answer] = {}
        for start in range(0, len(order), _REQUESTS_TOGETHER):
            part = order[start : start + _REQUESTS_TOGETHER]
            results = self._loglikelihood_tokens([self._pair(requests[index]) for index in part])
            answers |= zip(part, results, strict=True)
        return [answers[index] for index in range(len(requests))]

    def _pair(self, request: Instance) -> tuple[object, list[int], list[int]]:
        """Token ids of a context and its continuation, as lm-eval splits them.

        If the continuation is part of the context's last token and has no token of its own, lm-eval has no answer;
        here the continuation is then tokenized separately and appended to the context.
        """
        context, continuation = request.args
        item = item_of(request)
        if context:
            before, after = self._encode_pair(context, continuation)
        else:  # put a special token before it, unless it begins with that
            before, after = [self.prefix_token_id], list(self._encode(continuation, False))
            after = after[1:] if after[:1] == before else after
        if not after:
            self._cuts.melted(item)
            after = list(self._encode(continuation, False))
        if not after:
            raise RefusedError(
                f"task {self._name!r} has an answer without text: an option of item {request.doc_id} is "
                f"{continuation!r}; correct the data or leave the task out"
            )
        self._cuts.asked(item, len(before) + len(after), self.max_length + 1)  # the last token is not read
        return request.args, before, after

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """Log-likelihood of each whole text, in windows with as much context as fits."""
        windows, owners = [], []
        for index, request in enumerate(requests):
            tokens = self.tok_encode(request.args[0])
            for window in get_rolling_token_windows(
                token_list=tokens,
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            ):
                windows.append(((None, None), *make_disjoint_window(window)))
                owners.append(index)
        self._context.progress.start(f"{self._name}: windows", len(windows))
        totals = [0.0] * len(requests)
        for owner, (log_likelihood, _) in zip(owners, self._loglikelihood_tokens(windows), strict=True):
            totals[owner] += log_likelihood
        return totals

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """One greedy text per (prompt, options); see `writing.generate.answer`."""
        from slmquant.tasks.common.writing.generate import answer

        return answer(self._context, self._name, requests, self.tok_encode, self.max_length, self._cuts)

    @torch.inference_mode()
    def _loglikelihood_tokens(
        self,
        requests: Sequence[tuple[object, list[int], list[int]]],
        disable_tqdm: bool = True,  # noqa: ARG002  # lm-eval passes it
    ) -> list[Answer]:
        """One answer per (_, context ids, continuation ids)."""
        inputs = self._distinct_inputs(requests)
        answers: dict[int, Answer] = {}
        enough = _BLOCKS_TOGETHER * logit_rows(self._vocab)
        asked = AskedStates()
        for batch, hidden in self._run(list(inputs), {ids: first_scored(ids, inputs[ids]) for ids in inputs}):
            asked.add(batch, hidden, inputs)
            if asked.count >= enough:
                answers |= self._score(asked)
                asked = AskedStates()
        answers |= self._score(asked)
        return [answers[request] for request in range(len(requests))]

    def _distinct_inputs(self, requests: Sequence[tuple[object, list[int], list[int]]]) -> dict[Tokens, list[Scored]]:
        """Model input → the continuations to score on it; too long a context is cut on the left."""
        inputs: dict[Tokens, list[Scored]] = {}
        for index, (_, context_ids, continuation_ids) in enumerate(requests):
            if len(continuation_ids) > self.max_length:
                raise RefusedError(
                    f"task {self._name!r} has an answer of {len(continuation_ids)} tokens, but the model's context is "
                    f"{self.max_length} tokens; leave the task out, or use a model with a longer context"
                )
            ids = tuple((context_ids + continuation_ids)[-(self.max_length + 1) :][:-1])
            inputs.setdefault(ids, []).append(Scored(index, tuple(continuation_ids)))
        return inputs

    def _run(self, inputs: Sequence[Tokens], scored_from: Mapping[Tokens, int]) -> Iterator[tuple[Batch, Tensor]]:
        """Final hidden states of all inputs, batch by batch, shape `(trees, nodes, hidden)`."""
        longest = self._context.longest_shared
        sharing = {ids: scored_from[ids] for ids in inputs if longest is None or len(ids) <= longest}
        body = PackedBody(self._context.model)
        for part in plan(sharing, _BATCH_TOKENS):
            with body.after(part.prefix) if part.prefix else nullcontext():
                for batch in part.batches:
                    yield batch, body.hidden(batch.trees)
        for batch in one_by_one([ids for ids in inputs if ids not in sharing], _BATCH_TOKENS):
            ids = torch.zeros(len(batch.trees), max(len(tree.tokens) for tree in batch.trees), dtype=torch.long)
            for row, tree in enumerate(batch.trees):
                ids[row, : len(tree.tokens)] = torch.tensor(tree.tokens)
            # Padding is on the right, where tokens of a causal model do not attend, so no mask is needed.
            yield batch, self._head.hidden(ids.to(self._context.device))

    def _score(self, asked: AskedStates) -> dict[int, Answer]:
        """Request → answer, for all collected continuations."""
        if not asked.count:
            return {}
        log_probs, greedy = self._predictions(asked)
        answers: dict[int, Answer] = {}
        for request, log_prob, is_greedy in zip(asked.owners, log_probs, greedy, strict=True):
            total, so_far = answers.get(request, (0.0, True))
            answers[request] = (total + log_prob, so_far and is_greedy)
        for total, _ in answers.values():
            if total != total or total == float("-inf"):
                raise NumericalError(
                    f"a log-likelihood of {self._name!r} is {total}; the quantized model overflows: "
                    "use more bits, smaller groups, or evaluate in float32"
                )
        self._context.progress.advance(len(answers))
        return answers

    def _predictions(self, asked: AskedStates) -> tuple[list[float], list[bool]]:
        """Log-probability of each target at its state, and whether it is the likeliest token."""
        log_probs = torch.empty(len(asked.targets), dtype=torch.double)
        greedy = torch.empty(len(asked.targets), dtype=torch.bool)
        index, targets = torch.tensor(asked.index), torch.tensor(asked.targets)
        # Blocks of one size: a product of few rows takes as long as one of many, as both read the whole head.
        rows = ceil(asked.count / ceil(asked.count / logit_rows(self._vocab)))
        for start, states in zip(range(0, asked.count, rows), asked.joined().split(rows), strict=True):
            logits = self._head.logits(states, again=True)
            inside = (index >= start) & (index < start + rows)
            at, wanted = (index[inside] - start).to(logits.device), targets[inside].to(logits.device)
            normalizer, top = normalizers(logits)
            log_probs[inside] = (logits[at, wanted] - normalizer[at]).double().cpu()
            greedy[inside] = (top[at] == wanted).cpu()
        return log_probs.tolist(), greedy.tolist()

    @property
    def _vocab(self) -> int:
        return int(self._context.model.config.get_text_config().vocab_size)

    def _special_token(self, token: int | None) -> int:
        if token is None:
            raise ModelError("the tokenizer has neither a BOS nor an EOS token; zero-shot tasks need one of them")
        return token
