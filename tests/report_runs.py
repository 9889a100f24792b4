"""Folders of runs as training and evaluation leave them, written by hand, and the elements of a page about runs. Not a test itself."""

from html.parser import HTMLParser
import json

PROMPTS = 40
HOSTILE = "<script>document.title='x'</script><img src=x onerror=alert(1)>\"'&amp;\x00\x1b[31m]]>--></style></svg>"
VOID = {"meta", "br"}


def write(
    folder, *, lines, seed=0, objective="dpo, beta 0.1", reference="frozen", model="base; llama", text="plain", samples=(), answers=None
):
    """A finished run: held-out lines with an error of 0.03 over PROMPTS prompts, a training curve, and a summary.

    Args:
      lines: {"step", NAME: value} each.
      text: stands wherever a user's text does.
      samples: of the summary.
      answers: how the run's own answers were drawn and judged, as `config.describe.answers` makes it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    steps = [{"step": step, "split": "train", "loss": 1 / (step + 1), "speed/tokens_per_s": 900.0 + step} for step in range(10)]
    for line in lines:
        names = [name for name in line if name != "step"]
        steps.append({"split": "eval", **line, "se": dict.fromkeys(names, 0.03), "n": dict.fromkeys(names, PROMPTS)})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in steps))
    rows = {"source": f"{text}.jsonl", "format": "paired", "read": 50, "kept": 47, "rules": [f"dropped 3 by {text}"]}
    rows |= {"prompts": 47, "pairs": 47, "tokens": 1234, "fill": 0.9}
    run = {"start_step": 0, "starts": 1, "seconds": 75.0, "command": f"python -m jaxalign.train --config {text}", "date": "2026-01-02"}
    settings = {"objective": objective, "reference": reference, "model": model, "text": f"template {text}, pack True", "seed": str(seed)}
    settings |= {"answers": answers} if answers else {}
    facts = {"name": folder.name, "settings": settings, "data": {"training": rows, "held out": rows}, "samples": list(samples)}
    (folder / "summary.json").write_text(json.dumps(facts | {"run": run | {"devices": "1 x cpu", "versions": "jax 0"}}))


def evaluate(folder, rewards, *, step=9, name="judge", text="an answer", against=None, prompts=None, se=0.1, settings=None, **options):
    """An evaluation of generated answers beside a run.

    Args:
      rewards: of one answer to each prompt.
      against: (who, rewards) of the answers that they were judged beside.
      prompts: their texts.
      se: the error of every metric.
      settings: how the answers were drawn and judged, as `config.describe.answers` makes it.
      options: of `_numbers`, and metrics as NAME=value of generate/NAME besides the mean reward.
    """
    lines = []
    for i, reward in enumerate(rewards):
        prompt = prompts[i] if prompts else f"prompt {i}"
        line = {"id": i, "sample": 0, "prompt": prompt, "text": text, "tokens": 3, "stop": "token", "rewards": {name: reward}}
        if against:
            other = against[1][i]
            line["against"] = {"text": text, "rewards": {name: other}, "from": against[0]}
            line["verdict"] = 0.5 if reward == other else float(reward > other)
        lines.append(line)
    given = {"win_rate": sum(line["verdict"] for line in lines) / len(lines)} if against else {}
    _numbers(folder, lines, {"reward": sum(rewards) / len(rewards), **given}, se, settings, **{"file": f"step-{step}", **options})


def _numbers(folder, lines, values, se, settings, *, file, time=None, start=None, change=None, **metrics):
    """Writes the files of an evaluation.

    Args:
      file: its name without the ending.
      time: when it ended, as it wrote it.
      start: NAME -> value of generate/NAME before training.
      change: likewise the whole estimate of the change.
    """

    def estimates(values):
        return {f"generate/{name}": {"value": value, "se": se, "n": len(lines)} for name, value in values.items()}

    (folder / "evaluations").mkdir(exist_ok=True)
    whole = {"command": "x", "start": estimates(start or {}), "checkpoint": estimates(values | metrics)}
    whole |= {"change": {f"generate/{name}": one for name, one in (change or {}).items()}}
    whole |= ({"settings": {"answers": settings}} if settings else {}) | ({"time": time} if time else {})
    (folder / f"evaluations/{file}.json").write_text(json.dumps(whole))
    (folder / f"evaluations/{file}.samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


class Elements(HTMLParser):
    """The elements of a page, its visible text, that of its answers, the tips of its charts, and whether all are closed in order."""

    def __init__(self, page):
        super().__init__()
        self.elements, self.open, self.text, self.cards, self.tips = [], [], "", [], []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, name, attributes):
        self.elements.append((name, dict(attributes)))
        self.cards += [""] if "answer" in dict(attributes).get("class", "").split() else []
        self.open += [] if name in VOID else [name]

    def handle_endtag(self, name):
        assert self.open.pop() == name

    def handle_data(self, data):
        self.cards[-1:] = [card + data for card in self.cards[-1:]]
        self.tips += [data] if {"svg", "title"} <= set(self.open) else []
        self.text += data if not {"style", "title"} & set(self.open) else ""

    def having(self, attribute):
        return [attributes[attribute] for _, attributes in self.elements if attribute in attributes]
