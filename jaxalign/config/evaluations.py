"""The evaluations that a configuration names in its section eval: answers to prompts, multiple choice."""

from collections.abc import Callable
from functools import partial

from ml_collections import ConfigDict
import numpy as np

from jaxalign import offload
from jaxalign.config import build, judges
from jaxalign.config.prepared import Sets, held_out_sources, to_stderr
from jaxalign.config.rollout_rules import room_of_prompts, source_of_prompts
from jaxalign.config.schema import named_sets
from jaxalign.data.prepared import judgements
from jaxalign.data.raw import multiple_choice as raw_multiple_choice
from jaxalign.data.raw import prompts, sources
from jaxalign.data.raw.counts import Counts
from jaxalign.data.raw.prompts import Asked
from jaxalign.evaluators import multiple_choice
from jaxalign.evaluators import prompts as fixed_prompts
from jaxalign.evaluators.divergence import Divergence
from jaxalign.evaluators.generation import Generation, Judging
from jaxalign.evaluators.measured import Evaluations
from jaxalign.evaluators.multiple_choice import MultipleChoice
from jaxalign.evaluators.speaking import PLAIN, Speaking
from jaxalign.evaluators.voices import Drawing, Voice
from jaxalign.hf import trained
from jaxalign.models import model as models
from jaxalign.sampling import law as laws
from jaxalign.sampling import speaker as speakers
from jaxalign.sampling.speaker import Speaker
from jaxalign.training import forward
from jaxalign.training.sources import Source

MOST_LABELS = 12  # values of eval.by
NO_VALUE = "empty"  # what a row without a value in eval.by is called
REFERENCE, CHOSEN = "reference", "chosen"  # what eval.generate.against may be beside the name of a model


def has_some(cfg: ConfigDict) -> bool:
    """Whether a configuration names any evaluation beside the objective on held-out rows."""
    return any(cfg.eval[name] is not None for name in ("generate", "multiple_choice"))


def check(cfg: ConfigDict, model: models.Model) -> Judging | None:
    """The rewards and the judge of eval.generate, None without it: made before any row of a run is read and prepared.

    Raises:
      ValueError, OSError: eval.generate names what cannot be had.
    """
    spec = cfg.eval.generate
    if spec is None:
        return None
    room_of_prompts("eval.generate.max_new_tokens", spec.max_new_tokens, model.config.max_positions)
    if spec.prompts is not None:
        sources.read(_source_of_prompts(spec.to_dict()))
    if spec.against not in (None, REFERENCE, CHOSEN):
        Source(spec.against).config()
    return judges.judging(spec.to_dict())


def evaluations(
    cfg: ConfigDict,
    model: models.Model,
    sets: Sets,
    *,
    judging: Judging | None,
    tell: Callable[[list[str]], None] = to_stderr,
) -> Evaluations:
    """The evaluations that a configuration names in its section eval. Needs a mesh in scope; nothing is compiled yet.

    Args:
      model: the run's.
      sets: the run's, of which the first held-out one gives the prompts where no others are named.
      judging: what `check` made.
      tell: gets what became of the prompts, as lines of text.

    Raises:
      ValueError: no prompt is left, the rows lack what a reward reads, a judge does not answer, or the other model cannot be had.
    """
    makers = {"generate": partial(_speaking, judging=judging), "multiple_choice": _multiple_choice}
    parts = [make(cfg, model, sets, tell) for name, make in makers.items() if cfg.eval[name] is not None]
    return Evaluations(parts, {} if cfg.eval.by is None else _labels(cfg, sets, tell))


def _labels(cfg, sets, tell) -> dict[str, np.ndarray]:
    """What the rows of every held-out set have in the column eval.by, in the order of the set's rows; NO_VALUE where that is nothing."""
    labels = {}
    for name, source in held_out_sources(cfg).items():
        data, rows = sets.held_out[name], sources.read(sources.given(source))
        records = [rows[number] for number in data.source_rows.tolist()]
        if (lacks := next((record for record in records if cfg.eval.by not in record), None)) is not None:
            raise ValueError(f"eval.by={cfg.eval.by!r}: a row of {rows.name} has no such column, only {', '.join(sorted(lacks))}.")
        texts = _texts_of([record[cfg.eval.by] for record in records], f"eval.by={cfg.eval.by!r}: {rows.name}")
        if without := texts.count(NO_VALUE):
            tell([f"eval.by={cfg.eval.by!r}: {without:,} of {len(texts):,} rows of {rows.name} have no value; they are by/{NO_VALUE}"])
        if len(set(texts)) > MOST_LABELS:
            raise ValueError(
                f"eval.by={cfg.eval.by!r} has {len(set(texts)):,} different values in {rows.name}, more than {MOST_LABELS}; name a column "
                "of few, such as the source of a row."
            )
        labels[name] = np.array([texts[group] if group >= 0 else "" for group in data.plan.ravel().tolist()])
    return labels


def _texts_of(values: list, where: str) -> list[str]:
    """The values as parts of a metric's name.

    Raises:
      ValueError: two values have one name.
    """
    named: dict[str, str] = {}  # part of a name -> the value that it stands for
    texts = []
    for value in values:
        given = "" if value is None or not str(value).strip() else str(value)
        text = given.replace("/", "-") or NO_VALUE
        if (other := named.setdefault(text, given)) != given:
            raise ValueError(f"{where} has the values {other!r} and {given!r}, which are both called {text!r}; change one of them.")
        texts.append(text)
    return texts


