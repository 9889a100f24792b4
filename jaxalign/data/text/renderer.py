"""Prompts and responses to token ids: a conversation through a chat template, or plain text with BOS and EOS by rule.

The prompt ends where the template asks for the response, and its ids are those that generation sees; a response is encoded in its left
context. Which part of a conversation is trained is found by rendering it up to each trained turn, and each trained turn ends in exactly
one stop token.
"""

from collections.abc import Sequence
import dataclasses
import functools

from jaxalign.data.raw.counts import RowError
from jaxalign.data.text import faithful, thoughts
from jaxalign.data.text.pieces import Piece, Prompt, Response, Stops
from jaxalign.data.text.templates import Message, Template
from jaxalign.data.text.tokenizer import Tokenizer, any_of


@dataclasses.dataclass(frozen=True)
class Renderer:
    """How text becomes ids. Made by `render.make`, which checks the special tokens once for all rows."""

    tokenizer: Tokenizer
    template: Template | None  # None: plain text
    writes_bos: bool  # every sequence begins with BOS
    stops: Stops
    markers: frozenset[str] = frozenset()  # special tokens that the template writes, which no text may hold
    reasoning: str = "keep"  # see `thoughts`

    @property
    def stop_id(self) -> int:
        """The token at which generation stops."""
        return self.stops.last

    def identity(self) -> dict:
        """What the ids depend on, as plain values."""
        template = None if self.template is None else dataclasses.asdict(self.template)
        stops = dataclasses.asdict(self.stops)
        return {
            "tokenizer": self.tokenizer.content,
            "template": template,
            "bos": self.writes_bos,
            "stops": stops,
            "reasoning": self.reasoning,
        }

    def prompt(self, prompt: str | Sequence[Message], tools: Sequence[dict] = ()) -> Prompt:
        """A prompt, rendered and encoded.

        Raises:
          RowError: the template refuses it or leaves out a text or the tools, or a text holds a marker.
        """
        if self.template is None:
            self._check_plain(prompt, tools)
            ids = self.tokenizer.encode(prompt)
            notes = faithful.typed_tokens([prompt], self.tokenizer) + faithful.unknown(self.tokenizer, ids, prompt)
            return Prompt(None, (), prompt, self._bos() + ids, notes)
        messages = tuple(messages_from(prompt, "user"))
        faithful.check_markers(faithful.texts_of(messages), self._typed[0], bos=self.tokenizer.bos, stops=self._stop_texts)
        messages, notes = self._without_thoughts(messages)
        text = self._asked(messages, tools)
        faithful.check_context(messages, text, template=self.template.name)
        if tools and text == self._asked(messages, ()):
            raise RowError("tools", f"template {self.template.name!r} does not write the tools of the row; use a template with tools.")
        self._check_calls(messages, tools, text)
        notes += faithful.typed_tokens(faithful.texts_of(messages), self.tokenizer)
        notes += faithful.unwritten(messages, text, template=self.template.name)
        ids = self.tokenizer.encode(text)
        return Prompt(messages, tuple(tools), text, ids, notes + faithful.unknown(self.tokenizer, ids, text))

    def response(self, prompt: Prompt, response: str | Sequence[Message], *, train_turns: str) -> Response:
        """A response to a prompt, with what is trained of it; every trained turn ends in exactly one scored stop token.

        `train_turns` is "all" or "last": the assistant turns of the response that are scored, where it has several. A turn of weight 0
        is never scored.

        Raises:
          RowError: the template does not render prefixes to prefixes, it leaves out or changes a text, a stop token is missing or
            stands in a text, or the ids do not decode back to the text.
        """
        if prompt.messages is None:
            return self._plain_response(prompt, response)
        messages = tuple(messages_from(response, "assistant"))
        faithful.check_markers(faithful.texts_of(messages), self._typed[1], bos=self.tokenizer.bos, stops=self._stop_texts)
        pieces, notes = self._pieces(prompt, messages, train_turns)
        notes += faithful.typed_tokens(faithful.texts_of(messages), self.tokenizer)
        before, known = prompt.text, prompt.ids
        ids: list[int] = []
        scored: list[int] = []
        for piece in pieces:
            own = self.tokenizer.encode_after(before, known, piece.text)
            notes += faithful.check_tokens(self.tokenizer, known, own, piece.text)
            scored += [0] * len(own) if piece.end is None else self._mask(own, piece)
            ids += own
            if piece is not pieces[-1]:
                before, known = before + piece.text, known + own
        end = len(scored) - scored[::-1].index(1)
        return Response(ids[:end], scored[:end], notes)  # what a template writes after the last stop token is seen by nobody

    def prompt_ids(self, prompt: str | Sequence[Message], tools: Sequence[dict] = ()) -> list[int]:
        """Ids of a prompt up to where the response begins."""
        return self.prompt(prompt, tools).ids

    def text(self, text: str) -> Response:
        """A text without a prompt, for plain language modelling; its first token is predicted from BOS or EOS."""
        if self.template is not None:
            raise RowError("template", "a text without a prompt is no conversation; use template='plain' with format 'text'.")
        return self._plain_response(Prompt(None, (), "", []), text)

    def _plain_response(self, prompt, response):
        self._check_plain(response, ())
        notes = ()
        if prompt.text:
            (turn,), notes = self._without_thoughts(({"role": "assistant", "content": response},))
            response = turn["content"]
        known = self.tokenizer.encode(prompt.text) if prompt.text else []
        own = self.tokenizer.encode_after(prompt.text, known, response) if known else self.tokenizer.encode(response)
        faithful.check_markers([response], self._typed[1], bos=self.tokenizer.bos, stops=self._stop_texts)
        notes += faithful.typed_tokens([response], self.tokenizer)
        notes += faithful.check_tokens(self.tokenizer, known, own, response)
        ids = [*own, self.stops.last]
        return Response(ids, [1] * len(ids), notes)

    def _check_plain(self, text, tools):
        if not isinstance(text, str):
            raise RowError("template", "template 'plain' takes text, but the row has a list of messages; use a chat template.")
        if tools:
            raise RowError("tools", "template 'plain' has no place for the tools of the row; use a chat template with tools.")
        faithful.check_markers([text], self._typed[0], bos=self.tokenizer.bos, stops=())

    def _pieces(self, prompt, response, train_turns):
        # The text of the response, cut where its trained turns begin.
        weights = [turn.get("weight", 1) for turn in response]
        turns = [i for i, turn in enumerate(response) if turn["role"] == "assistant" and weights[i]]
        if not turns:
            raise RowError("weight", "every answer of the row has weight 0, so there is nothing to train; leave the row out.")
        untrained = [] if train_turns == "all" else [i for i in turns[:-1] if "weight" in response[i]]
        turns = turns if train_turns == "all" else turns[-1:]
        response, notes = self._without_thoughts(response)
        if untrained:
            why = f"answer {untrained[0]} (from 0) has weight 1, but data.train_turns='last' trains the last answer alone"
            notes = (*notes, ("weight_1_not_trained", f"{why}; set 'all' to train every answer that has not weight 0"))
        thought, messages = None, [*prompt.messages, *response]
        if self.reasoning == "train":
            thought, bare = thoughts.split(response[turns[-1]])
            notes = notes if thought else (*notes, ("empty_thought", "an answer without a thought is trained after an empty one"))
            messages[len(prompt.messages) + turns[-1]] = bare
        whole = self._render(messages, prompt.tools, add_generation_prompt=False)
        begin, places = len(prompt.messages), []
        for turn in turns:
            asked = prompt.text if turn == 0 else self._asked(messages[: begin + turn], prompt.tools)
            places.append((turn, asked, self._start(asked, whole, begin + turn)))
        first = places[0][2] if turns[0] == 0 else self._start(prompt.text, whole, begin)
        faithful.check_context(response, whole, template=self.template.name)
        self._check_calls(messages, prompt.tools, whole)
        notes = (*notes, *faithful.unwritten(messages[begin:], whole, template=self.template.name))
        pieces = [Piece(whole[first : places[0][2]], None, ())] if turns[0] else []
        if self.reasoning == "train" and turns[-1] and first < len(prompt.text):
            # The prompt opens a thought, and it is not its answer that is trained with one.
            pieces.insert(0, Piece(thoughts.closed(prompt.text)[len(prompt.text) :], None, ()))
        ends = [place for _, _, place in places[1:]] + [len(whole)]
        for (turn, asked, start), end in zip(places, ends, strict=True):
            is_last = turn == len(response) - 1
            text = whole[start:end]
            if not self.stops.of(is_last=is_last):
                self._no_stop()
            if not is_last and self.reasoning == "keep":
                self._check_unchanged(messages[: begin + turn + 1], prompt.tools, start, text)
            answer = messages[begin + turn]
            thinks = self.reasoning == "train" and turn == turns[-1]
            if thinks and turn and start < len(asked):
                pieces.append(Piece(asked[start:], None, ()))  # the thought that the generation prompt opens
            pieces.append(self._piece(answer, text, asked, (thought or "") if thinks else None, is_last))
            notes += faithful.added(answer, text, self.tokenizer, stops=self._stop_texts, template=self.template.name)
        return pieces, notes

    def _piece(self, turn, text, asked, thought, is_last):
        kept, inside = turn.get("reasoning_content"), turn["content"].strip()
        if not (inside or kept or turn.get("tool_calls")):
            raise RowError("empty_response", "an answer that is to be trained is empty; give it a text or weight 0, or leave the row out.")
        stops = self.stops.of(is_last=is_last)
        if thought is not None:
            text, kept = thoughts.written(asked, thought, text), thought
        way = "train_turns='last' or data.reasoning='strip'" if self.reasoning == "train" else "data.reasoning='train' or 'strip'"
        return Piece(text, faithful.end_of_answer(turn, text, template=self.template.name, thought=kept or None, way=way), stops)

    def _without_thoughts(self, messages):
        if self.reasoning != "strip":
            return messages, ()
        parts = [thoughts.split(turn) if turn["role"] == "assistant" else (None, turn) for turn in messages]
        count = sum(thought is not None for thought, _ in parts)
        notes = (("reasoning_stripped", f"{count} thoughts are left out (data.reasoning='strip')"),) if count else ()
        return tuple(turn for _, turn in parts), notes

    def _asked(self, messages, tools):
        text = self._render(messages, tools, add_generation_prompt=True)
        return thoughts.closed(text) if self.reasoning == "strip" else text

    def _render(self, messages, tools, *, add_generation_prompt):
        thinking = thoughts.SWITCH[self.reasoning]
        return self.template.render(messages, add_generation_prompt=add_generation_prompt, tools=tools, thinking=thinking)

    def _start(self, asked, whole, number):
        if whole.startswith(asked):
            return len(asked)
        bare = thoughts.before_thought(asked)
        if self.reasoning != "keep" and whole.startswith(bare):
            return len(bare)
        same = next((i for i, (a, b) in enumerate(zip(asked, whole, strict=False)) if a != b), min(len(asked), len(whole)))
        advice = "set data.reasoning='train' or 'strip'" if bare != asked and whole.startswith(bare) else "use another template"
        raise RowError(
            "template_prefix",
            f"template {self.template.name!r} asks for turn {number} with {asked[same : same + 30]!r}, but the conversation "
            f"has {whole[same : same + 30]!r} there, so the trained tokens cannot be told apart; {advice}.",
        )

    def _check_unchanged(self, messages, tools, start, piece):
        now = self._render(messages, tools, add_generation_prompt=False)[start:]
        for stop in self._stop_texts:
            now, piece = now.partition(stop)[0], piece.partition(stop)[0]
        if now != piece:
            raise RowError(
                "template_prefix",
                f"template {self.template.name!r} renders the answer {now[:30]!r} as {piece[:30]!r} when more turns follow; use "
                "train_turns='last', data.reasoning='strip', or another template.",
            )

    def _check_calls(self, messages, tools, text):
        # The calls of the context; those that are trained are found in the rendering one by one.
        if any("tool_calls" in turn for turn in messages):
            bare = [{key: value for key, value in turn.items() if key != "tool_calls"} for turn in messages]
            try:
                same = text in (self._asked(bare, tools), self._render(bare, tools, add_generation_prompt=False))
            except RowError:
                return  # a conversation without the calls makes no sense to the template, so it reads them
            if same:
                raise RowError("tool_calls", f"template {self.template.name!r} does not write tool calls; use a template with tools.")

    def _mask(self, ids, piece):
        # Whatever a template writes after its stop token, a line break or the next turn, is not scored.
        skipped = sum(piece.text[: piece.end].count(self.tokenizer.model.id_to_token(stop)) for stop in piece.stops)
        ends = sorted(i for stop in piece.stops for i in _places(ids, stop, skipped + 1))
        if len(ends) <= skipped:
            self._no_stop()
        return [1] * (ends[skipped] + 1) + [0] * (len(ids) - ends[skipped] - 1)

    def _no_stop(self):
        token = self.tokenizer.model.id_to_token(self.stops.last)
        raise RowError("stop_token", f"a trained turn lacks the stop token {token!r}; use train_turns='last', or another template.")

    def _bos(self):
        return [self.tokenizer.bos_id] if self.writes_bos else []

    @functools.cached_property
    def _stop_texts(self):
        stops = {self.stops.last, self.stops.middle, self.stops.call} - {None}
        return tuple(sorted({self.tokenizer.model.id_to_token(stop) for stop in stops} | ({self.tokenizer.eos} - {None})))

    @functools.cached_property
    def _typed(self):
        # What no text may hold: (any text, a trained one). BOS may where it also ends turns (GPT-2, Pythia) and nothing is rendered.
        tokenizer = self.tokenizer
        ends_turns = tokenizer.bos_id in (self.stops.last, tokenizer.eos_id)
        anywhere = self.markers | (set() if tokenizer.bos is None or ends_turns else {tokenizer.bos})
        return tuple(any_of(texts) for texts in (anywhere, anywhere | set(self._stop_texts)))


def _places(ids, token, most):
    # Where a token stands among ids, the first few places.
    place = -1
    for _ in range(min(most, ids.count(token))):
        place = ids.index(token, place + 1)
        yield place


def messages_from(content: str | Sequence[Message], role: str) -> list[Message]:
    """A conversation as a list; text is one turn of `role`."""
    return [{"role": role, "content": content}] if isinstance(content, str) else list(content)
