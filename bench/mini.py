"""The recipe of the embedded models: training, checkpoints, and the commands that remake them.

`l2pd-bench mini train` remakes what the package ships from nothing but the generators
of the `mini-*` tasks (`mini_data.py`). Two models share one tokenizer: the diffusion
host, trained to fill masks, and a small causal companion (an autoregressive scorer).
What was found to matter for so small a model is said where it is done.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from l2pd_bench.errors import UsageError, unknown
from l2pd_bench.hosts.mini import COMPANION, TOKENIZER, WEIGHTS, MiniTokenizer
from l2pd_bench.hosts.transformer import Transformer
from l2pd_bench.mini_data import STEPS, TASKS, Batches, Generator, Recipe, build_tokenizer, mask_rows
from l2pd_bench.registry import load_task
from l2pd_bench.tasks.base import dump_items


def init_weights(model: Transformer, generator: torch.Generator) -> None:
    """Embedding at 1, matrices at fan-in^-0.5, residual outputs at 0.3 of that.

    With the usual 0.02 everywhere, copying from the prompt is not learned in any time
    we can spend; with this it is learned in a few hundred steps.
    """
    for name, weight in model.named_parameters():
        if weight.dim() == 1:
            continue
        std = 1.0 if name == "embed.weight" else weight.shape[1] ** -0.5
        if name.endswith(("attn_out.weight", "down.weight")):
            std *= 0.3
        with torch.no_grad():
            weight.copy_(torch.randn(weight.shape, generator=generator) * std)


def train(
    recipe: Recipe,
    tasks: Sequence[Generator],
    tokenizer: MiniTokenizer,
    work: Path,
    *,
    device: str = "cpu",
    compile_model: bool = False,
    report: Callable[[str], None] = print,
    log_every: int = 100,
    save_every: int = 500,
) -> Transformer:
    """Train one of the two models, resuming from `work` if it holds a checkpoint.

    Plain mean cross-entropy over masked tokens (not weighted by 1/t), bf16 autocast,
    AdamW. The log (`work/log.jsonl`) holds loss and masked-token accuracy.
    """
    work.mkdir(parents=True, exist_ok=True)
    checkpoint = work / "checkpoint.pt"
    model = Transformer(recipe.config(tokenizer.vocab_size))
    init_weights(model, torch.Generator().manual_seed(recipe.seed))
    model.to(device)
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    groups = [{"params": matrices, "weight_decay": 0.01}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.98), fused=True)
    step = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True, map_location=device)
        if state["recipe"] != json.dumps(asdict(recipe)):
            raise UsageError(
                f"work: the checkpoint in {work} is of another recipe ({state['recipe']}); choose another folder"
            )
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step = state["step"]
        report(f"resumed at step {step}")
    forward = torch.compile(model, dynamic=False) if compile_model else model
    batches = Batches(recipe, tasks, tokenizer)
    mask_id, eot_id = tokenizer.mask, tokenizer.eot
    seen = {"loss": 0.0, "right": 0.0, "masked": 0.0, "tokens": 0.0}
    started = time.perf_counter()
    while step < recipe.steps:
        ids, prompts, answers = batches.at(step)
        loss_weight = _tail_weight(ids.shape[1], prompts, answers)
        if recipe.model == "diffusion":
            generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step)
            suffixes = step >= recipe.suffix_from
            target = mask_rows(prompts, answers, ids.shape[1], generator, suffixes=suffixes)
            inputs, labels = torch.where(target, mask_id, ids), ids
        else:
            inputs, labels = ids, torch.cat([ids[:, 1:], torch.full_like(ids[:, :1], eot_id)], 1)
            target = torch.arange(ids.shape[1]) >= prompts[:, None] - 1
            loss_weight = torch.cat([loss_weight[:, 1:], torch.zeros_like(loss_weight[:, :1])], 1)
        inputs, labels, target = inputs.to(device), labels.to(device), target.to(device)
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate_at(step)
        with torch.autocast(torch.device(device).type, torch.bfloat16):
            logits = forward(inputs)
        logits = logits[target].float()
        weight = loss_weight.to(device)[target]
        loss = (F.cross_entropy(logits, labels[target], reduction="none") * weight).sum() / weight.sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        counted = weight == 1
        seen["loss"] += loss.item()
        seen["right"] += float(((logits.argmax(-1) == labels[target]) & counted).sum())
        seen["masked"] += float(counted.sum())
        seen["tokens"] += ids.numel()
        if step % log_every == 0:
            elapsed = time.perf_counter() - started
            line = {
                "step": step,
                "loss": round(seen["loss"] / log_every, 4),
                "accuracy": round(seen["right"] / seen["masked"], 4),
                "tokens_per_s": round(seen["tokens"] / elapsed),
                "learning_rate": recipe.rate_at(step),
            }
            with (work / "log.jsonl").open("a") as log:
                log.write(json.dumps(line) + "\n")
            left = (recipe.steps - step) * elapsed / log_every
            report(f"{json.dumps(line)}  {left / 60:.0f} min left")
            seen, started = dict.fromkeys(seen, 0.0), time.perf_counter()
        if step % save_every == 0 or step == recipe.steps:
            partial = checkpoint.with_suffix(".part")
            state = {
                "recipe": json.dumps(asdict(recipe)),
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "step": step,
            }
            torch.save(state, partial)
            partial.replace(checkpoint)
    return model


def _tail_weight(length: int, prompts: Tensor, answers: Tensor) -> Tensor:
    """Loss weight (B, T): 1 for the answer and its first EoT, little for the trivial rest of the tail."""
    after = torch.arange(length) - (prompts + answers)[:, None]
    return torch.where(after > 0, 0.05, 1.0)


# ------------------------------------------------------------------ commands


def generators() -> list[Generator]:
    """The tasks the models are trained on; an installed plugin changes nothing."""
    return [task for task in map(load_task, TASKS) if isinstance(task, Generator)]


def make_folder(path: Path) -> Path:
    """The folder, made if it is missing; a UsageError if that cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"folder: '{path}' cannot be made ({error.strerror}); choose another") from error
    return path


