"""Prompts and responses to token ids: a conversation through a chat template, or plain text with BOS and EOS by rule.

Prompt and response are tokenized apart, at the place where the template asks for the response, so no token spans the boundary and the
prompt's ids are the same at training and at generation. Which tokens are trained is found by rendering prefixes of the conversation.
"""

from collections.abc import Sequence
import dataclasses
import os.path

from jaxalign.data.raw.counts import RowError
from jaxalign.data.text import templates
from jaxalign.data.text.templates import Message, Template
from jaxalign.data.text.tokenizer import Tokenizer

ANSWER = "zq"  # a text that no template writes by itself
PROBE = [{"role": "user", "content": "a"}, {"role": "assistant", "content": ANSWER}]


@dataclasses.dataclass(frozen=True)
class Renderer:
    """How text becomes ids. Made by `make`, which checks the special tokens once for all rows."""

    tokenizer: Tokenizer
    template: Template | None  # None: plain text
    writes_bos: bool  # every sequence begins with BOS
    stop_id: int  # ends every trained turn

    def identity(self) -> dict:
        """What the ids depend on, as plain values."""
        chat = self.template
        template = None if chat is None else [chat.text, chat.bos_token, chat.eos_token, chat.date]
        return {"tokenizer": self.tokenizer.content, "template": template, "bos": self.writes_bos, "stop": self.stop_id}

    def prompt_ids(self, prompt: str | Sequence[Message]) -> list[int]:
        """Ids of a prompt up to where the response begins: what a model is asked to continue."""
        if self.template is None:
            if not isinstance(prompt, str):
                raise RowError("template", "template 'plain' takes text, but the prompt is a list of messages; use a chat template.")
            return self._bos() + self.tokenizer.encode(prompt)
        return self.tokenizer.encode(self.template.render(messages_from(prompt, "user"), add_generation_prompt=True))

    def response_ids(
        self, prompt: str | Sequence[Message], response: str | Sequence[Message], *, train_turns: str
    ) -> tuple[list[int], list[int]]:
        """Ids and scored mask (1 or 0) of a response to a prompt; every trained turn ends in exactly one scored stop token.

        `train_turns` is "all" or "last": the assistant turns of the response that are scored, where it has several.

        Raises:
          RowError: the template does not render prefixes to prefixes, or a stop token is missing or stands in a text.
        """
        if self.template is None:
            if not isinstance(response, str):
                raise RowError("template", "template 'plain' takes text, but the response is a list of messages; use a chat template.")
            self._check_text(response)
            ids = [*self.tokenizer.encode_next(response), self.stop_id]
            return ids, self._mask(ids)
        ids: list[int] = []
        scored: list[int] = []
        for text, trained in self._pieces(messages_from(prompt, "user"), messages_from(response, "assistant"), train_turns):
            piece = self.tokenizer.encode_next(text)
            ids += piece
            scored += self._mask(piece) if trained else [0] * len(piece)
        end = max((i for i, score in enumerate(scored) if score), default=-1) + 1
        return ids[:end], scored[:end]  # what a template writes after the last stop token is seen by nobody

    def _pieces(self, prompt, response, train_turns):
        # The text of the response, cut where its trained turns begin: [(text, whether it begins with a trained turn)].
        messages = [*prompt, *response]
        whole = self.template.render(messages, add_generation_prompt=False)
        turns = [i for i in range(len(prompt), len(messages)) if messages[i]["role"] == "assistant"]
        turns = turns if train_turns == "all" else turns[-1:]
        for turn in turns:
            self._check_text(messages[turn]["content"])
        begin = self._length(prompt, whole)
        starts = [self._length(messages[:turn], whole) for turn in turns]
        untrained = [(whole[begin : starts[0]], False)] if starts[0] > begin else []
        ends = [*starts[1:], len(whole)]
        for turn, start, end in zip(turns[:-1], starts[:-1], ends[:-1], strict=True):
            self._check_unchanged(messages[: turn + 1], start, whole[start:end])
        return untrained + [(whole[start:end], True) for start, end in zip(starts, ends, strict=True)]

    def _length(self, messages, whole):
        text = self.template.render(messages, add_generation_prompt=True)
        if not whole.startswith(text):
            same = next((i for i, (a, b) in enumerate(zip(text, whole, strict=False)) if a != b), min(len(text), len(whole)))
            raise RowError(
                "template_prefix",
                f"template {self.template.name!r} asks for turn {len(messages)} with {text[same : same + 30]!r}, but the conversation "
                f"has {whole[same : same + 30]!r} there, so the trained tokens cannot be told apart; use another template.",
            )
        return len(text)

    def _check_unchanged(self, messages, start, piece):
        stop = self.tokenizer.model.id_to_token(self.stop_id)
        if stop not in piece:
            self._no_stop()
        now, later = (text.partition(stop)[0] for text in (self.template.render(messages, add_generation_prompt=False)[start:], piece))
        if now != later:
            raise RowError(
                "template_prefix",
                f"template {self.template.name!r} renders the answer {now[:30]!r} as {later[:30]!r} when more turns follow; use "
                "train_turns='last' or another template.",
            )

    def _check_text(self, text):
        for token in {self.tokenizer.model.id_to_token(self.stop_id), self.tokenizer.eos} - {None}:
            if token in text:
                raise RowError("stop_token", f"a trained text holds the stop token {token!r}; take it out of the data.")

    def _mask(self, ids):
        # Whatever a template writes after its stop token, a line break or the next turn, is not scored.
        if self.stop_id not in ids:
            self._no_stop()
        stop = ids.index(self.stop_id)
        return [int(i <= stop) for i in range(len(ids))]

    def _no_stop(self):
        token = self.tokenizer.model.id_to_token(self.stop_id)
        raise RowError("stop_token", f"a trained turn lacks the stop token {token!r}; use train_turns='last', or another template.")

    def _bos(self):
        return [self.tokenizer.bos_id] if self.writes_bos else []


