"""Every key of a configuration: its types, default, range and meaning. `sections` checks against this table, `keys` shows it."""

from typing import Any, NamedTuple

from jaxalign.data.raw.formats import FEEDBACK, FORMATS
from jaxalign.data.raw.scores import TRANSFORMS
from jaxalign.data.rows.encode import PROMPT_TRUNCATION, RESPONSE_TRUNCATION, TRAIN_TURNS
from jaxalign.data.text.thoughts import REASONING
from jaxalign.hparams import REQUIRED
from jaxalign.models.config import ATTENTIONS, REWARD_HEADS

NONE = type(None)
POLICIES = ("stop", "skip", "roll_back")  # of steps that go wrong
LONGEST_ROW = 2**20  # tokens; arrays of a row are allocated whole
LARGEST_SEED = 2**32 - 1  # a key of jax.random takes 32 bits of it
LARGEST = 2**1000  # whole numbers beyond have no float


class Field(NamedTuple):
    """What the value of a key may be; a number is finite, whatever its range."""

    types: tuple[type, ...]
    default: Any
    help: str
    choices: tuple = ()
    least: float | None = None
    most: float | None = None
    items: tuple[type, ...] = ()  # of the elements of a tuple, and of the values of a dict, whose keys are text; (): any


def units(duration: str) -> tuple[str, ...]:
    """What a duration may be given in: `warmup_steps`, `warmup_epochs`, `warmup_examples`, `warmup_percent` (of the total)."""
    return ("steps", "epochs", "examples") if duration == "total" else ("steps", "epochs", "examples", "percent")


# Name and default of every duration by section. None: it must be given. (): it may be left out.
DURATIONS: dict[str, dict[str, tuple[str, float] | tuple[()] | None]] = {
    "train": {"total": None, "extend": (), "log_every": ("steps", 10), "eval_every": ("percent", 25), "save_every": ("percent", 25)},
    "optimizer": {"warmup": ("percent", 10)},
    "reference": {"every": ()},  # of the rules that move the reference
}


HELP_OF_DURATIONS = {
    "train.total": "length of the run; an epoch goes once through the rows of the training sets, or through what is drawn of them",
    "train.extend": "further steps after train.total, to go on from a finished run with its optimizer state at a constant learning rate",
    "train.log_every": "from one line of metrics to the next",
    "train.eval_every": "from one evaluation to the next; 0: none",
    "train.save_every": "from one checkpoint to the next; 0: at the end only",
    "optimizer.warmup": "linear rise of the learning rate to its peak",
    "reference.every": "from one move of the reference to the next, where the rule moves it",
}
SECTIONS = {
    "seed": "of the data order and of random weights",
    "model": "the model that is trained",
    "data": "rows to train on and rows that are held out, and how text becomes rows",
    "batch": "rows of a step",
    "objective": "the loss and its options",
    "forward": "how a model looks at a batch",
    "reference": "the reference model",
    "optimizer": "update rule, learning rate, clipping",
    "mesh": "how devices are used",
    "train": "length, evaluation, checkpoints",
    "eval": "what is measured beside the loss on held-out rows",
}


def named_sets(source: dict[str, Any]) -> dict[str, dict]:
    """Held-out sources by name: data.eval is one source, which is called "", or a dict of sources."""
    several = any(isinstance(value, dict) for value in source.values()) and not source.keys() & SOURCE.keys()
    return source if several else {"": source}


