"""Names that people bring from other trainers, from earlier versions or from another section, and what they are called here."""

from collections.abc import Collection

from jaxalign.config.schema import DURATIONS, SCHEMA, SOURCE, units
from jaxalign.suggest import TYPO, closest

# What is ours in two places, with words that tell them apart; that of the section where somebody writes it is not what was meant.
LENGTH = ("data.rollout.max_new_tokens (of samples)", "data.max_response_tokens (of rows)")
BETA = ("objective.beta (in the loss)", "data.rollout.beta (in the reward of samples)")
# In whatever section somebody writes them. Names of transformers' TrainingArguments, of TRL, OpenRLHF, verl, axolotl and others.
NAMES: dict[str, str | tuple[str, ...]] = {
    # model
    "attn_implementation": "model.attention",
    "base_model": "model.checkpoint",
    "bf16": "model.dtype",
    "fp16": "model.dtype",
    "gradient_checkpointing": "model.remat",
    "model_name_or_path": "model.checkpoint",
    "name_or_path": "model.checkpoint",
    "pretrained_model_name_or_path": "model.checkpoint",
    "tokenizer_name": "model.tokenizer",
    "tokenizer_name_or_path": "model.tokenizer",
    "torch_dtype": "model.dtype",
    # data
    "chat_template": "data.template",
    "dataset_name": "data.train.hf",
    "dataset_num_proc": "data.processes",
    "dataset_path": "data.train.path",
    "datasets": "data.train",
    "dataset": "data.train",
    "eval_dataset": "data.eval",
    "max_completion_length": LENGTH,
    "max_length": "data.row_tokens",
    "max_prompt_length": "data.max_prompt_tokens",
    "max_response_length": LENGTH,
    "max_seq_length": "data.row_tokens",
    "num_proc": "data.processes",
    "packing": "data.pack",
    "sample_packing": "data.pack",
    "sequence_len": "data.row_tokens",
    "train_dataset": "data.train",
    "truncation_mode": "data.prompt_truncation",
    "val_set_size": "data.eval_fraction",
    # rollouts
    "init_kl_coef": "data.rollout.beta",
    "kl_coef": "data.rollout.beta",
    "lmbda": "data.rollout.share",
    "num_generations": "data.rollout.samples",
    "num_iterations": "data.rollout.epochs",
    "num_ppo_epochs": "data.rollout.epochs",
    "missing_eos_penalty": "data.rollout.missing_eos_penalty",
    "response_length": "data.rollout.max_new_tokens",
    "reward_funcs": "data.rollout.reward",
    "reward_model_path": "data.rollout.reward",
    "scale_rewards": "data.rollout.scale",
    "seq_kd": "data.rollout.speaker='teacher'",
    # batch
    "batch_size": "batch.rows",
    "micro_batch_size": "batch.rows",
    "microbatches": "batch.gradient_accumulation_steps",
    "per_device_eval_batch_size": "batch.rows",
    "per_device_train_batch_size": "batch.rows",
    "train_batch_size": "batch.rows",
    # objective and reference
    "beta": BETA,
    "clip_ratio": "objective.clip_low and objective.clip_high",
    "clip_ratio_c": "objective.dual_clip",
    "clip_ratio_high": "objective.clip_high",
    "clip_ratio_low": "objective.clip_low",
    "cliprange": "objective.clip_low and objective.clip_high",
    "cliprange_value": "objective.value_clip",
    "delta": "objective.dual_clip",
    "desirable_weight": "objective.desirable_weight",
    "eps_clip": "objective.clip_low and objective.clip_high",
    "epsilon": "objective.clip_low and objective.clip_high",
    "epsilon_high": "objective.clip_high",
    "importance_sampling_level": "objective.ratio",
    "kl_loss_coef": "objective.beta",
    "label_smoothing": "objective.label_smoothing",
    "loss_type": "objective.name",
    "precompute_ref_log_probs": "reference.rule='precomputed'",
    "ref_model_mixup_alpha": "reference.alpha",
    "ref_model_sync_steps": "reference.every_steps",
    "simpo_gamma": "objective.gamma",
    "sync_ref_model": "reference.rule='soft'",
    "undesirable_weight": "objective.undesirable_weight",
    "vf_coef": "objective.value_coef",
    # optimizer
    "adam_beta1": "optimizer.b1",
    "adam_beta2": "optimizer.b2",
    "adam_epsilon": "optimizer.eps",
    "beta1": "optimizer.b1",
    "beta2": "optimizer.b2",
    "betas": "optimizer.b1 and optimizer.b2",
    "clip_norm": "optimizer.max_grad_norm",
    "critic_learning_rate": "optimizer.heads_learning_rate",
    "critic_lr": "optimizer.heads_learning_rate",
    "gradient_clipping": "optimizer.max_grad_norm",
    "lr": "optimizer.learning_rate",
    "lr_scheduler": "optimizer.schedule",
    "lr_scheduler_type": "optimizer.schedule",
    "optim": "optimizer.name",
    "warmup_ratio": "optimizer.warmup_percent",
    # train
    "epochs": "train.total_epochs",
    "eval_steps": "train.eval_every_steps",
    "eval_strategy": "train.eval_every_steps",
    "evaluation_strategy": "train.eval_every_steps",
    "load_best_model_at_end": "train.keep_best",
    "logging_steps": "train.log_every_steps",
    "max_steps": "train.total_steps",
    "metric_for_best_model": "train.best_metric",
    "num_epochs": "train.total_epochs",
    "num_train_epochs": "train.total_epochs",
    "output_dir": "--workdir",
    "report_to": "train.wandb",
    "resume_from_checkpoint": "--workdir",
    "save_steps": "train.save_every_steps",
    "save_strategy": "train.save_every_steps",
    "save_total_limit": "train.keep_last",
    "data_seed": "seed",
}
# In one section alone; SOURCE stands for every source of data.train and data.eval.
OF_SECTION = {
    "batch.size": "batch.rows",
    "data.columns": "data.computed",
    "data.rollout.max_completion_length": "data.rollout.max_new_tokens",
    "data.rollout.max_response_length": "data.rollout.max_new_tokens",
    "data.rollout.max_response_tokens": "data.rollout.max_new_tokens",
    "data.rollout.max_tokens": "data.rollout.max_new_tokens",
    "eval.generate.max_completion_length": "eval.generate.max_new_tokens",
    "eval.generate.num_generations": "eval.generate.samples",
    "eval.generate.response_length": "eval.generate.max_new_tokens",
    "eval.path": "data.eval",
    "eval.hf": "data.eval",
    "eval.tfds": "data.eval",
    "model.path": "model.checkpoint",
    "model.train": "model.trainable",
    "objective.beta": "objective.beta",  # of an objective without one, which the list of its options says
    "optimizer.beta": "optimizer.b1",
    "optimizer.epsilon": "optimizer.eps",
    "optimizer.final_fraction": "optimizer.min_lr_ratio",
    "reference.model": "model.checkpoint",
    "train.steps": "train.total_steps",
    "SOURCE.columns": "SOURCE.rename",
    "SOURCE.response_columns": "SOURCE.keep_columns",
    "SOURCE.name": "SOURCE.config",
    "SOURCE.file": "SOURCE.path",
}
# What there is no such key for, and what there is.
NEAREST = {
    "mask_truncated_completions": "a sample without an end is trained, and data.rollout.missing_eos_penalty lowers its reward",
    "stop_token": "a sample ends where the model ends its turn, or at a text of data.rollout.stop",
}