def make(tokenizer: Tokenizer, *, template: str, date: str = templates.DATE) -> Renderer:
    """The renderer of a tokenizer with a template: "auto", "plain", a built-in name or the path of a .jinja file.

    Raises:
      ValueError: no chat template, no EOS where one is needed, a template that writes BOS or EOS twice, or none that ends a turn.
    """
    if template == "plain":
        if tokenizer.eos_id is None:
            raise ValueError(
                "the tokenizer has no EOS token, and plain text must end in one; name it as eos_token in tokenizer_config.json, "
                "or use a chat template whose turns end in a token of their own."
            )
        return Renderer(tokenizer, None, tokenizer.writes_bos, tokenizer.eos_id)
    chat = templates.load(
        template, own=tokenizer.chat_template, bos=tokenizer.bos, eos=tokenizer.eos, writes_bos=tokenizer.writes_bos, date=date
    )
    text = chat.render(PROBE, add_generation_prompt=False)
    ids = tokenizer.encode(text)
    writes_bos = tokenizer.bos_id is not None and ids[:1] == [tokenizer.bos_id]
    if writes_bos and ids[1:2] == ids[:1]:
        raise ValueError(f"template {chat.name!r} writes the BOS token {tokenizer.bos!r} twice at the beginning; remove one.")
    if ANSWER not in text:
        raise ValueError(f"template {chat.name!r} does not write the assistant's text; it renders an answer as {text!r}.")
    return Renderer(tokenizer, chat, writes_bos, _stop_token(tokenizer, chat, text.rpartition(ANSWER)[2]))


def _stop_token(tokenizer, chat, tail):
    # `tail` is what the template writes after the last answer. What it also writes after an answer in the middle ends a turn: EOS
    # if it is in there (Command R: <|END_RESPONSE|><|END_OF_TURN_TOKEN|>), else the first token (Phi 3: <|end|>\n<|endoftext|>).
    special = tokenizer.special_ids()
    ends = [token for token in tokenizer.encode_next(tail) if token in special]
    if not ends:
        why = "the tokenizer has no EOS token" if tokenizer.eos_id is None else f"the tokenizer's EOS is {tokenizer.eos!r}"
        raise ValueError(
            f"template {chat.name!r} ends an assistant turn with {tail!r}, in which there is no special token of this tokenizer "
            f"({why}); use a template of this model's family, 'hh' or 'plain', or add the token to the tokenizer."
        )
    if len(ends) > 1 and ends[0] == ends[1] and not tail.replace(tokenizer.model.id_to_token(ends[0]), "").strip():
        raise ValueError(f"template {chat.name!r} ends an assistant turn with {tail!r}: the stop token twice; remove one.")
    try:
        middle = chat.render([*PROBE, PROBE[0]], add_generation_prompt=False).rpartition(ANSWER)[2]
    except RowError:
        return ends[0]
    both = tokenizer.encode_next(os.path.commonprefix([tail, middle]))
    return tokenizer.eos_id if tokenizer.eos_id in both else ends[0]


def messages_from(content: str | Sequence[Message], role: str) -> list[Message]:
    """A conversation as a list; text is one turn of `role`."""
    return [{"role": role, "content": content}] if isinstance(content, str) else list(content)
