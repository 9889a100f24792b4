"""The other side "trl": its trainers on the same ids, with the fastest settings that it offers for them; it is held between blocks.

Gradient checkpointing is off (its default is on), bfloat16 is autocast over float32 weights where the case is in bfloat16, attention is
scaled dot-product; `padding_free` is switched off by the library itself. Batches come in the order of the pairs.
"""

from importlib import metadata
import tempfile
import time

from tests.benchmarks.compare import workload
from tests.benchmarks.compare.cases import BOS, EOS, PAD, Case
from tests.benchmarks.compare.link import Clock, Link
from tests.benchmarks.compare.ours import labelled
from tests.benchmarks.compare.torch_loop import BETA, shifted


def serve(link: Link, asked: dict) -> None:
    """Trains as many steps as are asked for, and answers with their losses and times."""
    started = time.perf_counter()
    import torch
    import transformers
    import trl

    from tests.benchmarks.compare import torch_models

    case, device = Case(**asked["case"]), asked["device"]
    imported = time.perf_counter()
    steps = workload.read(asked["pairs"])
    trainer, losses = made(case, asked["folder"], device, steps)
    seconds = {"imports": imported - started, "weights": time.perf_counter() - imported, "compile": 0.0}
    name = torch.cuda.get_device_name() if device == "gpu" else f"cpu, {torch.get_num_threads()} threads"
    link.say(seconds=seconds, versions={x: metadata.version(x) for x in ("trl", "torch", "transformers")}, device=name)

    class Gate(transformers.TrainerCallback):
        left, clock, first = 0, None, None

        def on_step_begin(self, *_, **__):
            if not self.left:
                self.left = link.ask()
                self.clock = Clock()
                losses.clear()

        def on_step_end(self, *_, **__):
            self.left -= 1
            if self.left:
                return
            torch_models.finish(device)
            times = self.clock.read()
            means = [float(sum(losses[i : i + case.peer_parts]) / case.peer_parts) for i in range(0, len(losses), case.peer_parts)]
            kept = trainer._metrics["train"]
            names = ("logps/chosen", "logps/rejected") if case.method == "dpo" else ()
            logps = [sum(kept[x][: case.peer_parts]) / case.peer_parts for x in names if kept.get(x)]
            kept.clear()
            link.say(**times, losses=means, logps=logps, memory=torch_models.memory(device))

    trainer.add_callback(Gate())
    trainer.train()
    link.ask()
    raise RuntimeError(f"{trl.__name__} has no further batch")


def made(case: Case, folder: str, device: str, steps):
    """(the trainer of the case, the list to which it adds the loss of every forward pass)."""
    import datasets
    import transformers
    import trl

    from tests.benchmarks.compare import torch_models

    trainer, config = {
        "dpo": (trl.DPOTrainer, trl.DPOConfig),
        "kto": (trl.KTOTrainer, trl.KTOConfig),
        "sft": (trl.SFTTrainer, trl.SFTConfig),
    }[case.method]
    transformers.logging.set_verbosity_error()
    losses: list = []

    class Watched(trainer):
        def _prepare_dataset(self, dataset, *_, **__):
            return dataset  # it holds ids already

        def compute_loss(self, *arguments, **options):
            loss = super().compute_loss(*arguments, **options)
            losses.append((loss[0] if isinstance(loss, tuple) else loss).detach())
            return loss

    size = case.pairs // case.peer_parts
    rows = [row for step in steps for at in range(0, len(step), size) for row in rows_of(case, step[at : at + size])]
    options = {} if case.method == "sft" else {"beta": BETA}
    if case.method == "dpo" and case.precomputed:
        options |= {"precompute_ref_log_probs": True, "precompute_ref_batch_size": size}
    arguments = config(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=size,
        gradient_accumulation_steps=case.peer_parts,
        max_steps=len(steps),
        max_length=None,
        learning_rate=case.learning_rate,
        lr_scheduler_type="constant",
        weight_decay=0.0,
        max_grad_norm=1.0,
        bf16=case.dtype == "bfloat16",
        use_cpu=device == "cpu",
        gradient_checkpointing=False,
        optim="adamw_torch_fused" if device == "gpu" else "adamw_torch",
        report_to="none",
        logging_steps=10**6,
        save_strategy="no",
        train_sampling_strategy="sequential",
        dataloader_pin_memory=device == "gpu",
        disable_tqdm=True,
        log_level="error",
        seed=0,
        **options,
    )
    more = {"peft_config": torch_models.adapters(case)} if case.rank else {}
    if case.method != "sft" and not case.rank and not case.precomputed:
        more["ref_model"] = torch_models.load(case, folder, device, trained=False)
    model = torch_models.load(case, folder, device, trained=True)
    data = datasets.Dataset.from_list(rows)
    return Watched(model=model, args=arguments, train_dataset=data, processing_class=tokenizer(), **more), losses


def rows_of(case: Case, pairs: list[workload.Pair]) -> list[dict]:
    """The rows of the trainer's data set, tokenized, for the pairs of one batch."""
    if case.method == "dpo":
        return [{"prompt_ids": pair.prompt, "chosen_ids": pair.answers[0], "rejected_ids": pair.answers[1]} for pair in pairs]
    if case.method == "sft":
        return [{"input_ids": pair.prompt + pair.answers[0], "labels": [-100] * len(pair.prompt) + pair.answers[0]} for pair in pairs]
    before = shifted(pairs)
    return [
        {"prompt_ids": pair.prompt, "completion_ids": pair.answers[0], "KL_completion_ids": other.answers[0], "label": labelled(i)}
        for i, (pair, other) in enumerate(zip(pairs, before, strict=True))
    ]


def tokenizer():
    """A tokenizer that nothing is tokenized with: the trainers ask it for the id of padding."""
    import tokenizers
    import transformers

    names = {"<pad>": PAD, "<s>": BOS, "</s>": EOS}
    model = tokenizers.Tokenizer(tokenizers.models.WordLevel(names, unk_token="<pad>"))
    return transformers.PreTrainedTokenizerFast(tokenizer_object=model, pad_token="<pad>", bos_token="<s>", eos_token="</s>")
