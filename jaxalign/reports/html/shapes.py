"""What files of a run must look like to be shown: shapes of plain values, and whether a value has one."""

from typing import Any

COUNT, NUMBER, TEXT, ANYTHING = "count", "number", "text", "anything"
MAYBE = "number or null"
LARGEST = 1e100  # of numbers; a larger one is damage
ANY = ...  # as a key of a dict: any keys, whose values have that shape where the dict has no shape of their own for them
SET = {"source": TEXT, "format": TEXT, "read": COUNT, "kept": COUNT, "rules": [TEXT], "prompts": COUNT, "pairs": COUNT, "tokens": COUNT}
ESTIMATE = {"value": MAYBE, "se": MAYBE, "n": COUNT}
SPEC = (TEXT, {})  # of a reward or of prompts
ANSWERS = {"prompts": SPEC, "rewards": {ANY: SPEC}, "against": TEXT, "judge": SPEC, ANY: ANYTHING}
SETTINGS = {"answers": (ANSWERS, TEXT), ANY: TEXT}  # older versions wrote a text of how answers were drawn and judged
FACTS = {  # the parts of a summary
    "settings": SETTINGS,
    "data": {ANY: SET},
    "samples": [{"prompt": TEXT, "responses": [{"what": TEXT, "text": TEXT, "before": MAYBE, "after": MAYBE}]}],
    "run": {"seconds": NUMBER, "command": TEXT, "date": TEXT, "versions": TEXT, "devices": TEXT},
}
EVALUATION = {"settings": SETTINGS, "start": {ANY: ESTIMATE}, "checkpoint": {ANY: ESTIMATE}, "change": {ANY: ESTIMATE}}
SAMPLE = {"text": TEXT, "rewards": {ANY: MAYBE}}  # beside its "id" and its "prompt", which may be of any kind
OTHER = {"rewards": {ANY: MAYBE}}  # of the answer that a sample is compared with, beside its text


def fits(value: Any, shape: Any) -> bool:
    """Whether a value read from JSON has a shape: a dict of (at least) these keys, a list of one shape, or one of the words above.

    A tuple is several shapes, of which it has one.
    """
    if isinstance(shape, tuple):
        return any(fits(value, one) for one in shape)
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            return False
        if ANY in shape:
            return all(fits(one, shape.get(key, shape[ANY])) for key, one in value.items())
        return all(key in value and fits(value[key], one) for key, one in shape.items())
    if isinstance(shape, list):
        return isinstance(value, list) and all(fits(one, shape[0]) for one in value)
    if shape == ANYTHING:
        return True
    if shape == TEXT:
        return isinstance(value, str)
    if shape == MAYBE and value is None:
        return True
    number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST
    return number and (shape != COUNT or (isinstance(value, int) and value >= 0))
