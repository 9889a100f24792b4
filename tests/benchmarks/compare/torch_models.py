"""What the two torch sides share: models, adapters, padded batches."""

import torch
import transformers

from tests.benchmarks.compare.cases import PAD, Case
from tests.benchmarks.compare.workload import Pair

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def load(case: Case, folder: str, device: str, *, trained: bool):
    """The model on the device: float32 weights where they are trained, else weights of the case's dtype."""
    whole = trained and not case.rank
    dtype = torch.bfloat16 if case.dtype == "bfloat16" and not whole else torch.float32
    where = {"device_map": {"": "cuda"}} if device == "gpu" else {}
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa", **where)
    return model.train() if trained else model.eval().requires_grad_(False)


def adapters(case: Case):
    """The peft config of the case's adapters: on all linear maps of the layers, without dropout."""
    import peft

    return peft.LoraConfig(r=case.rank, lora_alpha=2 * case.rank, target_modules=list(TARGETS), lora_dropout=0.0, task_type="CAUSAL_LM")


def padded(sequences: list[tuple[list[int], list[int]]], device: str) -> dict[str, torch.Tensor]:
    """{"ids", "mask", "scored"}, [B, T], of (prompt, answer) pairs, filled up on the right."""
    longest = max(len(prompt) + len(answer) for prompt, answer in sequences)

    def rows(of):
        return torch.tensor([(row := of(*one)) + [0] * (longest - len(row)) for one in sequences], device=_device(device))

    return {
        "ids": torch.tensor([p + a + [PAD] * (longest - len(p) - len(a)) for p, a in sequences], device=_device(device)),
        "mask": rows(lambda p, a: [1] * (len(p) + len(a))),
        "scored": rows(lambda p, a: [0] * len(p) + [1] * len(a)),
    }


def sequences(pairs: list[Pair]) -> list[tuple[list[int], list[int]]]:
    """(prompt, answer) of all preferred answers, then of all others."""
    return [(pair.prompt, pair.answers[k]) for k in range(len(pairs[0].answers)) for pair in pairs]


def memory(device: str) -> int:
    """Bytes that were in use at most: by tensors on the device, or on CPU by the process."""
    from tests.benchmarks.compare.link import peak_rss

    return torch.cuda.max_memory_allocated() if device == "gpu" else peak_rss()


def finish(device: str) -> None:
    """Waits until the device has done everything."""
    if device == "gpu":
        torch.cuda.synchronize()


def _device(device):
    return "cuda" if device == "gpu" else "cpu"
