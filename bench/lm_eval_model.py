"""Our strategies as a model of lm-eval: `--model l2pd` of `lm_eval`, or an object for `simple_evaluate`.

lm-eval asks and grades; what stands between, the decode and its record, is the harness's
as ever. A setting is a run folder under `output`, and a repeated command continues it.
lm-eval releases that look for entry points find the model by themselves; the others are
told of it by importing this module.

    import l2pd_bench.lm_eval_model
    lm_eval.simple_evaluate(model="l2pd", model_args="strategy=threshold:tau=0.8", tasks=["gsm8k"])
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model

from l2pd_bench.errors import BenchError, UsageError
from l2pd_bench.hosts.base import Host
from l2pd_bench.job import Job
from l2pd_bench.plan import Plan
from l2pd_bench.records import read_run
from l2pd_bench.registry import load_host, load_strategy
from l2pd_bench.runner import run_job
from l2pd_bench.schema import UNGRADED
from l2pd_bench.tasks.base import Item, Verdict

GEN_LENGTH = 256  # where neither the user nor the task says; lm-eval's own default


class Asked(NamedTuple):
    """What lm-eval asks of one task under one setting, as a task of ours; lm-eval grades it, not we."""

    name: str
    gen_length: int
    stop: tuple[str, ...]
    prompt_format: str
    contexts: tuple[tuple[str, str], ...]  # doc_id and context
    few_shot: int = -1  # lm-eval's affair: its examples are in the contexts
    grading: str = UNGRADED

    @property
    def data_hash(self) -> str:
        """SHA-256 (hex) of ids and contexts."""
        return hashlib.sha256(json.dumps(self.contexts).encode()).hexdigest()

    def items(self) -> Sequence[Item]:
        """The requests."""
        return [Item(doc_id, context, "") for doc_id, context in self.contexts]

    def grade(self, item: Item, text: str) -> Verdict:
        """Never asked."""
        raise NotImplementedError(self.name)


@register_model("l2pd")
class L2pdLM(LM):  # type: ignore[misc]  # lm-eval has no annotations that mypy could follow
    """A diffusion model with a decoding strategy. In `strategy`, write `;` for `,`: lm-eval splits at commas."""

    def __init__(
        self,
        pretrained: str = "mini",
        strategy: str = "fixed-step",
        cache: str = "none",
        eot: str = "decode",
        gen_length: int | None = None,
        block_length: int = 32,
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
        device: str | None = None,
        dtype: str = "auto",
        revision: str | None = None,
        attn: str | None = None,
        seed: int = 0,
        output: str = "runs",
    ) -> None:
        super().__init__()
        if not str(batch_size).isdecimal():
            raise UsageError(f"batch_size: got '{batch_size}', expected a whole number; every size is another setting")
        self.gen_length = gen_length
        self.plan = Plan(
            strategy=[strategy.replace(";", ",")],
            task=["lm-eval"],
            model=pretrained,
            cache=[cache],
            eot=[eot],
            block_length=block_length,
            batch_size=[int(batch_size)],
            device=_device(device),
            dtype=dtype,
            revision=revision,
            attention=attn,
            seed=seed,
            output=Path(output),
        )
        self.strategy = load_strategy(self.plan.strategy[0])
        if self.strategy[0].uses_reference:
            raise UsageError(
                f"strategy: got '{strategy}', which needs the decode of fixed-step beside it; use 'l2pd-bench run'"
            )
        self.host: Host = load_host(pretrained, **self.plan.host_options)
        self.rendered: set[str] = set()  # the contexts that are chats, spelled out
        self.expects_chat = False
        self.folders: list[Path] = []

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """The answers, in the order of the requests; those of one task and setting are one run."""
        if self.expects_chat and not any(request.args[0] in self.rendered for request in requests):
            raise UsageError("l2pd: got chats that were rendered earlier, expected them anew; leave out cache_requests")
        self.expects_chat = False
        groups: defaultdict[tuple[Any, ...], list[int]] = defaultdict(list)
        for i, request in enumerate(requests):
            is_chat = request.args[0] in self.rendered
            groups[request.task_name, is_chat, *self._setting(request.args[1])].append(i)
        answers: dict[int, str] = {}
        for (task_name, is_chat, stop, gen_length, temperature), places in groups.items():
            names = [f"{task_name}/{requests[i].doc_id}/{requests[i].idx}" for i in places]
            contexts = tuple((name, requests[i].args[0]) for name, i in zip(names, places, strict=True))
            prompt_format = "chat" if is_chat else "plain"
            texts = self._run(Asked(f"lm-eval:{task_name}", gen_length, stop, prompt_format, contexts), temperature)
            for i, name in zip(places, names, strict=True):
                answers[i] = texts[name]
                self.cache_hook.add_partial("generate_until", requests[i].args, answers[i])
        return [answers[i] for i in range(len(requests))]

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> NoReturn:
        """Not there: see the message."""
        raise UsageError(
            "l2pd: got a task that asks for log-likelihoods, expected generate_until tasks only; "
            "a decoding strategy decides how text is generated, and there is none when it is only scored"
        )

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> NoReturn:
        """Not there either."""
        self.loglikelihood(requests)

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The chat as text; a last message of the assistant's is what its answer begins with."""
        text = self.host.render(chat_history)
        self.rendered.add(text)
        return text

    def chat_template(self, chat_template: bool | str = False) -> str:
        """The name of the only template, once lm-eval wants one."""
        if isinstance(chat_template, str):
            raise UsageError(f"chat_template: got '{chat_template}', expected true: a host has one template")
        return self.tokenizer_name if chat_template else ""

    @property
    def tokenizer_name(self) -> str:
        """What lm-eval's request cache is told of the tokenizer; it asks where it is going to render chats."""
        self.expects_chat = True
        return f"{self.host.name}--{self.host.tokenizer_id[:12]}".replace("/", "__")

    def get_model_info(self) -> dict[str, Any]:
        """What lm-eval's results say of us: the folders of our records, and their settings."""
        runs = [run for folder in self.folders if (run := read_run(folder)) is not None]
        return {
            "l2pd": [
                {
                    "folder": str(run.folder),
                    "run_id": run.manifest.run_id,
                    "strategy": run.manifest.strategy.spec,
                    "protocol": run.manifest.protocol,
                }
                for run in runs
            ]
        }

    def _setting(self, gen_kwargs: Mapping[str, Any]) -> tuple[tuple[str, ...], int, float]:
        """Stop strings, canvas length and temperature of a request."""
        from lm_eval.models.utils import normalize_gen_kwargs

        wanted = normalize_gen_kwargs(dict(gen_kwargs), default_max_gen_toks=GEN_LENGTH)
        block = self.plan.block_length
        gen_length = self.gen_length or -(-wanted["max_gen_toks"] // block) * block
        return tuple(wanted["until"]), gen_length, float(wanted["temperature"] if wanted["do_sample"] else 0.0)

    def _run(self, task: Asked, temperature: float) -> dict[str, str]:
        """Decode what is not recorded yet; the texts by doc_id."""
        is_chat = task.prompt_format == "chat"
        encode = self.host.encode_rendered if is_chat else partial(self.host.encode, chat=False)
        prompts = {(task.name, doc_id): encode(context) for doc_id, context in task.contexts}
        plan = replace(self.plan, task=[task.name], temperature=temperature)
        job = Job(self.host, [self.strategy], [task], {task.name: list(task.items())}, prompts, None)
        outcome = run_job(plan, job, command="lm_eval --model l2pd ...")
        if outcome.exit_code:
            raise BenchError(outcome.message)
        (folder,) = outcome.folders
        self.folders.append(folder)
        run = read_run(folder)
        assert run is not None
        if lacking := [sample.doc_id for sample in run.samples if sample.status != "ok"]:
            raise BenchError(
                f"{folder}: got no answer to {len(lacking)} prompts ({outcome.message}); free memory, repeat"
            )
        return {sample.doc_id: sample.text for sample in run.samples}


def _device(name: str | None) -> str:
    """Where to compute. lm-eval's command line says cuda:0 where its user said nothing, also without such a device."""
    import torch

    if name is None:
        return "auto"
    if name.startswith("cuda") and not torch.cuda.is_available():
        logging.getLogger(__name__).warning("l2pd: device %s is not here; the records say which is used", name)
        return "auto"
    return name
