"""The other side "torch": a plain training loop as research code writes it, padded batches, whole logits, scaled dot-product attention."""

import contextlib
from importlib import metadata
import time

from tests.benchmarks.compare import workload
from tests.benchmarks.compare.cases import Case
from tests.benchmarks.compare.link import Clock, Link

BETA = 0.1


def serve(link: Link, asked: dict) -> None:
    """Answers with the losses and times of as many steps as are asked for."""
    started = time.perf_counter()
    import torch

    from tests.benchmarks.compare import torch_models

    case, device = Case(**asked["case"]), asked["device"]
    imported = time.perf_counter()
    steps = workload.read(asked["pairs"])
    loop = Loop(case, asked["folder"], device)
    if case.precomputed:
        loop.precompute(steps)
    seconds = {"imports": imported - started, "weights": time.perf_counter() - imported, "compile": 0.0}
    versions = {name: metadata.version(name) for name in ("torch", "transformers")}
    name = torch.cuda.get_device_name() if device == "gpu" else f"cpu, {torch.get_num_threads()} threads"
    link.say(seconds=seconds, versions=versions, device=name)
    at = 0
    while True:
        count = link.ask()
        clock, done = Clock(), [loop.step(number, steps[number]) for number in range(at, at + count)]
        torch_models.finish(device)
        times, at = clock.read(), at + count
        losses, logps = [float(loss) for loss, _ in done], done[0][1].tolist()
        link.say(**times, losses=losses, logps=logps, memory=torch_models.memory(device))


class Loop:
    """Models, optimizer and the step."""

    def __init__(self, case: Case, folder: str, device: str):
        import torch

        from tests.benchmarks.compare import torch_models

        self.case, self.device, self.torch, self.models = case, device, torch, torch_models
        self.policy = torch_models.load(case, folder, device, trained=True)
        self.reference, self.known = None, {}
        if case.rank:
            import peft

            self.policy = peft.get_peft_model(self.policy, torch_models.adapters(case))
        elif case.method != "sft":
            self.reference = torch_models.load(case, folder, device, trained=False)
        trained = [weight for weight in self.policy.parameters() if weight.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=case.learning_rate, weight_decay=0.0, fused=device == "gpu")
        self.trained = trained

    def precompute(self, steps) -> None:
        """Computes the reference's log-probs of all steps, and lets the reference go."""
        for number, pairs in enumerate(steps):
            self.known[number] = [self._reference(part) for part in self._parts(pairs)]
        self.reference = None

    def step(self, number: int, pairs: list[workload.Pair]):
        """(loss, mean log-probs of the answers by kind) of one optimizer step."""
        torch, loss, shown = self.torch, 0.0, 0.0
        parts = self._parts(pairs)
        tokens = sum(pair.scored for pair in pairs)
        for place, part in enumerate(parts):
            reference = self.known[number][place] if number in self.known else self._reference(part)
            values, logps = self._loss(part, reference)
            one = values.sum() / tokens if self.case.method == "sft" else values.mean() / len(parts)
            one.backward()
            loss, shown = loss + one.detach(), shown + logps / len(parts)
        torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss, shown

    def _parts(self, pairs):
        size = len(pairs) // self.case.peer_parts
        return [pairs[i : i + size] for i in range(0, len(pairs), size)]

    def _loss(self, pairs, reference):
        functional = self.torch.nn.functional
        logps = self._logps(self.policy, pairs)
        shown = logps.detach().reshape(self.case.answers, -1).mean(1)
        if self.case.method == "sft":
            return -logps, shown
        if self.case.method == "dpo":
            ratios = logps - reference[0]
            good, bad = ratios.chunk(2)
            return -functional.logsigmoid(BETA * (good - bad)), shown
        with self.torch.no_grad():
            z0 = (self._logps(self.policy, shifted(pairs)) - reference[1]).mean().clamp(min=0)
        u = BETA * (logps - reference[0] - z0)
        good = self.torch.tensor([i % 2 == 0 for i in range(len(pairs))], device=u.device)
        return 1 - self.torch.sigmoid(self.torch.where(good, u, -u)), shown

    def _reference(self, pairs):
        if self.case.method == "sft":
            return None
        off = self.policy.disable_adapter() if self.case.rank else contextlib.nullcontext()
        model = self.policy if self.case.rank else self.reference
        with self.torch.no_grad(), off:
            asked = (pairs, shifted(pairs)) if self.case.method == "kto" else (pairs,)
            return [self._logps(model, one) for one in asked]

    def _logps(self, model, pairs):
        torch, batch = self.torch, self.models.padded(self.models.sequences(pairs), self.device)
        half = self.case.dtype == "bfloat16"
        with torch.autocast("cuda" if self.device == "gpu" else "cpu", torch.bfloat16, enabled=half):
            logits = model(input_ids=batch["ids"], attention_mask=batch["mask"], use_cache=False).logits
        logps = torch.gather(logits[:, :-1].float().log_softmax(-1), 2, batch["ids"][:, 1:, None]).squeeze(2)
        return (logps * batch["scored"][:, 1:]).sum(-1)


def shifted(pairs: list[workload.Pair]) -> list[workload.Pair]:
    """The prompts, each with the answer of the one before it."""
    return [workload.Pair(pair.prompt, pairs[i - 1].answers) for i, pair in enumerate(pairs)]