def _multiple_choice(cfg, model, sets, tell) -> MultipleChoice:
    encoded, renderer = {}, build.renderer(cfg)
    for name, source in named_sets(cfg.to_dict()["eval"]["multiple_choice"]).items():
        rows, counts = sources.read(sources.given(source)), Counts()
        questions = raw_multiple_choice.read(rows, counts)
        limits = {"most_tokens": model.config.max_positions, "name": rows.name}
        encoded[name] = multiple_choice.encoded(questions, renderer, counts, **limits)
        if counts.rules:
            tell([f"questions of {rows.name}: {counts.lines()[0]}", *counts.lines()[1:]])
    return MultipleChoice(_look(cfg, model), encoded, rows=cfg.batch.rows)


def _look(cfg, model):
    return partial(forward.next_token, model, dtype=build.dtype(cfg), remat="none", attention=cfg.model.attention)


def _speaking(cfg, model, sets, tell, *, judging) -> Speaking:
    spec = cfg.eval.generate.to_dict()
    voice_of = partial(Voice, dtype=build.dtype(cfg))
    speaker = Speaker(build.renderer(cfg), trained.stop_ids(build.renderer(cfg), build.tokenizer_folder(cfg)))
    law = laws.of(spec)
    drawing = Drawing(spec["samples"], law, spec["max_new_tokens"], tuple(spec["stop"]), spec["seed"], spec["places"])
    counts = Counts()
    rows, total = _asked(cfg, spec, sets, counts, chat=speaker.renderer.template is not None)
    room = room_of_prompts("eval.generate.max_new_tokens", spec["max_new_tokens"], model.config.max_positions)
    asked = fixed_prompts.chosen(rows, speaker, counts, limit=spec["limit"], most_tokens=room)
    if counts.rules:
        tell([f"prompts of eval.generate: {counts.lines()[0]}", *counts.lines()[1:]])
    if left := total - counts.read:
        tell([f"prompts of eval.generate: limit={spec['limit']} takes the first {len(asked):,} and leaves the last {left:,} rows out"])
    decoder = models.decoder(model)
    for reward in judging.rewards.values():
        reward.check([one.columns for one in asked])
    if judging.compare:
        judging.compare.check()
    generation = Generation(asked, judging, samples=spec["samples"])
    made = Speaking(generation, voice_of(decoder, speaker, asked, drawing), spec["max_new_tokens"])
    if spec["against"] is not None:
        made.origin = spec["against"]
        made.texts = _texts(cfg, model, spec, asked, made.voice, partial(voice_of, asked=asked, drawing=drawing))
    if spec["kl"]:
        made.start, made.divergence = partial(_start, cfg, model), Divergence(_look(cfg, model), rows=cfg.batch.rows)
        if law != PLAIN:
            made.plain = voice_of(decoder, speaker, asked, Drawing(**{**vars(drawing), "law": PLAIN}))
    return made


def _asked(cfg, spec, sets, counts, *, chat):
    """(the prompts of a source of their own, or of the first held-out set; how many rows these are)."""
    if spec["prompts"] is not None:
        given = _source_of_prompts(spec)
        numbers, format = None, given.get("format")
    else:
        name, source = next(iter(held_out_sources(cfg).items()))
        numbers, format = sets.held_out[name].source_rows.tolist(), sets.held_out[name].meta["format"]
        given = sources.given(source)
    rows, how = sources.read(given), {"format": format, "chat": chat, "scoring": judgements(given)["scoring"]}
    return prompts.read(rows, counts, numbers=numbers, **how), len(rows if numbers is None else numbers)


def _source_of_prompts(spec):
    return sources.given(source_of_prompts(spec))


def _texts(cfg, model, spec, asked: list[Asked], voice: Voice, voice_of):
    """(train state, what its policy says) -> the answers that those of the policy are compared with."""
    if spec["against"] == CHOSEN:
        texts = [[one.answer] * spec["samples"] for one in asked]
        if not any(one.answer for one in asked):
            raise ValueError("eval.generate.against='chosen': no row of the prompts has an answer; name a model, or rows with answers.")
        return lambda *_: texts
    if spec["against"] == REFERENCE:

        def of_start(state, answers):
            if int(state.step) == 0:  # the policy is the start still
                return _text(answers)
            return _text(voice.answers({**(state.frozen or {}), **_start(cfg, model, state)}))

        return of_start
    source = Source(spec["against"])
    other = models.build(source.config())
    source.check(other)
    theirs = voice_of(other, speakers.of_source(source, template=None))
    return lambda *_: _text(theirs.answers(source.load(other)))


def _text(answers):
    return [[answer.text for answer in own] for own in answers]


def held_start(cfg: ConfigDict, state):
    """What is trained, as it was before the first step, where a train state holds it, on the devices; else None."""
    return offload.on_device(state.initial if state.initial is not None else state.reference if cfg.reference.rule == "frozen" else None)


def _start(cfg, model, state):
    """What is trained, as it was before the first step."""
    if (held := held_start(cfg, state)) is not None:
        return held
    try:
        params = build.params(cfg, model)
    except (ValueError, OSError) as error:
        raise ValueError(
            f"eval.generate measures against the model that the run started from, which is not there any more: {error}. Set "
            "eval.generate.kl=False, and another eval.generate.against than 'reference'."
        ) from error
    return {key: params[key] for key in state.trainable}
