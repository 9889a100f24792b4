"""Keys of what a model says: eval.generate and data.rollout. Like `schema`, of which they are a part."""

from jaxalign.config.schema import LARGEST_SEED, LONGEST_ROW, NONE, Field
from jaxalign.hparams import REQUIRED

LAW = {  # how tokens are drawn, see `sampling.law`
    "temperature": Field((float,), 1.0, "logits are divided by it; 0: the likeliest token", least=0),
    "top_k": Field((int, NONE), None, "only the k likeliest tokens; None: all", least=1),
    "top_p": Field((float,), 1.0, "only the likeliest tokens that together have this probability", least=0, most=1),
    "min_p": Field((float, NONE), None, "only tokens with this share of the likeliest one's probability; None: all", least=0, most=1),
}
# eval.generate: answers to fixed prompts, at every evaluation.
GENERATE = {
    "prompts": Field((str, dict, NONE), None, "a file of prompts, or a source like data.eval; None: the prompts of the held-out rows"),
    "limit": Field((int, NONE), 64, "the first so many different prompts; None: all", least=1),
    "samples": Field((int,), 1, "answers to every prompt", least=1, most=4096),
    "max_new_tokens": Field((int,), 128, "an answer ends after so many tokens", least=1, most=LONGEST_ROW),
    **LAW,
    "stop": Field((tuple,), (), "texts that end an answer beside the stop tokens", items=(str,)),
    "seed": Field((int,), 0, "of the random draws; the same at every step", least=0, most=LARGEST_SEED),
    "places": Field((int,), 64, "prompts that are answered at a time", least=1),
    "rewards": Field(
        (dict, NONE),
        None,
        "name -> length, exact_match, gsm8k, regex:PATTERN, FILE.py:NAME, model:NAME, judge:MODEL@URL, or dict(kind=..., ...)",
        items=(str, dict),
    ),
    "against": Field(
        (str, NONE),
        None,
        "whose answers are compared with the model's: reference (the model that the run started from), chosen (the rows' own), a model, or "
        "stage:NAME",
    ),
    "judge": Field(
        (str, dict, NONE), None, "what decides which of two answers is better: one of the rewards, or another one; None: the only reward"
    ),
    "kl": Field((bool,), True, "measure the KL to the model that the run started from, in nats per answer"),
}
# data.rollout: batches of what the policy says; beside these keys the options of its feedback.
ROLLOUT = {
    "prompts": Field((str, dict), REQUIRED, "a file of prompts, or a source like data.eval"),
    "limit": Field((int, NONE), None, "the first so many different prompts; None: all", least=1),
    "samples": Field((int,), REQUIRED, "samples of every prompt (K)", least=1, most=4096),
    "speaker": Field((str,), "policy", "who speaks: the policy, or the teacher that reference.checkpoint names", ("policy", "teacher")),
    "feedback": Field((str,), REQUIRED, "what a batch says of the samples: a function of jaxalign/rollout/feedback.py"),
    "reward": Field(
        (str, dict, NONE),
        None,
        "scores a sample: length, exact_match, gsm8k, regex:PATTERN, FILE.py:NAME, model:NAME, model:stage:NAME, judge:MODEL@URL, a dict",
    ),
    "missing_eos_penalty": Field((float,), 0.0, "is taken off the reward of a sample that does not end by itself", least=0),
    "missing_eos_most": Field((float, NONE), None, "the most that such a sample earns, such as -1.0; None: there is no such limit"),
    "every_steps": Field(
        (int,),
        1,
        "steps from one window of rollouts to the next; the policy of its first step draws it, and the last one whole, also for steps "
        "beyond the end, which a longer run goes on with",
        least=1,
    ),
    "epochs": Field((int,), 1, "steps that train on each batch of a window", least=1),
    "prompts_per_step": Field((int, NONE), None, "prompts per step; None: as many as fit the rows at their longest", least=1),
    "share": Field((float,), 1.0, "of steps that train on rollouts; others take the rows of data.train for that step", least=0, most=1),
    "share_end": Field((float, NONE), None, "share at the end, to which it goes in a line; None: it stays", least=0, most=1),
    "max_new_tokens": Field((int,), 128, "a sample ends after so many tokens", least=1, most=LONGEST_ROW),
    **LAW,
    "stop": Field((tuple,), (), "texts that end a sample beside the stop tokens", items=(str,)),
    "seed": Field((int, NONE), None, "of prompts and draws; None: that of the run", least=0, most=LARGEST_SEED),
    "places": Field((int,), 64, "prompts that are answered at a time", least=1),
    "*": True,
}