# One source of rows; data.train may be a tuple of them (a mixture by weight).
SOURCE = {
    "path": Field(
        (str, tuple, NONE),
        None,
        "a .jsonl, .json, .csv, .tsv or .parquet file (.gz too), a glob, package:FILE, a folder saved by datasets, or a tuple of those",
        items=(str,),
    ),
    "hf": Field((str, NONE), None, "a dataset name for datasets.load_dataset; with limit only the first rows are downloaded"),
    "tfds": Field((str, NONE), None, "a TFDS name, prepared as array_record"),
    "data_dir": Field((str, NONE), None, "the folder of TFDS data; None: $TFDS_DATA_DIR or ~/tensorflow_datasets"),
    "config": Field((str, NONE), None, "the dataset's configuration name"),
    "split": Field((str, NONE), None, "a split, also a slice of it like train[:90%]"),
    "format": Field((str, NONE), None, "what a row is; None detects it", (None, *FORMATS)),
    "rename": Field(
        (dict, NONE),
        None,
        "our column name -> the dataset's; TEXT.0 and metadata.score reach into a column; COLUMN -> None leaves it out",
        items=(str, NONE),
    ),
    "limit": Field((int, NONE), None, "use only the first rows", least=1),
    "weight": Field((float,), 1.0, "share in a mixture", least=0),
    "responses": Field((str,), "all", "which responses of a row to keep", ("all", "chosen")),
    "feedback": Field(
        (str, NONE), None, "convert feedback to pairs, labels or scores; None keeps it as it is", (None, *FEEDBACK)
    ),
    "score_range": Field((tuple, NONE), None, "(worst, best) of the scores, mapped to [0, 1]", items=(float,)),
    "score_weights": Field((dict, NONE), None, "attribute -> weight: the score is their weighted mean", items=(float,)),
    "score_transform": Field((str,), "linear", "how a score becomes a reward; sigmoid takes logits", TRANSFORMS),
    "keep_columns": Field(
        (dict, NONE), None, "our name -> the dataset's numbers of responses, kept as columns for the objective", items=(str,)
    ),
}
# One computed column of data.computed; `python -m jaxalign.annotate`, or the run itself, writes it beside the prepared rows.
COLUMN = {
    "kind": Field((str,), REQUIRED, "what the column holds", ("logps", "implicit_reward", "advantage", "score")),
    "model": Field(
        (str,),
        REQUIRED,
        "a Hugging Face folder, package:NAME or stage:NAME; of an advantage: a run of objective value; of a score: a reward model",
    ),
    "reference": Field((str, NONE), None, "of an implicit reward: the model that its model was trained against"),
    "beta": Field((float,), 0.1, "of an implicit reward: the beta that its model was trained with", least=0),
    "rewards": Field((tuple,), ("reward",), "of an advantage: the columns that are summed to the reward", items=(str,)),
}
OPTIONS_OF_KIND = {"logps": (), "implicit_reward": ("reference", "beta"), "advantage": ("rewards",), "score": ()}
SCHEMA: dict[str, Any] = {
    "seed": Field((int,), 0, "seed of the data order and of random weights", least=0, most=LARGEST_SEED),
    "model": {
        "checkpoint": Field((str, NONE), None, "a Hugging Face folder, package:NAME, stage:NAME, or a run (RUN, RUN@best, RUN@STEP)"),
        "preset": Field((str, NONE), None, "a named shape with random weights"),
        "config": Field((dict, NONE), None, "a config.json as a dict, with random weights"),
        "tokenizer": Field((str, NONE), None, "a tokenizer folder or hub name; None: the checkpoint's"),
        "dtype": Field((str,), "auto", "type of the matmuls; auto: bfloat16, float32 on CPU", ("auto", "float32", "bfloat16")),
        "remat": Field(
            (str,),
            "auto",
            "what the backward pass recomputes: nothing, all but matmuls and attention, all but attention, all; auto: as memory allows",
            ("auto", "none", "dots", "attention", "full"),
        ),
        "attention": Field((str,), "auto", "implementation of attention; auto: the one made for the devices", ATTENTIONS),
        "value_head": Field((float, NONE), None, "add a value head that predicts rewards from 0 to this; None: no head", least=0),
        "reward_head": Field(
            (str, dict, NONE),
            None,
            "add a head that scores responses: on the last hidden state, or on columns, dict(features=dict(NAME=dict(...)), hidden=..., "
            "activation=..., members=..., monotone=..., pessimism=...); None: no head",
            (None, *REWARD_HEADS),
        ),
        "critic": Field((str, NONE), None, "values every token on the state before it (PPO); None: no critic", (None, *REWARD_HEADS)),
        "critic_checkpoint": Field((str, NONE), None, "start of the critic's own decoder: a model, reward model or run; None: it has none"),
        "trainable": Field((str,), "all", "what is trained: all parameters, or a head alone", ("all", "value_head", "reward_head")),
        "lora": Field((dict, NONE), None, "dict(rank=..., alpha=..., ...): train low-rank adapters and heads; all other weights rest"),
    },
    "data": {
        "train": Field(
            (dict, tuple, NONE),
            REQUIRED,
            "dict(path=...), dict(hf=...), dict(tfds=...), or a tuple of them with weights; None: data.rollout alone",
        ),
        "rollout": Field((dict, NONE), None, "dict(prompts=..., samples=..., feedback=..., reward=...): train on what the policy says"),
        "eval": Field((dict, NONE), None, "a source of held-out rows, or name -> source for several"),
        "eval_fraction": Field((float,), 0.0, "share of the training rows to hold out instead, by hash of the first question", least=0),
        "row_tokens": Field(
            (int, NONE),
            None,
            "tokens per row (T); None: a multiple of 64 that holds 99 % of the rows whole and, packed, is 97 % full",
            least=2,
            most=LONGEST_ROW,
        ),
        "max_prompt_tokens": Field((int, NONE), None, "longest prompt; None: what the responses leave of the row", least=2),
        "max_response_tokens": Field((int, NONE), None, "longest response; None: an equal share of the row, less 2", least=2),
        "prompt_truncation": Field((str,), "keep_end", "what happens to a longer prompt", PROMPT_TRUNCATION),
        "response_truncation": Field((str,), "drop", "what happens to a longer response", RESPONSE_TRUNCATION),
        "template": Field((str,), "auto", "auto (the tokenizer's), plain, a built-in name, or a .jinja file"),
        "add_tokens": Field((tuple, NONE), None, "special tokens that a base model's tokenizer gains, such as <|im_start|>", items=(str,)),
        "reasoning": Field(
            (str,),
            "keep",
            "thoughts before an answer: keep (as row and template have them), strip (none is trained), or train (before the last answer)",
            REASONING,
        ),
        "train_turns": Field((str,), "last", "which assistant turns are trained", TRAIN_TURNS),
        "computed": Field((dict,), {}, "column name -> dict(kind=..., ...): numbers that a model computes for the data"),
        "sampling": Field(
            (str,), "shuffle", "prompts of an epoch: all, those with a column above 0, or drawn by it", ("shuffle", "positive", "priority")
        ),
        "sampling_column": Field((str,), "advantage", "the column that sampling reads: reward, a kept or a computed one"),
        "pack": Field((bool,), True, "pack several prompts with their responses into a row"),
        "share_prompt": Field((bool,), True, "compute a prompt once for all its responses"),
        "max_groups_per_row": Field((int, NONE), None, "groups per row at most (G); None: as many as fill it", least=1, most=LONGEST_ROW),
        "on_bad_row": Field((str,), "drop", "drop and count rows that break a rule, or stop at the first", ("drop", "error")),
        "processes": Field((int, NONE), None, "processes that tokenize; None: one per core", least=1, most=4096),
        "prepared_dir": Field((str, NONE), None, "where prepared rows are kept; None: $JAXALIGN_CACHE or ~/.cache/jaxalign"),
    },
    "batch": {
        "rows": Field(
            (int,), REQUIRED, "packed rows per step on all devices (R); a row holds as many prompts as fit", least=1, most=LONGEST_ROW
        ),
        "gradient_accumulation_steps": Field((int,), 1, "parts that the rows of a step are split into to save memory", least=1),
    },
    "objective": {"name": Field((str,), REQUIRED, "a file of jaxalign/objectives"), "*": True},
    "forward": {"name": Field((str, NONE), None, "a function of jaxalign/training/forward.py; None: the objective's"), "*": True},
    "reference": {
        "rule": Field((str, NONE), None, "a rule of jaxalign/training/reference.py; None: what the objective needs"),
        "keep_initial": Field((bool,), True, "measure against the first reference too where the rule moves it (one more copy of it)"),
        "*": True,
    },
    "optimizer": {
        "name": Field((str,), "adamw", "a rule of jaxalign/training/optim.py"),
        "learning_rate": Field((float,), REQUIRED, "peak learning rate", least=0),
        "heads_learning_rate": Field(
            (float, NONE), None, "peak of value head, reward head and critic, on the same schedule; None: learning_rate", least=0
        ),
        "schedule": Field((str,), "cosine", "after the warm-up", ("constant", "linear", "cosine")),
        "min_lr_ratio": Field((float,), 0.0, "learning rate at the end, as a share of the peak", least=0, most=1),
        "weight_decay": Field((float,), 0.0, "decoupled, on matrices only", least=0),
        "max_grad_norm": Field((float,), 1.0, "largest global norm of the gradient, which is clipped to it; 0: no clipping", least=0),
        "*": True,
    },
    "mesh": {
        "data": Field((int,), 1, "copies of the parameters, which split the rows; a multiple of the TPU slices", least=-1),
        "fsdp": Field((int,), -1, "shards of parameters and rows; -1: what is left", least=-1),
        "context": Field((int,), 1, "shards of the tokens of each row, and of parameters: for few long rows on many devices", least=-1),
        "tensor": Field((int,), 1, "shards of heads, mlp and vocabulary, and between linear maps of tokens", least=-1),
        "cpu_devices": Field(
            (int, NONE), None, "split the CPU into so many devices, to use its cores; ignored elsewhere", least=1, most=4096
        ),
        "offload": Field(
            (tuple,),
            (),
            "what rests in the memory of the host: 'reference' (its weights come layer by layer), 'optimizer' (its moments come for the "
            "update), or both; slower, by what the link between host and device takes",
            items=(str,),
        ),
    },
    "train": {
        "keep_last": Field((int,), 2, "newest checkpoints to keep", least=1),
        "keep_best": Field((int,), 0, "best checkpoints to keep beside them", least=0),
        "best_metric": Field((str,), "loss", "held-out metric that decides what is best; prefix '-' if more is better"),
        "export": Field((bool,), False, "write a Hugging Face folder WORKDIR/export at the end"),
        "export_dtype": Field((str,), "float32", "type of the weights in it", ("float32", "bfloat16")),
        "extend_learning_rate": Field((float, NONE), None, "constant rate of train.extend_*; None: that of the schedule's end", least=0),
        "max_kl": Field(
            (float, NONE),
            None,
            "stop where the KL of rollouts, of the samples that are trained on (of 'pairs' the best and the worst), is above it: to the "
            "reference, or the first one where it moves, in nats per sample",
            least=0,
        ),
        "on_nan": Field(
            (str,),
            "stop",
            "a step whose loss or gradient is not finite: stop, skip its update, or roll_back to the last good checkpoint and go on with "
            "the batches after it",
            POLICIES,
        ),
        "on_spike": Field((str,), "stop", "a step whose gradient is above spike_grad_norm: as on_nan", POLICIES),
        "max_roll_backs": Field((int,), 3, "how often the run may roll back before it stops", least=1),
        "spike_grad_norm": Field((float, NONE), None, "norm of a gradient before clipping from which on it is a spike; None: any", least=0),
        "stall_minutes": Field((float, NONE), 60.0, "end where no step finishes for so long, compiling left out; None: never", least=0),
        "lost_minutes": Field((float,), 2.0, "end where another process of the run is silent for so long", least=0.02, most=10),
        "mirror": Field((str, NONE), None, "s3://BUCKET/RUN, gs://...: gets a copy of the run, which goes on from it on a new disk"),
        "wandb": Field((bool,), False, "log to Weights & Biases too"),
    },
    "eval": {
        "generate": Field((dict, NONE), None, "dict(rewards=..., against=..., ...): answers to fixed prompts, judged at every evaluation"),
        "by": Field((str, NONE), None, "a column of the held-out rows, such as source: accuracy also for each of its values"),
        "multiple_choice": Field(
            (dict, NONE),
            None,
            "a source of rows with question, choices and answer, or name -> source: is the right choice the likeliest?",
        ),
    },
}