def _own() -> dict[str, str]:
    """Every key of ours that stands in one section only -> its whole name."""
    pairs = [(key, f"{section}.{key}") for section, keys in SCHEMA.items() if isinstance(keys, dict) for key in keys if key != "*"]
    pairs += [(f"{name}_{unit}", f"{at}.{name}_{unit}") for at, names in DURATIONS.items() for name in names for unit in units(name)]
    pairs += [(key, f"data.train.{key}") for key in SOURCE] + [(section, section) for section in SCHEMA]
    keys = [key for key, _ in pairs]
    return {key: whole for key, whole in pairs if keys.count(key) == 1}


OWN = _own()


def hint(where: str, section: str, key: str, known: Collection[str]) -> str:
    """The sentence that leads from `key`, written below `where` ("data.eval."), to ours; "" where nothing is known of it.

    The other arguments are those of `called_here`.
    """
    if other := called_here(section, key, known):
        own = other.removeprefix(f"{section}.")
        return f"{where}{key} is called {other if own == other else where + own} here."
    return f"{where}{key} has no counterpart here: {NEAREST[key]}." if key in NEAREST else ""


def called_here(section: str, key: str, known: Collection[str]) -> str:
    """The whole name here of what somebody calls `key` in a section; "" where nothing is known of it.

    Args:
      section: "optimizer"; "SOURCE" for a source of data.train or data.eval, "" beside the sections.
      key: no key of that section.
      known: the keys of that section; one that differs by a letter was meant rather than one of another section.
    """
    whole = f"{section}.{key}" if section else key
    name = OF_SECTION.get(whole) or NAMES.get(key) or ("" if closest(key, known, least=TYPO) else OWN.get(key, ""))
    names = [name] if isinstance(name, str) else name
    if section == "SOURCE":
        names = [one.replace("data.train.", "SOURCE.") for one in names]
    return " or ".join(one for one in names if one.partition(" (")[0] != whole)