def remake(model: str, work: Path, *, steps: int | None, device: str, compile_model: bool) -> Path:
    """Make tokenizer and one model in `work`; returns the weights' path. A finished step is not repeated."""
    if model not in STEPS:
        raise unknown("model", model, STEPS)
    recipe = Recipe(model, STEPS[model] if steps is None else steps)
    if recipe.steps < 1:
        raise UsageError(f"steps: got {steps}, expected at least 1")
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"device: got '{device}', which cannot be used here ({error}); try cpu") from error
    folder = make_folder(work / model)
    tasks = generators()
    tokenizer = build_tokenizer(tasks)
    tokenizer.save(str(work / TOKENIZER))
    trained = train(recipe, tasks, MiniTokenizer(tokenizer), folder, device=device, compile_model=compile_model)
    path = work / (COMPANION if recipe.model == "causal" else WEIGHTS)
    save_model(trained, path, recipe)
    return path


def write_test_sets(folder: Path) -> list[Path]:
    """Write the generators' test sets, the form in which the package ships them."""
    paths = []
    for task in generators():
        path = make_folder(folder) / f"{task.name}.jsonl"
        path.write_text(dump_items(task.make_test_set()), encoding="utf-8")
        paths.append(path)
    return paths


def save_model(model: Transformer, path: Path, recipe: Recipe) -> None:
    """Write the weights as float16 safetensors, shape and recipe in the metadata."""
    weights = {name: w.detach().to("cpu", torch.float16).contiguous() for name, w in model.state_dict().items()}
    metadata = {"config": json.dumps(asdict(model.config)), "recipe": json.dumps(asdict(recipe))}
    save_file(weights, path, metadata)
