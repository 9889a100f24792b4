"""Where a model comes from: a Hugging Face folder, a name on the hub, or a run ("runs/NAME", "runs/NAME@STEP", "runs/NAME@best").

A folder of `peft` is the model that its adapter makes of the base that it names. The two are merged when they are read, as are a run's
adapters and its base, unless they are read as a model with adapters.
"""

from collections.abc import Callable
import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax

from jaxalign import hub, manifest, paths, sharding
from jaxalign.data.text import render, templates
from jaxalign.data.text import tokenizer as tokenizers
from jaxalign.data.text.renderer import Renderer
from jaxalign.hf import adapters, classifiers
from jaxalign.hf import load as hf_load
from jaxalign.models import merge, quantized
from jaxalign.models import model as models
from jaxalign.models.config import ModelConfig
from jaxalign.models.features import FeatureHeadConfig, head_of
from jaxalign.models.lora import LoraConfig
from jaxalign.training import bases, exports, runs
from jaxalign.training.bases import Base


class Source:
    """A named model: its config, its weights, its tokenizer, and what identifies its weights."""

    def __init__(self, name: str):
        self.name = name
        where, _, step = name.partition("@")
        self._workdir = Path(paths.resolve(where)) if _is_run(Path(paths.resolve(where))) else None
        self._asked = step or None

    @property
    def is_run(self) -> bool:
        """Whether it is a run of ours."""
        return self._workdir is not None

    @property
    def place(self) -> tuple[Path, int]:
        """The workdir of a run and the step of its checkpoint."""
        return self._workdir, self.step

    @functools.cached_property
    def step(self) -> int:
        """The step of a run's checkpoint: the one named, the best, or the newest good one."""
        return runs.chosen(self._workdir, runs.parse_step(self._asked, self._workdir))

    @property
    def with_step(self) -> str:
        """The name that gives the same weights when the run has gone on: RUN@STEP; of a folder its own name."""
        return f"{self.name.partition('@')[0]}@{self.step}" if self.is_run else self.name

    @functools.cached_property
    def folder(self) -> Path:
        """The folder that holds the weights."""
        return runs.checkpoints(self._workdir) / str(self.step) if self.is_run else hub.local(self.name, hub.CHECKPOINT)

    @functools.cached_property
    def base(self) -> "Source | None":
        """What the adapter of a folder of `peft` stands on; None where it is no such folder."""
        return Source(adapters.base(self.folder)) if not self.is_run and adapters.is_folder(self.folder) else None

    def config(self) -> ModelConfig:
        """The config of a language model.

        Raises:
          ValueError: there is no such model, it is not supported, or it is a reward model, which gives no log-probs.
        """
        if self.reward_head is not None:
            raise ValueError(
                f"{self.name} is a reward model: it scores answers and has no table of output tokens to speak or to give log-probs with; "
                "name the language model that it started from."
            )
        return self.decoder()

    @functools.cached_property
    def reward_head(self) -> str | FeatureHeadConfig | None:
        """The kind of its reward head, or what it is on features; None where it has none."""
        if self.is_run:
            return head_of(runs.record(self._workdir, self.step).get("reward_head"))
        if self.base is not None:
            return classifiers.KIND if adapters.has_score(self.folder) else self.base.reward_head
        return hf_load.reward_head(self.folder)

    @functools.cached_property
    def critic(self) -> str | None:
        """The kind of its critic, which runs alone have; None where it has none."""
        return runs.record(self._workdir, self.step).get("critic") if self.is_run else None

    @functools.cached_property
    def critic_decoder(self) -> ModelConfig | None:
        """The config of the decoder that its critic has for itself; None where it has none."""
        own = runs.record(self._workdir, self.step).get("critic_model") if self.is_run else None
        return own and runs.model_config(own)

    def decoder(self) -> ModelConfig:
        """The config of any model, a reward model too; errors are those of `config`."""
        if self.is_run:
            return runs.model_config(runs.record(self._workdir, self.step)["model"])
        if self.base is not None:
            config = self.base.decoder()
            return dataclasses.replace(config, tied=True) if self.reward_head else config
        return hf_load.load_config(self.folder)

    @functools.cached_property
    def lora(self) -> LoraConfig | None:
        """Its adapters, which can be trained on; None where it has none."""
        if self.is_run:
            return runs.lora_of(runs.record(*self.place)["config"]["model"].get("lora"))
        plain = self.base and models.build(self.decoder(), reward_head=self.reward_head)
        return plain and adapters.load_config(self.folder, plain)

    def stands_on(self) -> Base:
        """The base of its adapters."""
        return bases.of_record(runs.record(*self.place)) if self.is_run else Base(self.base.name, seed=0)

    def reward_model(self) -> models.Model:
        """The model with its reward head.

        Raises:
          ValueError: it has none, or one on features.
        """
        if self.reward_head is None:
            what = "a run without a reward head" if self.is_run else f"no {classifiers.SUFFIX} by its config.json"
            raise ValueError(
                f"{self.name} is {what}, so it scores nothing; name a run of an objective with model.reward_head, or a folder of a "
                "sequence classifier with one label."
            )
        if isinstance(self.reward_head, FeatureHeadConfig):
            raise ValueError(
                f"{self.name} scores features of an answer, {', '.join(self.reward_head.names)}, and not text alone; name it as a reward, "
                f"'model:{self.name}', where rows have these columns."
            )
        return models.build(self.decoder(), reward_head=self.reward_head)

    def tokenizer(self) -> str:
        """Where its tokenizer is: a folder, or a name."""
        if self.base is not None and not any((self.folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json")):
            return self.base.tokenizer()
        return runs.tokenizer(self._workdir, self.step) if self.is_run else self.name

    def renderer(self, template: str | None = None) -> Renderer:
        """How text becomes its tokens.

        Args:
          template: as in data.template; None takes a run's own, and of a folder its chat template, or plain text.

        Raises:
          FileNotFoundError, ValueError: it has no tokenizer, or the template does not fit it.
        """
        tokenizer = tokenizers.load(self.tokenizer())
        data = runs.record(*self.place)["config"]["data"] if self.is_run else {}
        if template is None:
            trained = data.get("template", "auto" if tokenizer.chat_template else "plain")
            # A template file lies in the run's own tokenizer too, wherever the file is now.
            template = trained if trained in ("plain", *templates.BUILT_IN) else "auto"
        return render.make(tokenizer, template=template, reasoning=data.get("reasoning", "keep"))

    def check(self, model: models.Model) -> None:
        """Raises ValueError where the weights do not fit, as far as that can be seen without reading them."""
        if self.base is not None:
            exports.check(self.folder)
            exports.check_base(self.folder, self.base.name, self.base.identity())
            adapters.load_config(self.folder, model)
            self.base.check(models.build(self.base.decoder(), reward_head=self.base.reward_head))
        elif not self.is_run:
            exports.check(self.folder)
            hf_load.check(self.folder, model)

    def load(self, model: models.Model) -> dict[str, Any]:
        """The parameters of the decoder, and of the heads that the model has, in their shards on the mesh in scope.

        Of a model with adapters they are those of the source, as they are, on its base; of one without, they are merged.

        Raises:
          ValueError: they are damaged, not finite, or do not fit the model.
        """
        if self.is_run:
            restored = restore_params(*self.place, base_dtype=model.base_dtype if model.lora else None)[:2]
            params = restored[1] if model.lora else merge.merged(*restored)[1]
            params = {name: params[name] for name in model.shapes if name in params}
            return quantized.stored_as(params, model.shapes, model.axes)
        if self.base is not None:
            return self._load_adapted(model)
        exports.check(self.folder)
        return hf_load.load(self.folder, model)

    def _load_adapted(self, model: models.Model) -> dict[str, Any]:
        exports.check_base(self.folder, self.base.name, self.base.identity())
        adapted = model if model.lora else models.build(
            model.config, lora=adapters.load_config(self.folder, model), reward_head=model.reward_head and classifiers.KIND,
            base_dtype="float32" if model.base_dtype == "float32" else "bfloat16",
        )  # fmt: skip
        params = {**load_base(self.stands_on(), adapted), models.LORA: adapters.load(self.folder, adapted)}
        if model.reward_head and adapters.has_score(self.folder):
            params[models.REWARD_HEAD] = adapters.load_score(self.folder, adapted)
        elif model.reward_head:
            params[models.REWARD_HEAD] = self.base.load(self.base.reward_model())[models.REWARD_HEAD]
        return params if model.lora else quantized.stored_as(merge.merged(adapted, params)[1], model.shapes, model.axes)

    def restore(self):
        """(model, params, record) of a run, on the mesh in scope; its heads and adapters are among the params.

        Raises:
          CheckpointError: it is no run, or its checkpoint is damaged.
        """
        if not self.is_run:
            raise runs.CheckpointError(runs.no_run(Path(self.name)))
        return restore_params(self._workdir, self.step)

    def identity(self) -> str | None:
        """A hash of what the weights are, wherever they lie; None where their files are not there any more."""
        if self.is_run:
            return runs.from_first(lambda: runs.SEAL.digest(self.folder))
        if self.base is not None:
            base, files = self.base.identity(), [self.folder / name for name in (adapters.CONFIG, adapters.WEIGHTS)]
            return base and runs.from_first(lambda: manifest.content_hash({"base": base, "adapter": manifest.hash_of(files)}))
        return runs.from_first(lambda: manifest.hash_of(files) if (files := sorted(self.folder.glob("*.safetensors"))) else None)


def _is_run(folder: Path) -> bool:
    if (folder / "config.json").is_file():
        return False
    if runs.checkpoints(folder).is_dir():
        return True
    if folder.is_dir() and any(folder.glob("*/checkpoints")):
        raise ValueError(runs.no_run(folder))
    return False


def restore_params(
    workdir: str | Path, step: int | None = None, *, tell: Callable[[str], None] = runs.to_stderr, base_dtype: str | None = None
):
    """(model, params, record) of a run on the mesh in scope: of a step, or of the newest good one.

    Of a run with adapters the base is read from where the run had it, and stored as `base_dtype`; None: as the run stored it.

    Raises:
      CheckpointError: the folder has no checkpoint, or not that one, or it is damaged.
      ValueError: the base is not there any more, or has other weights now.
    """
    step = runs.chosen(workdir, step, tell=tell)
    run = runs.record(workdir, step)
    model = runs.model_of(run, base_dtype=base_dtype)
    abstract = jax.tree.map(
        lambda s, p: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding.named(p)), model.shapes, models.shardings(model)
    )
    section = run["config"]["model"]
    trained = runs.trained(section, model)
    parts = {"trainable": abstract if trained is None else {key: abstract[key] for key in trained}}
    base = {}
    if model.lora is not None:
        below = bases.of_record(run)
        bases.check(run, identity(below), workdir)
        base = load_base(below, model)
    elif trained is not None:
        parts["frozen"] = {key: tree for key, tree in abstract.items() if key not in trained}
    trees = runs.read(workdir, step, parts)
    return model, {**base, **{key: leaf for name in parts for key, leaf in trees[name].items()}}, run


def identity(base: Base) -> str | None:
    """A hash of what adapters stand on; None for random weights, and where their files are not there any more."""
    return None if base.checkpoint is None else Source(base.checkpoint).identity()


def load_base(base: Base, model: models.Model) -> dict[str, Any]:
    """What adapters and heads stand on, stored as the model stores it."""
    if base.checkpoint is None:
        return models.init(models.build(model.config, base_dtype=model.base_dtype), jax.random.key(base.seed))
    source = Source(base.checkpoint)
    named = models.build(source.decoder(), reward_head=source.reward_head, base_dtype=model.base_dtype)
    return {name: tree for name, tree in models.without_head(source.load(named)).items() if name in model.shapes}
